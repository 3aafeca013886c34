"""The frames that two agents exchange: one byte of type, four bytes of length (big-endian), payload.

A length is checked against its type's bound before anything of the payload is read or held.
"""

import asyncio
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from kubeferry.agent.transfer.errors import TransferError
from kubeferry.api import reasons
from kubeferry.api.model import Digest, Int, Uid, dump, load, model
from kubeferry.api.task import TaskError

T = TypeVar("T")

DATA_LIMIT = 1 << 20
"""Bytes of a file that one frame carries."""
JSON_LIMIT = 64 << 10
"""Bytes of a message."""
FILES_LIMIT = 18
"""Files of a VM: kernel, initrd and 16 disks."""
SIZE_LIMIT = (1 << 63) - 1
"""The largest size that a file can have (off_t)."""

_HEAD = struct.Struct(">BI")
_PLACE = struct.Struct(">IQ")
HEAD_LENGTH = _HEAD.size


class FrameType(IntEnum):
    """What a frame carries."""

    MESSAGE = 1
    """A request or an answer, as JSON."""
    DATA = 2
    """Bytes of a file."""
    END = 3
    """All data was sent; the digests, as JSON."""
    ALIVE = 4
    """Nothing: who sends it is at work."""


_LIMITS = {
    FrameType.MESSAGE: JSON_LIMIT,
    FrameType.DATA: DATA_LIMIT + _PLACE.size,
    FrameType.END: JSON_LIMIT,
    FrameType.ALIVE: 0,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    type: FrameType
    payload: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """A stretch of a file."""

    index: int
    """Place of the file in the announcement."""
    offset: int
    content: memoryview


@model
class Request:
    """Which copy is meant."""

    uid: Uid
    epoch: Annotated[Int, Field(ge=1)]
    epoch_id: Uid


@model
class FileHeader:
    """A file that is to come."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    size: Annotated[Int, Field(ge=0, le=SIZE_LIMIT)]
    """Bytes, holes included."""
    allocated: Annotated[Int, Field(ge=0, le=SIZE_LIMIT)]
    """Bytes that it occupies at the source."""


@model
class Announcement:
    """All files of a copy."""

    request: Request
    files: Annotated[tuple[FileHeader, ...], Field(min_length=1, max_length=FILES_LIMIT)]


@model
class Digests:
    """What the sender has read, by name of the file."""

    files: Annotated[dict[str, Digest], Field(max_length=FILES_LIMIT)]


class AnswerState(StrEnum):
    """How a request ended, or that it may go on."""

    MADE = "Made"
    """The directory is there."""
    READY = "Ready"
    """The data may come."""
    VERIFIED = "Verified"
    """The copy is whole, was read back and found the same, and is journaled."""
    REFUSED = "Refused"


@model
class Answer:
    """What the receiver says."""

    state: AnswerState
    digest: Digest | None = None
    """Of all files together, as read back; absent where the copy was whole before."""
    error: TaskError | None = None
    """Why it was refused."""


def frame(kind: FrameType, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return _HEAD.pack(kind, len(payload)) + payload


def message(value: object, kind: FrameType = FrameType.MESSAGE) -> bytes:
    """The bytes of a frame that carries a model."""
    return frame(kind, json.dumps(dump(value)).encode())


def data(index: int, offset: int, content: bytes | memoryview) -> bytes:
    """The bytes of a frame that carries a stretch of a file."""
    return b"".join((_HEAD.pack(FrameType.DATA, _PLACE.size + len(content)), _PLACE.pack(index, offset), content))


def read_frame(read: Callable[[int], bytes]) -> Frame:
    """The next frame.

    Args:
        read: gives exactly so many bytes, or raises.

    Raises:
        TransferError: `TransferBroken`: what came is no frame.
    """
    kind, length = _checked(read(HEAD_LENGTH))
    return Frame(kind, read(length))


async def next_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame.

    Raises:
        TransferError: `TransferBroken`: what came is no frame, or the stream ended.
    """
    try:
        kind, length = _checked(await reader.readexactly(HEAD_LENGTH))
        return Frame(kind, await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        raise broken("the other agent ended the stream, a frame was expected; see its log") from error
    except ConnectionError as error:
        raise broken(f"the stream broke: {error}") from error


def parse(kind: type[T], got: Frame, expected: FrameType = FrameType.MESSAGE) -> T:
    """The model that a frame carries.

    Raises:
        TransferError: `TransferBroken`: the frame is of another type, or the model refuses what it holds.
    """
    if got.type != expected:
        raise broken(f"a frame of type {got.type.name} came, {expected.name} was expected; see that both agents are of one version")
    try:
        return load(kind, got.payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise broken(f"what came is no {kind.__name__}: {where}: {first['msg']}; see that both agents are of one version") from error


def parse_data(got: Frame) -> Data:
    """The stretch of a file that a DATA frame carries.

    Raises:
        TransferError: `TransferBroken`: it is too short to say where.
    """
    if len(got.payload) < _PLACE.size:
        raise broken(f"a frame of data has {len(got.payload)} bytes, at least {_PLACE.size} were expected")
    index, offset = _PLACE.unpack_from(got.payload)
    return Data(index, offset, memoryview(got.payload)[_PLACE.size :])


def broken(seen: str) -> TransferError:
    """What is raised when the stream is not what it should be."""
    return TransferError(reasons.TRANSFER_BROKEN, seen, retryable=True)


def _checked(head: bytes) -> tuple[FrameType, int]:
    number, length = _HEAD.unpack(head)
    try:
        kind = FrameType(number)
    except ValueError:
        raise broken(f"a frame of type {number} came, which none is; see that both agents are of one version") from None
    if length > _LIMITS[kind]:
        raise broken(f"a frame of type {kind.name} tells of {length} bytes, at most {_LIMITS[kind]} were expected")
    return kind, length
