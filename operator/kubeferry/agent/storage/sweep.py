"""Unlink what was given up: after its time, or earlier when a VM that comes needs the room."""

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from kubeferry.agent.storage.errors import storage_errors
from kubeferry.agent.storage.layout import TRASH
from kubeferry.agent.storage.space import allocated_bytes, free_bytes
from kubeferry.api.role import Role
from kubeferry.core.journal import Journal

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

log = structlog.get_logger(__name__)


def trash_bytes(instances_path: Path, busy: Collection[str] = ()) -> int:
    """Bytes that sweeping the trash would give back.

    Args:
        instances_path: where the instances lie, and the trash.
        busy: uids of VMs whose copy here is just being given up, or of which that is not known: theirs stays.

    Raises:
        StorageError: it can't be told.
    """
    with storage_errors(f"look into the trash of {instances_path}"), _trash(instances_path) as trash:
        found: dict[int, int] = {}  # by inode: what still has a name elsewhere gives nothing back
        for _, name in _copies(trash, busy):
            with suppress(FileNotFoundError), _opened(name, trash) as copy:  # swept by another thread
                statuses = [os.stat(file, dir_fd=copy, follow_symlinks=False) for file in os.listdir(copy)]
                found |= {status.st_ino: allocated_bytes(status) for status in statuses if status.st_nlink == 1}
        return sum(found.values())


def sweep(instances_path: Path, before: float, busy: Collection[str]) -> None:
    """Unlink every copy that went to the trash before that time.

    Args:
        instances_path: where the instances lie, and the trash.
        before: seconds since the epoch, by this host's clock.
        busy: as of `trash_bytes`.

    Raises:
        StorageError: the file system refused.
    """
    with storage_errors(f"sweep the trash of {instances_path}"), _trash(instances_path) as trash:
        for at, name in _copies(trash, busy):
            if at < before:
                _unlink(trash, name, instances_path)


def make_room(instances_path: Path, needed: int, busy: Collection[str]) -> int:
    """Unlink copies in the trash, the oldest first, until so many bytes are free; none, if all of them would not do.

    Args:
        instances_path: where the instances lie, and the trash.
        needed: bytes.
        busy: as of `trash_bytes`.

    Returns:
        Bytes that are free now.

    Raises:
        StorageError: the file system refused.
    """
    free = free_bytes(instances_path)
    if free >= needed or free + trash_bytes(instances_path, busy) < needed:
        return free
    with storage_errors(f"make room by the trash of {instances_path}"), _trash(instances_path) as trash:
        for _, name in _copies(trash, busy):
            if free_bytes(instances_path) >= needed:
                break
            _unlink(trash, name, instances_path)
    return free_bytes(instances_path)


def being_given_up(held: Iterable[Journal], unreadable: Iterable[str]) -> frozenset[str]:
    """The uids of VMs whose copy is on its way to the trash, or may be: a Discard that was interrupted looks for its files there."""
    return frozenset({journal.uid for journal in held if journal.role == Role.DELETING}) | frozenset(unreadable)


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


def _copies(trash: int | None, busy: Collection[str]) -> list[tuple[float, str]]:
    """When each copy came to the trash, and its name; the oldest first. What is no directory of such a name is nobody's of ours."""
    found = []
    for name in os.listdir(trash) if trash is not None else ():
        uid, _, epoch = name.rpartition("-")
        if not epoch.isdecimal() or uid in busy:
            continue
        with suppress(FileNotFoundError):  # swept by another thread
            status = os.stat(name, dir_fd=trash, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                found.append((status.st_mtime, name))
    return sorted(found)


def _unlink(trash: int | None, name: str, instances_path: Path) -> None:
    """Unlink a copy's files, and then its directory; a directory within is nobody's of ours, and stays."""
    left: list[str] = []
    with suppress(FileNotFoundError), _opened(name, trash) as copy:  # swept by another thread
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
