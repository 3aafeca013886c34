"""Small files that are there whole or not at all, after a power cut too."""

import os
from pathlib import Path

_SUFFIX = ".tmp"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file of mode 0600: temporary file, fsync, rename, fsync directory.

    One writer per path at a time; what an interrupted one left is written over.

    Args:
        path: its directory exists.
        content: all of it.

    Raises:
        OSError: the file at `path` is as it was, unless it was the last step that failed: then it may be the new one.
    """
    temporary = path.with_name(path.name + _SUFFIX)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: it can't be opened or synced.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
