"""What is written to a part, and what of it is known while it is."""

import errno
import os

import pytest
from part_bench import BLOCK, SIZE, PartBench, chunk, full, nothing

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sparse import punch
from kubeferry.agent.transfer import filling
from kubeferry.agent.transfer.digest import CHUNK, hash_of
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.filling import Part
from kubeferry.agent.transfer.wire import ChunkData, Zeros
from kubeferry.api import reasons


@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_written_is_there_and_noted_once_it_is_durable(fresh: bool, file: PartBench) -> None:
    part = file.part(fresh=fresh)
    part.write(full(1, "b"))
    assert part.known == {} == file.noted
    part.note()
    assert part.known == file.noted == {1: hash_of(b"b" * CHUNK)} == file.actual()
    assert file.content == bytes(CHUNK) + b"b" * CHUNK + bytes(CHUNK + BLOCK)


@pytest.mark.parametrize("fresh", [True, False])
def test_stretches_and_holes_stay_sparse(fresh: bool, file: PartBench) -> None:
    part = file.part(fresh=fresh)
    part.write(chunk(0, {BLOCK: b"x" * BLOCK, 8 * BLOCK: b"y" * BLOCK}))
    part.write(chunk(3, {0: b"z" * BLOCK}, BLOCK))
    part.clear(Zeros(0, 1, 3))
    os.fsync(file.fd)
    assert 3 * BLOCK <= file.occupied < 4 * BLOCK
    expected = bytearray(SIZE)
    expected[BLOCK : 2 * BLOCK], expected[8 * BLOCK : 9 * BLOCK], expected[3 * CHUNK :] = b"x" * BLOCK, b"y" * BLOCK, b"z" * BLOCK
    assert file.content == expected


def test_zeros_clear_what_an_earlier_try_left(left: PartBench) -> None:
    left.part().clear(Zeros(0, 1, 4))
    assert left.content == b"a" * CHUNK + bytes(SIZE - CHUNK)
    assert left.occupied < CHUNK + BLOCK
    assert os.fstat(left.fd).st_size == SIZE


@pytest.mark.parametrize(("index", "length"), [(2, CHUNK), (3, BLOCK)], ids=["a whole one", "the short one"])
def test_a_chunk_with_holes_clears_what_an_earlier_try_left_there(index: int, length: int, left: PartBench) -> None:
    part = left.part()
    start = index * CHUNK
    part.write(chunk(index, {4096: b"x" * 4096}, length))
    assert left.content[start : start + length] == bytes(4096) + b"x" * 4096 + bytes(length - 8192)
    assert left.content[CHUNK : 2 * CHUNK] == b"?" * CHUNK
    part.note()
    assert left.noted == {index: left.actual()[index], 0: left.actual()[0]}


def test_a_part_that_was_read_back_is_fresh_no_more(file: PartBench) -> None:
    part = file.part(fresh=True)
    part.write(full(0, "a"))
    part.write(full(1, "b"))
    part.read_back(nothing)
    part.write(chunk(0, {0: b"x"}))
    part.clear(Zeros(0, 1, 2))
    assert file.content == b"x" + bytes(SIZE - 1)
    part.note()
    assert file.noted == file.actual()


def test_a_chunk_that_was_written_but_not_noted_is_cleared_from_what_will_be(file: PartBench) -> None:
    part = file.part(fresh=False)
    part.write(full(0, "a"))
    part.write(full(1, "b"))
    part.clear(Zeros(0, 0, 1))
    part.note()
    assert file.noted == {1: hash_of(b"b" * CHUNK)} == file.actual()


def forgets(part: Part, how: str) -> None:
    if how == "a chunk":
        part.write(full(0, "c"))
    else:
        part.clear(Zeros(0, 0, 4))


