"""A copy that is taken over a real data connection."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from data_ends import ADDRESS, SECONDS, Ends, ends
from part_bench import BLOCK, PartBench, chunk, full, nothing

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sparse import punch
from kubeferry.agent.transfer import filling, sender, tls
from kubeferry.agent.transfer.digest import CHUNK, digest, hash_of
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.filling import fill
from kubeferry.agent.transfer.processes import ReceiveJob, ReceiveWord
from kubeferry.agent.transfer.throttle import Throttle
from kubeferry.agent.transfer.tls import Stream
from kubeferry.agent.transfer.wire import (
    Answer,
    AnswerState,
    ChunkData,
    Digests,
    Frame,
    FrameType,
    chunk_frame,
    frame,
    known_frames,
    message,
    parse,
    parse_chunk,
    parse_known,
    zeros_frame,
)
from kubeferry.api import reasons

NAMES = ("root.raw", "kernel")
FILES: dict[str, dict[int, bytes]] = {
    "root.raw": {0: b"a" * CHUNK, CHUNK + BLOCK: b"b" * BLOCK, 4 * CHUNK: b"c" * BLOCK, 6 * CHUNK: b"d" * CHUNK},
    "kernel": {0: b"k" * 12345},
}
SIZES = {"root.raw": 8 * CHUNK + BLOCK, "kernel": 12345}


@contextmanager
def opened(directory: Path, *, fresh: bool) -> Iterator[list[PartBench]]:
    with ExitStack() as stack:
        parts = [PartBench(directory, name, SIZES[name], fresh=fresh) for name in NAMES]
        for part in parts:
            stack.callback(part.close)
        yield parts


def filled(two: Ends, parts: Sequence[PartBench]) -> ReceiveWord:
    """Be a receiving process."""
    jobs = tuple(part.job for part in parts)
    return fill(ReceiveJob(listener=two.listener.detach(), parts=jobs, own=two.receiver, peer=two.sender.certificate, token=two.token))


class Copy:
    """Source and target, and what went from one to the other."""

    def __init__(self, path: Path) -> None:
        self.source, self.target = path / "source", path / "target"
        for directory in (self.source, self.target):
            directory.mkdir()
        for name, content in FILES.items():
            with (self.source / name).open("wb") as file:
                for at, data in content.items():
                    file.seek(at)
                    file.write(data)
                file.truncate(SIZES[name])
        self.came: list[ChunkData] = []
        """Each chunk that the target took."""
        self.known: list[dict[int, bytes]] = []
        """What the target told that it has of each file, in each round."""
        self.fresh = True

    def run(self, send: Callable[[Stream], object]) -> ReceiveWord:
        """One try: the target fills, the sender does as it is told and leaves."""
        with ThreadPoolExecutor(1) as thread, ends() as two, opened(self.target, fresh=self.fresh) as parts:
            self.fresh = False
            data = two.data
            receiving: Future[ReceiveWord] = thread.submit(filled, two, parts)
            with suppress(TransferError), tls.connect(ADDRESS, data, two.sender) as stream:
                send(stream)
            return receiving.result(SECONDS)

    def send(self, stream: Stream) -> dict[str, str]:
        """As a real sender does."""
        with sender.opened(self.source, NAMES, {}) as sources:
            return sender.Copy(sources, Throttle(None, lambda: 0.0), lambda *_: None).run(stream)

    def noted(self) -> dict[str, dict[int, bytes]]:
        with opened(self.target, fresh=False) as parts:
            return {part.name: part.noted for part in parts}

    def digests(self) -> dict[str, str]:
        found = {}
        for name in NAMES:
            with (self.source / name).open("rb") as file:
                found[name] = digest(file.fileno(), nothing)
        return found

    def is_same(self) -> bool:
        return all((self.source / name).read_bytes() == (self.target / f"{name}.part").read_bytes() for name in NAMES)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    copy = Copy(tmp_path)
    taken, told = parse_chunk, known_frames

    def parsed(got: Frame) -> ChunkData:
        copy.came.append(taken(got))
        return copy.came[-1]

    def known(place: int, hashes: Mapping[int, bytes]) -> Iterator[bytes]:
        copy.known.append(dict(hashes))
        return told(place, hashes)

    monkeypatch.setattr(filling, "parse_chunk", parsed)
    monkeypatch.setattr(filling, "known_frames", known)
    return copy


def places(came: Sequence[ChunkData]) -> list[tuple[int, int]]:
    return [(one.file, one.index) for one in came]


WHOLE = [(0, 0), (0, 1), (0, 4), (0, 6), (1, 0)]
"""File and index of each chunk that holds data."""


def test_a_whole_copy_is_the_same_as_sparse_and_noted(copy: Copy) -> None:
    word = copy.run(copy.send)
    assert word == ReceiveWord(digests=copy.digests(), sent=copy.digests())
    assert copy.is_same()
    assert places(copy.came) == WHOLE
    assert copy.noted() == {
        "root.raw": {0: hash_of(b"a" * CHUNK), 1: copy.came[1].hash, 4: copy.came[2].hash, 6: hash_of(b"d" * CHUNK)},
        "kernel": {0: hash_of(b"k" * 12345)},
    }
    occupied = os.stat(copy.target / "root.raw.part").st_blocks * 512
    assert occupied < 2 * CHUNK + 3 * BLOCK


def test_of_a_whole_copy_nothing_is_sent_again(copy: Copy) -> None:
    copy.run(copy.send)
    copy.came.clear()
    assert copy.run(copy.send).digests == copy.digests()
    assert copy.came == []
    assert copy.is_same()


def test_what_changed_at_the_source_between_two_tries_is_sent_and_what_became_a_hole_is_cleared(copy: Copy) -> None:
    copy.run(copy.send)
    copy.came.clear()
    with (copy.source / "root.raw").open("r+b") as file:
        file.seek(5 * CHUNK)
        file.write(b"e" * BLOCK)
        punch(file.fileno(), 6 * CHUNK, 7 * CHUNK)
    assert copy.run(copy.send).digests == copy.digests()
    assert places(copy.came) == [(0, 5)]
    assert copy.is_same()


def spoil(copy: Copy, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that holds something else than was written to its chunk 4, so many times."""
    left = [times]
    read_back = filling.Part.read_back

    def spoiled(part: filling.Part, on_alive: Callable[[], None]) -> str:
        if part.name == "root.raw" and left[0]:
            left[0] -= 1
            with (copy.target / "root.raw.part").open("r+b") as file:
                file.seek(4 * CHUNK)
                file.write(b"?")
        return read_back(part, on_alive)

    monkeypatch.setattr(filling.Part, "read_back", spoiled)


