"""An outside witness: samples /proc of the machine, which sees the processes of every host, for the QEMU processes of VMs."""

import threading
import time
from collections import defaultdict
from types import TracebackType
from typing import Self

from lab.witness import pids, qemu_processes, qemu_uuid

__all__ = ["Watcher", "qemu_processes"]

SAMPLE_EVERY = 0.02
"""Seconds between two looks."""


SETTLED = 5.0
"""Seconds after which a process is what it is: one that libvirt forks becomes QEMU within moments, or never."""


class Watcher:
    """Counts, while it is open, how many QEMU processes of a VM exist at once; without a VM, of each."""

    def __init__(self, uid: str = "") -> None:
        self._uid = uid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watcher {uid}")
        self._others: dict[int, float] = {}  # processes that are no guest: first seen when
        self.samples = 0
        self.most_of: dict[str, int] = defaultdict(int)
        """The most that were seen at once, by uid of the VM."""
        self.seen: list[int] = []
        """The pids of all that were seen, the oldest first."""

    @property
    def most(self) -> int:
        """The most that were seen at once of one VM."""
        return max(self.most_of.values(), default=0)

    def _watch(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            for uid, alive in self._look(started).items():
                if self._uid in ("", uid):
                    self.most_of[uid] = max(self.most_of[uid], len(alive))
                    self.seen += [pid for pid in alive if pid not in self.seen]
            self.samples += 1
            self._stop.wait(max(0.0, SAMPLE_EVERY - (time.monotonic() - started)))

    def _look(self, now: float) -> dict[str, list[int]]:
        there = pids()
        self._others = {pid: self._others[pid] for pid in there if pid in self._others}
        alive = defaultdict(list)
        for pid in there:
            if now - self._others.get(pid, now) > SETTLED:
                continue
            if uid := qemu_uuid(pid):
                alive[uid].append(pid)
            else:
                self._others.setdefault(pid, now)
        return alive

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
