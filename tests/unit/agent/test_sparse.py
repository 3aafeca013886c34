import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from kubeferry.agent.storage import sparse
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sparse import copy_sparse, punch
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


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def punched(path: Path, start: int, end: int) -> None:
    with path.open("r+b") as file:
        punch(file.fileno(), start, end)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize(("before", "after"), [("ABCDE", "A\0\0\0E"), ("AB-DE", "A\0-\0E"), ("A---E", "A---E"), ("AB", "A\0")])
def test_where_nothing_can_be_punched_data_becomes_zeros(
    before: str, after: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    draw(image, before)

    def fallocate(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(sparse, "_LIBC", SimpleNamespace(fallocate=fallocate))
    monkeypatch.setattr(sparse, "_ZEROS", memoryview(bytes(BLOCK // 3)))
    punched(image, BLOCK, 4 * BLOCK)
    assert picture_of(image) == after


@pytest.mark.parametrize(
    ("range_of", "picture"),
    [((1, 3), "A--D"), ((0, 1), "-BCD"), ((3, 4), "ABC-"), ((0, 4), "----"), ((2, 9), "AB--")],
    ids=["the middle", "the start", "the end", "all", "beyond the end"],
)
def test_a_range_that_is_punched_is_a_hole_and_the_size_stays(range_of: tuple[int, int], picture: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    draw(image, "ABCD")
    punched(image, range_of[0] * BLOCK, range_of[1] * BLOCK)
    assert picture_of(image) == picture
    assert blocks(image) <= len(picture.replace("-", "")) * BLOCK + 4096


def test_a_range_that_is_no_multiple_of_a_block_reads_as_zeros_to_its_last_byte_and_no_further(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 2 * BLOCK)
    punched(image, 1, BLOCK + 5)
    assert image.read_bytes() == b"x" + bytes(BLOCK + 4) + b"x" * (BLOCK - 5)


def test_a_hole_far_behind_is_punched_where_it_is(tmp_path: Path) -> None:
    """Beyond what 32 bits hold."""
    image, far = tmp_path / "image", 5 << 30
    with image.open("wb") as file:
        for place in (far - (4 << 30), far, far + BLOCK):
            os.pwrite(file.fileno(), b"x" * BLOCK, place)
    punched(image, far, far + BLOCK)
    with image.open("rb") as file:
        assert [os.pread(file.fileno(), 1, place) for place in (far - (4 << 30), far, far + BLOCK)] == [b"x", b"\0", b"x"]
    punched(image, 0, far + BLOCK)
    assert blocks(image) <= BLOCK + 8192


def test_a_file_that_may_not_be_written_is_not_punched(tmp_path: Path) -> None:
    draw(tmp_path / "image", "AB")
    with (tmp_path / "image").open("rb") as file, pytest.raises(OSError, match="Bad file descriptor") as refused:
        punch(file.fileno(), 0, BLOCK)
    assert refused.value.errno == errno.EBADF
    assert picture_of(tmp_path / "image") == "AB"


@pytest.mark.parametrize(("start", "end"), [(0, 0), (BLOCK, 0), (-1, BLOCK)])
def test_what_is_no_range_is_an_error(start: int, end: int, tmp_path: Path) -> None:
    draw(tmp_path / "image", "AB")
    with pytest.raises(OSError, match="Invalid argument"):
        punched(tmp_path / "image", start, end)
    assert picture_of(tmp_path / "image") == "AB"
