"""What a part is known to hold, as a later process reads it from the same file."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubeferry.agent.transfer.manifest import Manifest

RECORD = 40
"""Bytes of a record: index, BLAKE3, check."""


def hash_of(letter: str) -> bytes:
    return letter.encode() * 32


A, B, C, D = map(hash_of, "abcd")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root.raw.manifest"


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    yield fd
    os.close(fd)


def read(path: Path) -> dict[int, bytes]:
    """What a new process finds in it."""
    fd = os.open(path, os.O_RDWR)
    try:
        return dict(Manifest(fd).hashes)
    finally:
        os.close(fd)


def test_a_new_one_knows_nothing(fd: int, path: Path) -> None:
    assert Manifest(fd).hashes == {} == read(path)


def test_what_is_noted_is_read_again(fd: int, path: Path) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A, 7: B})
    manifest.note({2**32 - 1: C})
    assert manifest.hashes == read(path) == {0: A, 7: B, 2**32 - 1: C}


def test_what_is_forgotten_is_known_no_more(fd: int, path: Path) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A, 1: B, 2: C})
    manifest.forget([0, 2, 9])
    assert manifest.hashes == read(path) == {1: B}


def test_later_records_stand_for_earlier_ones(fd: int, path: Path) -> None:
    manifest = Manifest(fd)
    for hashes in ({0: A, 1: B}, {0: B}, {1: D}):
        manifest.note(hashes)
    manifest.forget([1])
    manifest.note({1: C})
    assert manifest.hashes == read(path) == {0: B, 1: C}


def test_a_chunk_that_came_back_is_forgotten_again(fd: int, path: Path) -> None:
    manifest = Manifest(fd)
    for _ in range(2):
        manifest.note({0: A})
        manifest.forget([0])
        assert manifest.hashes == read(path) == {}


def test_what_replaces_it_is_all_that_is_known(fd: int, path: Path) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A, 1: B, 2: C})
    manifest.replace({1: D})
    assert manifest.hashes == read(path) == {1: D}
    manifest.note({5: A})
    assert manifest.hashes == read(path) == {1: D, 5: A}
    manifest.replace({})
    assert manifest.hashes == read(path) == {}


def test_one_that_was_read_again_is_gone_on_with(fd: int, path: Path) -> None:
    Manifest(fd).note({0: A, 1: B})
    again = Manifest(fd)
    again.note({2: C})
    again.forget([0])
    assert again.hashes == read(path) == {1: B, 2: C}


@pytest.mark.parametrize("kept", range(RECORD))
def test_a_torn_last_record_is_cut_off_and_what_came_before_stays(kept: int, fd: int, path: Path) -> None:
    Manifest(fd).note({0: A, 1: B, 2: C})
    os.truncate(path, 2 * RECORD + kept)
    manifest = Manifest(fd)
    assert manifest.hashes == {0: A, 1: B}
    assert path.stat().st_size == 2 * RECORD
    manifest.note({3: D})
    assert read(path) == {0: A, 1: B, 3: D}


@pytest.mark.parametrize("byte", range(RECORD))
def test_a_record_that_is_not_what_was_written_ends_the_file(byte: int, fd: int, path: Path) -> None:
    Manifest(fd).note({0: A, 1: B, 2: C})
    content = bytearray(path.read_bytes())
    content[RECORD + byte] ^= 1
    path.write_bytes(content)
    assert Manifest(fd).hashes == {0: A}
    assert path.stat().st_size == RECORD


def test_zeros_that_a_power_cut_leaves_are_no_record(fd: int, path: Path) -> None:
    Manifest(fd).note({0: A})
    os.truncate(path, 5 * RECORD)
    assert Manifest(fd).hashes == {0: A}
    assert path.stat().st_size == RECORD


def test_a_write_that_takes_only_a_part_is_gone_on_with(fd: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: pwrite(fd, content[:7], offset))
    manifest = Manifest(fd)
    manifest.note({0: A, 1: B})
    manifest.forget([0])
    manifest.note({2: C})
    assert manifest.hashes == read(path) == {1: B, 2: C}


Change = Callable[[Manifest], None]


@pytest.mark.parametrize(
    ("change", "left"),
    [(lambda manifest: manifest.forget([0]), {1: B}), (lambda manifest: manifest.replace({7: C}), {7: C})],
    ids=["forget", "replace"],
)
def test_what_takes_chunks_back_is_durable_when_it_returns(
    change: Change, left: dict[int, bytes], fd: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A, 1: B})
    durable: list[bytes] = []
    fsync = os.fsync

    def noted(of: int) -> None:
        assert of == fd
        fsync(of)
        durable.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", noted)
    change(manifest)
    assert durable[-1] == path.read_bytes()
    assert read(path) == left


def test_the_old_is_durably_gone_before_what_replaces_it_is_written(fd: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A, 1: B})
    durable: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: durable.append(path.stat().st_size))
    manifest.replace({7: C})
    assert durable == [0, RECORD]


def test_forgetting_what_is_not_known_writes_nothing(fd: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A})
    before = path.read_bytes()

    def refuse(_fd: int) -> None:
        raise AssertionError("nothing was to be made durable")

    monkeypatch.setattr(os, "fsync", refuse)
    manifest.forget([])
    manifest.forget(range(1, 1000))
    assert path.read_bytes() == before
    assert manifest.hashes == {0: A}


@pytest.mark.parametrize("taken", range(1, 2 * RECORD, RECORD // 2))
def test_a_write_that_fails_midway_spoils_nothing_that_comes_after_it(
    taken: int, fd: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest(fd)
    manifest.note({0: A})
    before = path.read_bytes()
    pwrite, room = os.pwrite, [taken]

    def full(fd: int, content: bytes, offset: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, content[: room.pop()], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            manifest.note({1: B, 2: C})
    assert manifest.hashes == {0: A}
    assert path.read_bytes() == before
    manifest.note({3: D})
    manifest.forget([0])
    assert manifest.hashes == read(path) == {3: D}
