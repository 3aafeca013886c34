"""Who this host is, which boot of it this is, and that no other agent runs on it."""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubeferry.agent.journal import JOURNALS, has_instances
from kubeferry.agent.storage.atomic import sync_directory, write_atomic
from kubeferry.agent.storage.errors import StorageError

_HOST_ID = "host-id"
_BOOT_ID = "boot-id"
LOCK_SECONDS = 5.0
"""For whoever holds the host's lock to end."""
_LOCK = "lock"


class IdentityError(Exception):
    """The agent can't be this host's. It ends with this: without an identity there is no ComputeNode to tell it in."""


@contextmanager
def _telling(doing: str) -> Iterator[None]:
    try:
        yield
    except (OSError, StorageError) as error:
        raise IdentityError(f"could not {doing}: {error}; see that it is mounted and can be written") from error


def require_instances_path(instances_path: Path) -> None:
    """Make sure that the place of the disks is there. It is never made here: where a mount is missing, disks would go elsewhere.

    Raises:
        IdentityError: it is no directory.
    """
    if not instances_path.is_dir():
        raise IdentityError(f"instancesPath {instances_path} is no directory: mount the file system of the disks there, or make it")


def _lock(fd: int) -> None:
    """Raises `BlockingIOError`: another holds it still when `LOCK_SECONDS` are over."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
        else:
            return


def host_id(state_path: Path, instances_path: Path) -> str:
    """The identity of this host, made at its first start together with the directory of journals.

    Call it with the host's lock taken (`take_host_lock`).

    Args:
        state_path: host-local, never shared.
        instances_path: must hold no instance if the identity is to be made.

    Raises:
        IdentityError: there are instances or journals, but no identity; the file holds none, or the file system refused.
    """
    path = state_path / _HOST_ID
    journals = state_path / JOURNALS
    with _telling(f"read or make this host's identity {path}"):
        known = _read_uuid(path)
        if known is not None:
            return known
        # An empty directory is what a first start that was cut off leaves.
        if has_instances(instances_path) or (journals.is_dir() and os.listdir(journals)):
            raise IdentityError(
                f"there is no {path}, but {instances_path} holds instances or {journals} journals: this is no new host; "
                f"mount {state_path}, or restore it from a backup",
            )
        journals.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(state_path)
        return _made_uuid(path)


def boot_id(run_path: Path) -> str:
    """The identity of this boot of the host: the kernel's own is the machine's, and the same in all of its containers.

    Call it with the host's lock taken (`take_host_lock`).

    Args:
        run_path: on a file system that a boot empties.

    Raises:
        IdentityError: the file holds no identity, or the file system refused. A damaged one is not made anew: a fence of
            this very boot would lose its meaning.
    """
    path = run_path / _BOOT_ID
    with _telling(f"read or make this boot's identity {path}"):
        run_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = _read_uuid(path)
        return _made_uuid(path) if known is None else known


def _read_uuid(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise IdentityError(f"{path} holds {text[:80]!r}, a uuid was expected; restore it from a backup") from error


def _made_uuid(path: Path) -> str:
    made = str(uuid.uuid4())
    write_atomic(path, f"{made}\n".encode())
    return made


def take_host_lock(state_path: Path) -> int:
    """Become the one agent of a host: two would both believe what only one may do.

    The processes that move a killed agent's data hold the lock too, until they have seen that it is gone.

    Args:
        state_path: made if it is missing.

    Returns:
        A descriptor that holds the lock. Leave it open: threads of an agent that was told to stop may work on until the process
        ends, and only the kernel, then, may give the lock to another.

    Raises:
        IdentityError: another agent holds it, or the file system refused.
    """
    path = state_path / _LOCK
    with _telling(f"lock {path}"):
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _lock(fd)
        except BlockingIOError as error:
            holder = os.read(fd, 20).decode(errors="replace").strip()
            os.close(fd)
            raise IdentityError(
                f"{path} is held by another agent (process {holder}, as it saw itself), or by a process of its that still moves data "
                f"(kubeferry send-copy, receive-copy); one agent runs on a host at a time: end that one"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd
