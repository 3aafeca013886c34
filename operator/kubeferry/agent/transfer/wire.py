"""The frames that two agents exchange: one byte of type, four bytes of length (big-endian), payload.

Requests and answers go over SSH, what they are about over TLS. A length is checked against its type's bound before anything of
the payload is read or held.
"""

import asyncio
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from kubeferry.agent.storage.probe import Probe
from kubeferry.agent.transfer.digest import CHUNK
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.api import reasons
from kubeferry.api.model import Digest, Int, Uid, dump, load, model
from kubeferry.api.task import TaskError

T = TypeVar("T")

JSON_LIMIT = 64 << 10
"""Bytes of a message."""
FILES_LIMIT = 18
"""Files of a VM: kernel, initrd and 16 disks."""
SIZE_LIMIT = (1 << 63) - 1
"""The largest size that a file can have (off_t)."""

ROUNDS = 2
"""Of a copy: what the receiver has read back as something else is sent again, once."""
ALIVE_EVERY = 16
"""Chunks (64 MiB) that are only read between two signs of life."""
ALIVE_SECONDS = 15.0
"""Between two signs of life of a receiver that has not answered yet."""
ALIVE_TIMES = 4
"""Of those in all: after them a file system that hangs is taken for one, and the sender gives up; a VM is off meanwhile."""

HASH_LENGTH = 32
"""Bytes of a chunk's BLAKE3."""
STRETCHES_LIMIT = CHUNK // 512
"""Stretches of data in a chunk: no file system has smaller blocks."""
KNOWN_LIMIT = 16384
"""Chunks of which one frame tells what the receiver has."""

_HEAD = struct.Struct(">BI")
_PLACE = struct.Struct(">II32sI")
_STRETCH = struct.Struct(">II")
_FILE = struct.Struct(">I")
_KNOWN = struct.Struct(">I32s")
_RANGE = struct.Struct(">III")
HEAD_LENGTH = _HEAD.size


class FrameType(IntEnum):
    """What a frame carries."""

    MESSAGE = 1
    """A request or an answer, as JSON."""
    CHUNK = 2
    """A chunk of a file that holds data."""
    END = 3
    """All that the receiver lacks was sent; the digests, as JSON."""
    ALIVE = 4
    """Nothing: who sends it is at work."""
    KNOWN = 5
    """Chunks of a file that the receiver has, and their hashes."""
    GO = 6
    """Nothing: the sender may go on."""
    ZEROS = 7
    """A range of chunks that read as zeros."""


