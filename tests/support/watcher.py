"""An outside witness: samples /proc of the machine, which sees the processes of every host, for the QEMU processes of one VM."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_EVERY = 0.02
"""Seconds between two looks."""


SETTLED = 5.0
"""Seconds after which a process is what it is: one that libvirt forks becomes QEMU within moments, or never."""


def _is_qemu(pid: str, uid: str) -> bool:
    """Whether that process is a living QEMU whose command line names the uuid."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
        return False
    # A process that became a zombie has no command line, so it is not counted.
    return b"qemu-system" in words[0] and any(uid.encode() in word for word in words)


def qemu_processes(uid: str) -> list[int]:
    """Pids of the living QEMU processes of a VM."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _is_qemu(pid, uid)]


class Watcher:
    """Counts, while it is open, how many QEMU processes of a VM exist at once."""

    def __init__(self, uid: str) -> None:
        self._uid = uid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watcher {uid}")
        self._others: dict[str, float] = {}  # processes that are not the VM's: first seen when
        self.samples = 0
        self.most = 0
        """The most that were seen at once."""

    def _watch(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self.most = max(self.most, self._count(started))
            self.samples += 1
            self._stop.wait(max(0.0, SAMPLE_EVERY - (time.monotonic() - started)))

    def _count(self, now: float) -> int:
        pids = [pid for pid in os.listdir("/proc") if pid.isdecimal()]
        self._others = {pid: self._others[pid] for pid in pids if pid in self._others}
        count = 0
        for pid in pids:
            if now - self._others.get(pid, now) > SETTLED:
                continue
            if _is_qemu(pid, self._uid):
                count += 1
            else:
                self._others.setdefault(pid, now)
        return count

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
