"""An outside look at guests: the machine's /proc shows the processes of every host, whatever kubeferry and libvirt tell."""

import os
from collections.abc import Mapping
from pathlib import Path

from lab.hosts import Host

ELSEWHERE = "elsewhere"
"""Stands for a host's name where a process is on none of the lab's."""


def qemu_uuid(pid: int) -> str | None:
    """The uuid of the guest that a process runs; None: it is no living QEMU with one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
        return None
    # A process that became a zombie has no command line, so it is not counted.
    if b"qemu-system" not in words[0] or b"-uuid" not in words[:-1]:
        return None
    return words[words.index(b"-uuid") + 1].decode()


def qemu_processes(uid: str) -> list[int]:
    """Pids of the living QEMU processes of a VM."""
    return [pid for pid in pids() if qemu_uuid(pid) == uid]


def pids() -> list[int]:
    """All processes of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def qemu_by_host(hosts: Mapping[str, Host], uid: str) -> dict[str, list[int]]:
    """Pids of the living QEMU processes of a VM, by the host that each is on; only hosts that have any."""
    namespaces = {_namespace(host.first_process().pid): name for name, host in hosts.items() if host.is_on()}
    found: dict[str, list[int]] = {}
    for pid in qemu_processes(uid):
        if (namespace := _namespace(pid)) is not None:
            found.setdefault(namespaces.get(namespace, ELSEWHERE), []).append(pid)
    return found


def _namespace(pid: int) -> int | None:
    """The PID namespace of a process; None when it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except (FileNotFoundError, ProcessLookupError):
        return None