@pytest.mark.parametrize("how", ["a chunk", "zeros"])
def test_an_entry_is_forgotten_durably_before_its_chunk_is_written_over(how: str, left: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    part, order = left.part(), list[str]()
    fsync, pwrite = os.fsync, os.pwrite

    def fsynced(fd: int) -> None:
        fsync(fd)
        if fd == left.manifest:
            assert left.noted == {}
            order.append("forgotten")

    def written(fd: int, content: bytes, offset: int) -> int:
        if fd == left.fd:
            order.append("written")
        return pwrite(fd, content, offset)

    def punched(fd: int, start: int, end: int) -> None:
        order.append("written")
        punch(fd, start, end)

    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(os, "pwrite", written)
    monkeypatch.setattr(filling, "punch", punched)
    forgets(part, how)
    assert order[0] == "forgotten"
    assert set(order[1:]) == {"written"}


def test_what_is_not_touched_stays_known(left: PartBench) -> None:
    part = left.part()
    part.write(full(1, "b"))
    part.clear(Zeros(0, 2, 4))
    assert part.known == left.noted == {0: hash_of(b"a" * CHUNK)}


def test_a_write_that_fails_midway_leaves_nothing_known(left: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    part = left.part()
    refuse_writes(left, errno.EIO, monkeypatch)
    with pytest.raises(StorageError, match=r"could not write root\.raw: Input/output error") as refused:
        part.write(full(0, "c"))
    assert refused.value.reason == reasons.STORAGE_ERROR
    part.note()
    assert left.noted == {}


def refuse_writes(file: PartBench, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes a part of what is written, and then no more."""
    pwrite = os.pwrite
    room = [BLOCK]

    def refuse(fd: int, content: bytes, offset: int) -> int:
        if fd != file.fd:
            return pwrite(fd, content, offset)
        if not room:
            raise OSError(code, os.strerror(code))
        return pwrite(fd, content[: room.pop()], offset)

    monkeypatch.setattr(os, "pwrite", refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_full_disk_is_told_as_one(code: int, file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_writes(file, code, monkeypatch)
    with pytest.raises(StorageError) as refused:
        file.part(fresh=True).write(full(0, "a"))
    assert (refused.value.reason, refused.value.retryable) == (reasons.INSUFFICIENT_DISK, False)


def test_a_write_that_takes_only_a_part_is_gone_on_with(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: pwrite(fd, content[:1_000_003], offset))
    part = file.part(fresh=True)
    part.write(full(1, "b"))
    part.note()
    assert file.noted == file.actual() == {1: hash_of(b"b" * CHUNK)}


WRONG = hash_of(b"another")


@pytest.mark.parametrize(
    "wrong",
    [
        chunk(1, {0: b"b" * CHUNK}, digest=WRONG),
        chunk(1, {0: b"b"}, digest=WRONG),
        chunk(1, {}, digest=WRONG),
        chunk(3, {0: b"z" * BLOCK}),  # the hash of a longer chunk
    ],
    ids=["all data", "with holes", "a hole", "another length"],
)
def test_a_chunk_that_is_not_what_its_hash_tells_is_not_written(wrong: ChunkData, left: PartBench) -> None:
    part, before = left.part(), left.content
    with pytest.raises(TransferError, match=f"chunk {wrong.index} of root.raw is not what was read at the source") as refused:
        part.write(wrong)
    assert (refused.value.reason, refused.value.retryable) == (reasons.DIGEST_MISMATCH, True)
    part.note()
    assert left.content == before
    assert left.noted == {0: hash_of(b"a" * CHUNK)}


@pytest.mark.parametrize(
    "beyond",
    [chunk(3, {0: b"x" * (BLOCK + 1)}), chunk(3, {BLOCK: b"x"}), chunk(4, {0: b"x"}), chunk(4, {}, 0), chunk(2**32 - 1, {0: b""}, 0)],
    ids=["too long", "behind the end", "another chunk", "an empty one", "a far one"],
)
def test_a_chunk_that_lies_outside_of_the_file_breaks_the_transfer(beyond: ChunkData, left: PartBench) -> None:
    part, before = left.part(), left.content
    with pytest.raises(TransferError, match=f"chunk {beyond.index} of root.raw came, ") as refused:
        part.write(beyond)
    assert refused.value.reason == reasons.TRANSFER_BROKEN
    part.note()
    assert left.content == before
    assert left.noted == {0: hash_of(b"a" * CHUNK)}


@pytest.mark.parametrize(
    "zeros", [Zeros(0, 3, 5), Zeros(0, 4, 4), Zeros(0, 4, 5), Zeros(0, 2, 1), Zeros(0, 1, 1), Zeros(0, 0, 2**32 - 1)], ids=str
)
def test_zeros_that_lie_outside_of_the_file_or_are_none_break_the_transfer(zeros: Zeros, left: PartBench) -> None:
    part, before = left.part(), left.content
    with pytest.raises(TransferError, match=f"zeros from chunk {zeros.start} to {zeros.end} of root.raw came, it has 4 chunks") as refused:
        part.clear(zeros)
    assert refused.value.reason == reasons.TRANSFER_BROKEN
    assert left.content == before
    assert left.noted == {0: hash_of(b"a" * CHUNK)}
