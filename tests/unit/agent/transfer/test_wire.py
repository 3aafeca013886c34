import asyncio
import json
import struct
from typing import Any

import pytest
from sshd import REQUEST

from kubeferry.agent.transfer import wire
from kubeferry.agent.transfer.digest import CHUNK
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


ANNOUNCEMENT = Announcement(request=REQUEST, files=(FileHeader(name="root.raw", size=1 << 40, allocated=4096),), certificate="PEM")
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


HASH = bytes(range(32))


async def test_a_chunk_comes_with_its_place_its_hash_and_its_holes() -> None:
    content = b"data" + bytes(4) + b"more"
    for got in await both_ends(b"".join(wire.chunk_frame(17, 1 << 20, HASH, content, [(0, 4), (8, 12)]))):
        chunk = wire.parse_chunk(got)
        assert (chunk.file, chunk.index, chunk.hash) == (17, 1 << 20, HASH)
        assert [(start, bytes(stretch)) for start, stretch in chunk.stretches] == [(0, b"data"), (8, b"more")]


def chunk_of(stretches: list[tuple[int, int]], content: bytes) -> Frame:
    places = b"".join(struct.pack(">II", *stretch) for stretch in stretches)
    return Frame(FrameType.CHUNK, struct.pack(">II32sI", 0, 0, HASH, len(stretches)) + places + content)


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (Frame(FrameType.CHUNK, bytes(43)), "of 43 bytes came, at least 44"),
        (Frame(FrameType.CHUNK, struct.pack(">II32sI", 0, 0, HASH, 9)), "tells of 9 stretches"),
        (chunk_of([(0, 4)], b"abc"), "of 55 bytes came, its stretches tell of 56"),
        (chunk_of([(0, 4)], b"abcde"), "its stretches tell of"),
        (chunk_of([(8, 2), (0, 2)], b"abcd"), "was expected behind 10"),
        (chunk_of([(0, 4), (3, 1)], b"abcde"), "was expected behind 4"),
        (chunk_of([(CHUNK - 1, 2)], b"ab"), f"below {CHUNK}"),
    ],
)
def test_a_chunk_that_is_none_is_refused(got: Frame, says: str) -> None:
    with pytest.raises(TransferError, match=says) as refused:
        wire.parse_chunk(got)
    assert refused.value.reason == reasons.TRANSFER_BROKEN


async def test_what_is_known_comes_in_as_many_frames_as_it_takes() -> None:
    hashes = {index: index.to_bytes(32, "big") for index in range(wire.KNOWN_LIMIT + 3)}
    frames = [(await both_ends(content))[0] for content in wire.known_frames(5, hashes)]
    told: dict[int, bytes] = {}
    for got in frames:
        file, some = wire.parse_known(got)
        assert file == 5
        told |= some
    assert (len(frames), told) == (2, hashes)
    assert list(wire.known_frames(5, {})) == []


@pytest.mark.parametrize("length", [0, 3, 4 + 35, 4 + 37])
def test_known_chunks_that_are_none_are_refused(length: int) -> None:
    with pytest.raises(TransferError, match="no whole number"):
        wire.parse_known(Frame(FrameType.KNOWN, bytes(length)))


async def test_zeros_come_as_a_range() -> None:
    for got in await both_ends(wire.zeros_frame(3, 7, 1 << 30)):
        assert wire.parse_zeros(got) == wire.Zeros(3, 7, 1 << 30)
    with pytest.raises(TransferError, match="of 11 bytes came, 12 were expected"):
        wire.parse_zeros(Frame(FrameType.ZEROS, bytes(11)))


async def test_digests_and_signs_of_life_come_as_such() -> None:
    for got in await both_ends(wire.message(Digests(files={"root.raw": "a" * 64}), FrameType.END)):
        assert wire.parse(Digests, got, FrameType.END).files == {"root.raw": "a" * 64}
    assert await both_ends(wire.frame(FrameType.ALIVE)) == [Frame(FrameType.ALIVE, b"")] * 2


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (FrameType.MESSAGE, 64 << 10),
        (FrameType.END, 64 << 10),
        (FrameType.CHUNK, CHUNK + 44 + 8 * 8192),
        (FrameType.ALIVE, 0),
        (FrameType.KNOWN, 4 + 36 * 16384),
        (FrameType.GO, 0),
        (FrameType.ZEROS, 12),
    ],
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


@pytest.mark.parametrize("number", [0, 8, 255])
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
    with pytest.raises(TransferError, match="a frame of type CHUNK came, MESSAGE was expected"):
        wire.parse(Answer, Frame(FrameType.CHUNK, b"{}"))
