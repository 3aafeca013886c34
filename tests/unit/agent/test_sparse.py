import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeferry.agent.storage import sparse
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sparse import copy_sparse
from kubeferry.api import reasons

BLOCK = 64 << 10
"""Bytes of a letter in a picture: a multiple of any file system's block."""


def draw(path: Path, picture: str) -> None:
    """A file from a picture: a letter is a block of it, `-` a hole."""
    with path.open("wb") as file:
        for number, letter in enumerate(picture):
            if letter != "-":
                file.seek(number * BLOCK)
                file.write(letter.encode() * BLOCK)
        file.truncate(len(picture) * BLOCK)


def picture_of(path: Path) -> str:
    """The picture of a file, holes told apart from zeros."""
    with path.open("rb") as file:
        content = file.read()
        shown = []
        for start in range(0, len(content), BLOCK):
            try:
                data = os.lseek(file.fileno(), start, os.SEEK_DATA) < start + BLOCK
            except OSError:  # ENXIO: no data from here on
                data = False
            letters = set(content[start : start + BLOCK])
            assert len(letters) == 1
            shown.append(chr(letters.pop()) if data else "-")
        return "".join(shown)


@contextmanager
def opened(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    with source.open("rb") as reading, target.open("wb") as writing:
        yield reading.fileno(), writing.fileno()


def no_clone(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses copy_file_range with that error."""

    def refuse(*_args: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse)


@pytest.mark.parametrize(
    "kernel", [0, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS], ids=lambda code: errno.errorcode.get(code, "clones")
)
@pytest.mark.parametrize("picture", ["", "A", "-", "A--B", "--A", "A--", "AB-CD-E", "A\0B"])
def test_a_copy_has_the_content_and_the_holes_of_its_source(
    picture: str, kernel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel:
        no_clone(kernel, monkeypatch)
    monkeypatch.setattr(sparse, "_CHUNK", BLOCK * 3 // 2)
    draw(tmp_path / "source", picture)
    with opened(tmp_path / "source", tmp_path / "target") as (source, target):
        copy_sparse(source, target)
    assert picture_of(tmp_path / "target") == picture
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_length_that_is_no_multiple_of_a_block_is_kept(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 12345)
    with opened(tmp_path / "source", tmp_path / "target") as (source, target):
        copy_sparse(source, target)
    assert (tmp_path / "target").read_bytes() == b"x" * 12345


@pytest.mark.parametrize("change", ["shrinks", "grows", "is overwritten"])
def test_a_source_that_changes_meanwhile_makes_no_copy(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "source", "AB")
    os.utime(tmp_path / "source", (0, 0))
    clone = os.copy_file_range
    monkeypatch.setattr(sparse, "_CHUNK", BLOCK)

    def disturbed(source: int, target: int, count: int, *offsets: int) -> int:
        with (tmp_path / "source").open("r+b") as file:
            if change == "shrinks":
                file.truncate(BLOCK)
            file.seek(0, os.SEEK_END if change == "grows" else os.SEEK_SET)
            file.write(b"C")
        return clone(source, target, count, *offsets)

    monkeypatch.setattr(os, "copy_file_range", disturbed)
    with opened(tmp_path / "source", tmp_path / "target") as (source, target), pytest.raises(StorageError) as refused:
        copy_sparse(source, target)
    assert (refused.value.reason, refused.value.retryable) == (reasons.SOURCE_UNUSABLE, True)


def test_a_kernel_that_copies_nothing_is_no_end_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "source", "AB")
    monkeypatch.setattr(os, "copy_file_range", lambda *_args: 0)
    with opened(tmp_path / "source", tmp_path / "target") as (source, target), pytest.raises(StorageError, match="ended at byte 0"):
        copy_sparse(source, target)


def test_a_failing_disk_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "source", "A")
    no_clone(errno.EIO, monkeypatch)
    with opened(tmp_path / "source", tmp_path / "target") as (source, target), pytest.raises(OSError, match="Input/output error"):
        copy_sparse(source, target)
