"""Copy a file as sparse as it is."""

import ctypes
import errno
import os
from collections.abc import Iterator

from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

_CHUNK = 64 << 20
"""Bytes asked of the kernel at once."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Modes of fallocate(2)."""

_ZEROS = memoryview(bytes(1 << 20))
_NO_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS)

_NO_CLONE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What copy_file_range(2) says where the two file systems differ in kind, or lack it."""


def copy_sparse(source: int, target: int) -> None:
    """Copy content and size; holes stay holes, blocks are shared where the file system can.

    Args:
        source: a file opened for reading.
        target: an empty file opened for writing.

    Raises:
        StorageError: `SourceUnusable`: the source changed meanwhile, so the copy is of no use.
        OSError: the file system refused.
    """
    before = os.fstat(source)
    os.ftruncate(target, before.st_size)
    for start, end in extents(source, before.st_size):
        while start < end:
            copied = _copy(source, target, start, min(end - start, _CHUNK))
            if copied == 0:
                raise _changed(f"it ended at byte {start}, {end} was expected")
            start += copied
    after = os.fstat(source)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed("its size or its time of modification is another")


def punch(fd: int, start: int, end: int) -> None:
    """Have a range of a file read as zeros, and occupy nothing where the file system can; the file keeps its size.

    By fallocate(2), which `os` has not whole.

    Args:
        fd: open to write.
        start: the first byte.
        end: behind the last, at most the file's size.

    Raises:
        OSError: the file system refused.
    """
    if _LIBC.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(start), ctypes.c_int64(end - start)) == 0:
        return
    number = ctypes.get_errno()
    if number not in _NO_PUNCH:
        raise OSError(number, os.strerror(number))
    for at, stop in extents(fd, end, start):
        while at < stop:
            at += os.pwrite(fd, _ZEROS[: stop - at], at)


def _changed(seen: str) -> StorageError:
    return StorageError(
        reasons.SOURCE_UNUSABLE, f"the source changed while it was copied: {seen}; use an image that nobody writes to", retryable=True
    )


def extents(fd: int, size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of data from `first` to `size`, in order. Where a file system can't tell, all of it is data."""
    end = first
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= size:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def _copy(source: int, target: int, offset: int, count: int) -> int:
    """Bytes copied; 0: the source ends here."""
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)
