"""QEMU processes of this host, as its /proc tells, whatever libvirt knows of them."""

import os
from pathlib import Path

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.api import reasons

PROC = Path("/proc")
"""Must be the host's, or QEMU is not in it: a container needs the host's PID namespace."""


def qemu_process(uuid: str) -> int | None:
    """Process id of a living process that has the VM's uuid as QEMU's argument `-uuid`; None: there is none.

    A process that vanishes while it is looked at is gone. One that has ended and was not waited for has no arguments any more.

    Raises:
        StorageError: `StorageError`: it can't be told, which is never "none".
    """
    with storage_errors(f"look at the processes in {PROC}"):
        pids = [int(name) for name in os.listdir(PROC) if name.isdecimal()]
        if os.getpid() not in pids:
            raise StorageError(reasons.STORAGE_ERROR, f"{PROC} does not tell of this very process, {os.getpid()}: mount the host's there")
        return next((pid for pid in pids if _uuid(pid) == uuid.lower()), None)


def _uuid(pid: int) -> str | None:
    """The uuid that a process was started with."""
    try:
        arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if b"-uuid" not in arguments[:-1]:
        return None
    return arguments[arguments.index(b"-uuid") + 1].decode(errors="replace").lower()
