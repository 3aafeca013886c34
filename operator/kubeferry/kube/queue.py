"""The keyed work queue: deduplicated, serial per key, with back-off per key (semantics of client-go's `util/workqueue`)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from kubeferry.kube.errors import Unavailable

FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(seconds=60)
_DOUBLINGS = 6  # then 60 s are passed

Handler = Callable[[str], Awaitable[timedelta | None]]
"""Works on a key; gives back when to come again, whatever happens, or None."""

log = structlog.get_logger(__name__)


class Alarm(Protocol):
    """Something that will ring."""

    def cancel(self) -> None:
        """Let it not ring."""


class Clock(Protocol):
    """A clock with alarms; an asyncio event loop is one."""

    def time(self) -> float:
        """Seconds; it never goes back."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Alarm:
        """Call `callback` at that time."""


@dataclass(frozen=True, slots=True)
class _Delayed:
    due: float
    alarm: Alarm


class WorkQueue:
    """Keys to be worked on.

    A key is never worked on twice at a time; added meanwhile, it is worked on once more. An exception of the handler is
    logged and counted, and the key comes again after 1 s, doubling to `longest_retry`, until the handler succeeds: a key is
    never lost.
    """

    def __init__(self, handler: Handler, clock: Clock, longest_retry: timedelta = LONGEST_RETRY) -> None:
        self._handler = handler
        self._clock = clock
        self._longest_retry = longest_retry
        self._ready: asyncio.Queue[str | None] = asyncio.Queue()  # None ends a worker
        self._wanted: set[str] = set()  # in `_ready`, or to be put there when the work on it ends
        self._busy: set[str] = set()
        self._delayed: dict[str, _Delayed] = {}
        self._failures: dict[str, int] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.errors = 0
        """Exceptions of the handler since the start."""

    def add(self, key: str) -> None:
        """Have the key worked on as soon as a worker is free."""
        if key in self._wanted:
            return
        self._wanted.add(key)
        if key not in self._busy:
            self._ready.put_nowait(key)

    def add_after(self, key: str, delay: timedelta) -> None:
        """Have the key worked on after that time, or earlier if it is already due earlier."""
        if delay <= timedelta():
            self.add(key)
            return
        due = self._clock.time() + delay.total_seconds()
        waiting = self._delayed.get(key)
        if waiting is not None:
            if waiting.due <= due:
                return
            waiting.alarm.cancel()
        self._delayed[key] = _Delayed(due, self._clock.call_at(due, lambda: self._ring(key)))

    @property
    def depth(self) -> int:
        """Keys that wait for a worker, or are worked on."""
        return len(self._wanted | self._busy)

    def start(self, workers: int) -> None:
        """Begin to work, with so many keys at a time."""
        self._workers |= {asyncio.create_task(self._work(), name=f"worker {n}") for n in range(workers)}

    async def stop(self, grace: timedelta) -> None:
        """Begin no more work, and cancel what has not ended within the grace time."""
        self._stopping = True
        for waiting in self._delayed.values():
            waiting.alarm.cancel()
        if not self._workers:
            return
        for _ in self._workers:
            self._ready.put_nowait(None)
        _, late = await asyncio.wait(self._workers, timeout=grace.total_seconds())
        for worker in late:
            worker.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _ring(self, key: str) -> None:
        del self._delayed[key]
        self.add(key)

    async def _work(self) -> None:
        while not self._stopping:
            key = await self._ready.get()
            if key is not None and not self._stopping:
                await self._work_on(key)

    async def _work_on(self, key: str) -> None:
        self._wanted.discard(key)
        self._busy.add(key)
        waiting = self._delayed.pop(key, None)
        if waiting is not None:  # when to come again is what this pass says
            waiting.alarm.cancel()
        again = await self._outcome(key)
        self._busy.discard(key)
        if key in self._wanted:
            self._ready.put_nowait(key)
        if again is not None and not self._stopping:
            self.add_after(key, again)

    async def _outcome(self, key: str) -> timedelta | None:
        """When the key is to come again."""
        try:
            again = await self._handler(key)
        except Exception as error:
            self.errors += 1
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(FIRST_RETRY * (1 << min(failures - 1, _DOUBLINGS)), self._longest_retry)
            log.error(
                "work failed",
                key=key,
                error=str(error),
                failures=failures,
                retry_seconds=delay.total_seconds(),
                exc_info=not isinstance(error, Unavailable),  # where we were when the API server was away tells nobody anything
            )
            return delay
        self._failures.pop(key, None)
        return again
