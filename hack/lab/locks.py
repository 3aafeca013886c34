"""File locks: one holder at a time, released by the kernel when the holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lab.steps import NotYet, wait_until

# Of the machine, not of one cache: slots, links and the mount point are the machine's.
MACHINE_LOCK = Path("/run/lock/kubeferry-lab.lock")
MACHINE_LOCK_SECONDS = 120.0


def machine_lock() -> AbstractContextManager[None]:
    """Held while a lab takes its slot, makes the mount point, or is removed."""
    return locked(MACHINE_LOCK, seconds=MACHINE_LOCK_SECONDS)


@contextmanager
def locked(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold the lock file at `path`.

    Raises:
        LabError: another holder did not release it within `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take() -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotYet("another process holds it") from None

    try:
        wait_until(f"the lock {path}", take, seconds=seconds)
        yield
    finally:
        os.close(descriptor)
