import asyncio
import json
import struct
from typing import Any

import pytest
from sshd import REQUEST

from kubeferry.agent.transfer import wire
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.wire import Announcement, Answer, AnswerState, Digests, FileHeader, Frame, FrameType, Request
from kubeferry.api import reasons
from kubeferry.api.task import TaskError


class Bytes:
    """A stream that ends, and tells how much of it was asked for at most."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.most = 0

    def read(self, count: int) -> bytes:
        self.most = max(self.most, count)
        taken, self.content = self.content[:count], self.content[count:]
        return taken


async def both_ends(content: bytes) -> list[Frame]:
    """The first frame as the sender reads it, and as the receiver does."""
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    return [wire.read_frame(Bytes(content).read), await wire.next_frame(reader)]


ANNOUNCEMENT = Announcement(request=REQUEST, files=(FileHeader(name="root.raw", size=1 << 40, allocated=4096),))
MESSAGES = [
    REQUEST,
    ANNOUNCEMENT,
    Answer(state=AnswerState.VERIFIED, digest="0" * 64),
    Answer(state=AnswerState.REFUSED, error=TaskError(reason="NotIncoming", message="no", retryable=True)),
]


@pytest.mark.parametrize("value", MESSAGES, ids=lambda value: type(value).__name__)
async def test_a_message_comes_as_it_was_sent(value: object) -> None:
    for got in await both_ends(wire.message(value)):
        assert wire.parse(type(value), got) == value


async def test_data_comes_with_its_place() -> None:
    for got in await both_ends(wire.data(17, 1 << 40, b"content")):
        stretch = wire.parse_data(got)
        assert (stretch.index, stretch.offset, bytes(stretch.content)) == (17, 1 << 40, b"content")


async def test_digests_and_signs_of_life_come_as_such() -> None:
    for got in await both_ends(wire.message(Digests(files={"root.raw": "a" * 64}), FrameType.END)):
        assert wire.parse(Digests, got, FrameType.END).files == {"root.raw": "a" * 64}
    assert await both_ends(wire.frame(FrameType.ALIVE)) == [Frame(FrameType.ALIVE, b"")] * 2


@pytest.mark.parametrize(
    ("kind", "most"),
    [(FrameType.MESSAGE, 64 << 10), (FrameType.END, 64 << 10), (FrameType.DATA, (1 << 20) + 12), (FrameType.ALIVE, 0)],
)
async def test_a_length_beyond_its_bound_is_refused_before_anything_is_read(kind: FrameType, most: int) -> None:
    assert [len(got.payload) for got in await both_ends(struct.pack(">BI", kind, most) + bytes(most))] == [most, most]
    for length in (most + 1, (1 << 32) - 1):
        stream = Bytes(struct.pack(">BI", kind, length) + bytes(100))
        with pytest.raises(TransferError, match=f"tells of {length} bytes, at most {most}"):
            wire.read_frame(stream.read)
        assert stream.most == 5
        reader = asyncio.StreamReader()  # at its end it would wait, if it asked for more
        reader.feed_data(struct.pack(">BI", kind, length))
        with pytest.raises(TransferError, match=f"at most {most}") as refused:
            await wire.next_frame(reader)
        assert (refused.value.reason, refused.value.retryable) == (reasons.TRANSFER_BROKEN, True)


@pytest.mark.parametrize("number", [0, 5, 255])
def test_a_type_that_none_is_is_refused(number: int) -> None:
    with pytest.raises(TransferError, match=f"a frame of type {number} came"):
        wire.read_frame(Bytes(struct.pack(">BI", number, 0)).read)


@pytest.mark.parametrize("content", [b"", b"\x01\0\0", wire.message(REQUEST)[:-1]])
async def test_a_stream_that_ends_in_a_frame_is_broken(content: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    with pytest.raises(TransferError, match="ended the stream"):
        await wire.next_frame(reader)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Request, {"uid": "../etc", "epoch": 1, "epochId": "e"}),
        (Request, {"uid": "u", "epoch": 0, "epochId": "e"}),
        (Request, {"uid": "u", "epoch": 1}),
        (Request, []),
        (Digests, {"files": {"root.raw": "no digest"}}),
        (Digests, {"files": {str(number): "0" * 64 for number in range(19)}}),
        (Announcement, {"request": {"uid": "u", "epoch": 1, "epochId": "e"}, "files": []}),
        (Answer, {"state": "Fine"}),
    ],
)
def test_a_message_that_its_model_refuses_is_refused(kind: type, body: Any) -> None:
    with pytest.raises(TransferError, match=f"is no {kind.__name__}"):
        wire.parse(kind, Frame(FrameType.MESSAGE, json.dumps(body).encode()))


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe"])
def test_a_message_that_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(TransferError, match="is no Request"):
        wire.parse(Request, Frame(FrameType.MESSAGE, payload))


@pytest.mark.parametrize("size", [-1, 1 << 63])
@pytest.mark.parametrize("field", ["size", "allocated"])
def test_a_size_that_no_file_has_is_refused(field: str, size: int) -> None:
    file = {"name": "root.raw", "size": 1, "allocated": 1} | {field: size}
    body = {"request": {"uid": "u", "epoch": 1, "epochId": "e"}, "files": [file]}
    with pytest.raises(TransferError, match=f"files.0.{field}"):
        wire.parse(Announcement, Frame(FrameType.MESSAGE, json.dumps(body).encode()))


def test_a_frame_of_another_type_than_expected_is_refused() -> None:
    with pytest.raises(TransferError, match="a frame of type DATA came, MESSAGE was expected"):
        wire.parse(Answer, Frame(FrameType.DATA, b"{}"))


def test_data_too_short_for_its_place_is_refused() -> None:
    with pytest.raises(TransferError, match="has 11 bytes, at least 12"):
        wire.parse_data(Frame(FrameType.DATA, bytes(11)))