_LIMITS = {
    FrameType.MESSAGE: JSON_LIMIT,
    FrameType.CHUNK: _PLACE.size + STRETCHES_LIMIT * _STRETCH.size + CHUNK,
    FrameType.END: JSON_LIMIT,
    FrameType.ALIVE: 0,
    FrameType.KNOWN: _FILE.size + KNOWN_LIMIT * _KNOWN.size,
    FrameType.GO: 0,
    FrameType.ZEROS: _RANGE.size,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    type: FrameType
    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkData:
    """A chunk on its way."""

    file: int
    """Place of the file in the announcement."""
    index: int
    hash: bytes
    """BLAKE3 of all of the chunk, what is not in a stretch taken for zeros."""
    stretches: tuple[tuple[int, memoryview], ...]
    """Each stretch of data in it: where in the chunk it begins, and what it holds. In order, none in another."""


@dataclass(frozen=True, slots=True)
class Zeros:
    """A range of chunks that read as zeros."""

    file: int
    start: int
    """Index of the first."""
    end: int
    """Index behind the last."""


Certificate = Annotated[str, Field(max_length=4096, pattern=r"^[ -~\r\n]+$")]
"""An X.509 certificate of one session, in PEM (RFC 7468)."""
Token = Annotated[str, Field(min_length=32, max_length=64)]


LogName = Annotated[str, Field(max_length=512)]


@model
class Request:
    """Which copy is meant."""

    uid: Uid
    epoch: Annotated[Int, Field(ge=1)]
    epoch_id: Uid
    vm: LogName = ""
    """NAMESPACE/NAME, as the source knows it; so is the Migration's. For the target's log alone."""
    migration: LogName = ""


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
    certificate: Certificate
    """The sender's, for the data."""


@model
class Digests:
    """What the sender has read, by name of the file."""

    files: Annotated[dict[str, Digest], Field(max_length=FILES_LIMIT)]


@model
class DataPort:
    """Where the data of one session may come."""

    port: Annotated[Int, Field(ge=1, le=65535)]
    token: Token
    """Taken once, and only for this session."""
    certificate: Certificate
    """The receiver's."""


@model
class Opening:
    """What a sender says first on a data connection."""

    token: Token


@model
class ProbeRequest:
    """What a source asks before anything is sent."""

    request: Request
    probe: Probe
    """What it has left in its instances path."""
    certificate: Certificate
    """Its own, for a connection to the data port."""


@model
class Probed:
    """What the target saw."""

    seen: bool
    """Whether what the source has left is there, too."""
    probe: Probe
    """What it has left in its own instances path, until the source has ended the line."""
    data: DataPort
    """Where the source may see whether data can come."""


class AnswerState(StrEnum):
    """How a request ended, or that it may go on."""

    PROBED = "Probed"
    """The target has looked."""
    MADE = "Made"
    """The directory is there."""
    READY = "Ready"
    """The data may come."""
    SAME = "Same"
    """What was read back is what was sent."""
    DIFFERS = "Differs"
    """What was read back is something else: what differs is to be sent again."""
    VERIFIED = "Verified"
    """The copy is whole, was read back and found the same, and is journaled."""
    REFUSED = "Refused"


@model
class Answer:
    """What the receiver says."""

    state: AnswerState
    probed: Probed | None = None
    data: DataPort | None = None
    """Where the data may come."""
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


def chunk_frame(file: int, index: int, digest: bytes, content: bytes, extents: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
    """The bytes of a frame that carries a chunk, in pieces.

    Args:
        file: place of the file in the announcement.
        index: of the chunk.
        digest: BLAKE3 of its content.
        content: all of it.
        extents: start and end, in the chunk, of each stretch of data in it.
    """
    view = memoryview(content)
    places = b"".join(_STRETCH.pack(start, end - start) for start, end in extents)
    head = _PLACE.pack(file, index, digest, len(extents)) + places
    yield memoryview(_HEAD.pack(FrameType.CHUNK, len(head) + sum(end - start for start, end in extents)) + head)
    for start, end in extents:
        yield view[start:end]


def known_frames(file: int, hashes: Mapping[int, bytes]) -> Iterator[bytes]:
    """The bytes of the frames that tell which chunks of a file the receiver has."""
    entries = iter(hashes.items())
    while batch := list(itertools.islice(entries, KNOWN_LIMIT)):
        yield frame(FrameType.KNOWN, _FILE.pack(file) + b"".join(_KNOWN.pack(index, digest) for index, digest in batch))


def zeros_frame(file: int, start: int, end: int) -> bytes:
    """The bytes of a frame that tells of a range of chunks which read as zeros."""
    return frame(FrameType.ZEROS, _RANGE.pack(file, start, end))


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


def parse_chunk(got: Frame) -> ChunkData:
    """The chunk that a CHUNK frame carries.

    Raises:
        TransferError: `TransferBroken`: its stretches are not in order, lie outside of any chunk, or are not what the frame holds.
    """
    payload = memoryview(got.payload)
    if len(payload) < _PLACE.size:
        raise broken(f"a chunk of {len(payload)} bytes came, at least {_PLACE.size} were expected")
    file, index, digest, count = _PLACE.unpack_from(payload)
    at = _PLACE.size + count * _STRETCH.size
    if len(payload) < at:
        raise broken(f"a chunk of {len(payload)} bytes came that tells of {count} stretches")
    stretches = []
    before = 0
    for start, length in _STRETCH.iter_unpack(payload[_PLACE.size : at]):
        if start < before or start + length > CHUNK:
            raise broken(f"a stretch of {length} bytes at {start} of chunk {index} came; it was expected behind {before}, below {CHUNK}")
        stretches.append((start, payload[at : at + length]))
        before, at = start + length, at + length
    if at != len(payload):
        raise broken(f"a chunk of {len(payload)} bytes came, its stretches tell of {at}")
    return ChunkData(file, index, digest, tuple(stretches))


def parse_known(got: Frame) -> tuple[int, Mapping[int, bytes]]:
    """Place of the file, and the chunks of it that the receiver has, as a KNOWN frame tells.

    Raises:
        TransferError: `TransferBroken`: it has no whole number of entries.
    """
    entries = got.payload[_FILE.size :]
    if len(got.payload) < _FILE.size or len(entries) % _KNOWN.size:
        raise broken(f"a frame of {len(got.payload)} bytes tells of known chunks, which is no whole number of them")
    (file,) = _FILE.unpack_from(got.payload)
    return file, dict(_KNOWN.iter_unpack(entries))


def parse_zeros(got: Frame) -> Zeros:
    """The range that a ZEROS frame tells of.

    Raises:
        TransferError: `TransferBroken`: it is none.
    """
    if len(got.payload) != _RANGE.size:
        raise broken(f"a range of zeros of {len(got.payload)} bytes came, {_RANGE.size} were expected")
    return Zeros(*_RANGE.unpack(got.payload))


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