def test_what_was_read_back_wrong_is_sent_again_and_nothing_else(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(copy, 1, monkeypatch)
    word = copy.run(copy.send)
    assert word == ReceiveWord(digests=copy.digests(), sent=copy.digests())
    assert places(copy.came) == [*WHOLE, (0, 4)]
    assert copy.is_same()
    assert [sorted(known) for known in copy.known] == [[], [], [0, 1, 4, 6], [0]]
    assert copy.known[2][4] != copy.came[2].hash


def test_what_is_read_back_wrong_twice_is_no_copy(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(copy, 2, monkeypatch)
    with pytest.raises(TransferError, match="twice not what was sent") as refused:
        copy.run(copy.send)
    assert (refused.value.reason, refused.value.retryable) == (reasons.DIGEST_MISMATCH, True)
    assert copy.noted()["root.raw"][4] != copy.came[2].hash


def test_a_sender_that_tells_other_digests_twice_has_sent_no_copy(copy: Copy) -> None:
    answers = []

    def send(stream: Stream) -> None:
        for _ in range(2):
            begin(stream)
            stream.send(message(Digests(files=dict.fromkeys(NAMES, "0" * 64)), FrameType.END))
            answers.append(parse(Answer, stream.receive_news()).state)

    with pytest.raises(TransferError) as refused:
        copy.run(send)
    assert refused.value.reason == reasons.DIGEST_MISMATCH
    assert answers == [AnswerState.DIFFERS, AnswerState.DIFFERS]


# A sender that breaks off, or sends what it should not.


def begin(stream: Stream) -> dict[int, dict[int, bytes]]:
    """What the target tells that it knows, before it lets data come."""
    known: dict[int, dict[int, bytes]] = {}
    while (got := stream.receive()).type == FrameType.KNOWN:
        place, hashes = parse_known(got)
        known.setdefault(place, {}).update(hashes)
    assert got.type == FrameType.GO
    return known


def sent(stream: Stream, file: int, one: ChunkData) -> None:
    content = b"".join(bytes(data) for _, data in one.stretches)  # all of the chunks that are sent here are all data
    for piece in chunk_frame(file, one.index, one.hash, content, [(0, len(content))]):
        stream.send(piece)


def test_what_came_before_the_stream_broke_is_not_sent_again(copy: Copy) -> None:
    def send(stream: Stream) -> None:
        assert begin(stream) == {}
        sent(stream, 0, full(0, "a"))
        sent(stream, 1, chunk(0, {0: b"k" * 12345}, 12345))
        head, *_ = chunk_frame(0, 6, hash_of(b"d" * CHUNK), b"d" * CHUNK, [(0, CHUNK)])
        stream.send(bytes(head) + b"d" * BLOCK)

    with pytest.raises(TransferError) as broken:
        copy.run(send)
    assert broken.value.reason == reasons.TRANSFER_BROKEN
    assert copy.noted() == {"root.raw": {0: hash_of(b"a" * CHUNK)}, "kernel": {0: hash_of(b"k" * 12345)}}
    assert copy.run(copy.send).digests == copy.digests()
    assert places(copy.came) == [(0, 0), (1, 0), *(place for place in WHOLE if place not in ((0, 0), (1, 0)))]
    assert copy.is_same()


def test_what_came_before_the_disk_was_full_is_not_sent_again(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def full_at_last(fd: int, content: bytes, offset: int) -> int:
        if offset == 6 * CHUNK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, content, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full_at_last)
        with pytest.raises(StorageError) as refused:
            copy.run(copy.send)
    assert refused.value.reason == reasons.INSUFFICIENT_DISK
    assert sorted(copy.noted()["root.raw"]) == [0, 1, 4]
    copy.came.clear()
    assert copy.run(copy.send).digests == copy.digests()
    assert places(copy.came) == [(0, 6), (1, 0)]


def test_a_chunk_that_was_damaged_on_its_way_is_sent_again_by_the_next_try(copy: Copy) -> None:
    def send(stream: Stream) -> None:
        begin(stream)
        sent(stream, 0, full(0, "a"))
        sent(stream, 0, chunk(6, {0: b"d" * CHUNK}, digest=hash_of(b"another")))
        with suppress(TransferError):
            stream.receive()

    with pytest.raises(TransferError, match="chunk 6 of root") as refused:
        copy.run(send)
    assert refused.value.reason == reasons.DIGEST_MISMATCH
    assert sorted(copy.noted()["root.raw"]) == [0]
    assert copy.run(copy.send).digests == copy.digests()


def test_a_part_that_was_lost_between_two_tries_does_no_harm_to_the_copy(copy: Copy) -> None:
    """The worst that a disk can do: the manifest tells of chunks that are not there."""
    copy.run(copy.send)
    os.truncate(copy.target / "root.raw.part", 0)
    os.truncate(copy.target / "root.raw.part", SIZES["root.raw"])
    copy.came.clear()
    assert copy.run(copy.send).digests == copy.digests()
    assert places(copy.came) == WHOLE[:-1]
    assert copy.is_same()


def test_the_manifest_of_another_file_does_no_harm_to_the_copy(copy: Copy) -> None:
    copy.run(copy.send)
    shutil.copy(copy.target / "root.raw.manifest", copy.target / "kernel.manifest")
    assert len(copy.noted()["kernel"]) > 1
    assert copy.run(copy.send).digests == copy.digests()
    assert sorted(copy.noted()["kernel"]) == [0]
    assert copy.is_same()


K = chunk(0, {0: b"k" * 12345}, 12345)

BAD: dict[str, tuple[Callable[[Stream], None], str]] = {
    "an answer": (
        lambda stream: stream.send(message(Answer(state=AnswerState.READY))),
        "a frame of type MESSAGE came, a chunk was expected",
    ),
    "a go": (lambda stream: stream.send(frame(FrameType.GO)), "a frame of type GO came"),
    "what is known": (lambda stream: stream.send(frame(FrameType.KNOWN, bytes(4))), "a frame of type KNOWN came"),
    "a chunk of a third file": (lambda stream: sent(stream, 2, K), "data of file 2 came, 2 files were announced"),
    "a chunk of a far file": (lambda stream: sent(stream, 2**32 - 1, K), "data of file 4294967295 came, 2 files"),
    "zeros of a third file": (lambda stream: stream.send(zeros_frame(2, 0, 1)), "data of file 2 came, 2 files were announced"),
    "a chunk behind the end": (lambda stream: sent(stream, 0, full(9, "x")), "chunk 9 of root.raw came, which reaches behind"),
    "a chunk over the end": (lambda stream: sent(stream, 0, full(8, "x")), "chunk 8 of root.raw came, which reaches behind"),
    "zeros behind the end": (lambda stream: stream.send(zeros_frame(0, 8, 10)), "zeros from chunk 8 to 10 of root.raw came, it has 9"),
    "zeros that end before": (lambda stream: stream.send(zeros_frame(0, 3, 3)), "zeros from chunk 3 to 3 of root.raw came"),
    "no zeros": (lambda stream: stream.send(frame(FrameType.ZEROS, bytes(11))), "a range of zeros of 11 bytes came"),
    "no chunk": (lambda stream: stream.send(frame(FrameType.CHUNK, bytes(3))), "a chunk of 3 bytes came"),
    "no frame": (lambda stream: stream.send(b"\xff" * 5), "a frame of type 255 came"),
    "a frame that is too long": (lambda stream: stream.send(b"\x02\xff\xff\xff\xff"), "at most"),
    "digests of fewer files": (lambda stream: end(stream, "root.raw"), "digests of root.raw came"),
    "digests of another file": (lambda stream: end(stream, "root.raw", "initrd"), "digests of initrd, root.raw came"),
    "digests of more files": (lambda stream: end(stream, *NAMES, "initrd"), "digests of initrd, kernel, root.raw came"),
    "no digests": (lambda stream: stream.send(frame(FrameType.END, b"[]")), "what came is no Digests"),
}


def end(stream: Stream, *names: str) -> None:
    stream.send(message(Digests(files=dict.fromkeys(names, "0" * 64)), FrameType.END))


@pytest.mark.parametrize("bad", BAD)
def test_what_was_not_announced_breaks_the_transfer_and_is_not_written(bad: str, copy: Copy) -> None:
    send, seen = BAD[bad]

    def badly(stream: Stream) -> None:
        begin(stream)
        send(stream)
        with suppress(TransferError):
            stream.receive()

    with pytest.raises(TransferError) as broken:
        copy.run(badly)
    assert broken.value.reason == reasons.TRANSFER_BROKEN
    assert seen in str(broken.value)
    assert copy.noted() == {"root.raw": {}, "kernel": {}}
    assert not any((copy.target / "root.raw.part").read_bytes())


def test_signs_of_life_of_the_sender_are_no_data(copy: Copy) -> None:
    def send(stream: Stream) -> None:
        stream.send(frame(FrameType.ALIVE) * 3)
        copy.send(stream)

    assert copy.run(send).digests == copy.digests()


def test_while_it_is_read_back_the_sender_is_told_that_this_host_is_at_work(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "ALIVE_EVERY", 2)
    signs = []

    def send(stream: Stream) -> None:
        begin(stream)
        for index in range(4):
            sent(stream, 0, full(index, "x"))
        end(stream, *NAMES)
        while (got := stream.receive()).type == FrameType.ALIVE:
            signs.append(got)

    with pytest.raises(TransferError):
        copy.run(send)
    assert len(signs) == 2


def test_a_sender_that_does_not_come_leaves_everything_as_it_was(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "ACCEPT_SECONDS", 0.1)
    copy.run(copy.send)
    before = copy.noted()
    with ends() as two, opened(copy.target, fresh=False) as parts, pytest.raises(TransferError) as refused:
        filled(two, parts)
    assert refused.value.reason == reasons.DATA_PORT_UNREACHABLE
    assert copy.noted() == before
