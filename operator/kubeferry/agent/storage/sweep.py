"""Unlink what was given up: after its time, or earlier when a VM that comes needs the room."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from kubeferry.agent.storage.errors import storage_errors
from kubeferry.agent.storage.layout import TRASH
from kubeferry.agent.storage.space import allocated_bytes, free_bytes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

log = structlog.get_logger(__name__)


def trash_bytes(instances_path: Path) -> int:
    """Bytes that sweeping all of the trash would give back.

    Raises:
        StorageError: it can't be told.
    """
    with storage_errors(f"look into the trash of {instances_path}"), _trash(instances_path) as trash:
        found: dict[int, int] = {}  # by inode: what still has a name elsewhere gives nothing back
        for _, name in _copies(trash):
            with _opened(name, trash) as copy:
                statuses = [os.stat(file, dir_fd=copy, follow_symlinks=False) for file in os.listdir(copy)]
                found |= {status.st_ino: allocated_bytes(status) for status in statuses if status.st_nlink == 1}
        return sum(found.values())


def sweep(instances_path: Path, before: float) -> None:
    """Unlink every copy that went to the trash before that time.

    Args:
        instances_path: where the instances lie, and the trash.
        before: seconds since the epoch, by this host's clock.

    Raises:
        StorageError: the file system refused.
    """
    with storage_errors(f"sweep the trash of {instances_path}"), _trash(instances_path) as trash:
        for at, name in _copies(trash):
            if at < before:
                _unlink(trash, name, instances_path)


def make_room(instances_path: Path, needed: int) -> int:
    """Unlink copies in the trash, the oldest first, until so many bytes are free, or none is left.

    Returns:
        Bytes that are free now.

    Raises:
        StorageError: the file system refused.
    """
    with storage_errors(f"make room by the trash of {instances_path}"), _trash(instances_path) as trash:
        for _, name in _copies(trash):
            if free_bytes(instances_path) >= needed:
                break
            _unlink(trash, name, instances_path)
    return free_bytes(instances_path)


@contextmanager
def _trash(instances_path: Path) -> Iterator[int | None]:
    """The trash, open; None: nothing was ever given up here."""
    try:
        fd = os.open(instances_path / TRASH, _DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _opened(name: str, trash: int | None) -> Iterator[int]:
    fd = os.open(name, _DIRECTORY, dir_fd=trash)
    try:
        yield fd
    finally:
        os.close(fd)


def _copies(trash: int | None) -> list[tuple[float, str]]:
    """When each copy came to the trash, and its name; the oldest first. What is no directory is nobody's of ours."""
    if trash is None:
        return []
    statuses = ((name, os.stat(name, dir_fd=trash, follow_symlinks=False)) for name in os.listdir(trash))
    return sorted((status.st_mtime, name) for name, status in statuses if stat.S_ISDIR(status.st_mode))


def _unlink(trash: int | None, name: str, instances_path: Path) -> None:
    """Unlink a copy's files, and then its directory; a directory within is nobody's of ours, and stays."""
    with _opened(name, trash) as copy:
        for file in os.listdir(copy):
            with suppress(FileNotFoundError, IsADirectoryError):  # swept by another thread; not ours
                os.unlink(file, dir_fd=copy)
        left = os.listdir(copy)
    if left:
        log.warning("what is not ours stays in the trash", directory=str(instances_path / TRASH / name), left=left)
        return
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=trash)
    log.info("copy swept from the trash", directory=str(instances_path / TRASH / name))
