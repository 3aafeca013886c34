"""Who fills a copy on this host: for each VM one at most, and nobody while its role changes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer.threads import gone
from kubeferry.agent.transfer.wire import broken
from kubeferry.api import reasons

END_SECONDS = 30.0
"""For a receiver that was cancelled to let go of its files."""


class Receivers:
    """All that is being received, by uid of the VM."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}
        self._bars: Counter[str] = Counter()

    @asynccontextmanager
    async def barred(self, uid: str) -> AsyncIterator[None]:
        """For as long as this is held nothing is received for the VM: what was is gone, its writing thread too.

        Raises:
            StorageError: what was does not end.
        """
        self._bars[uid] += 1
        try:
            if (running := self._running.get(uid)) is not None:
                await _ended(running)
            yield
        finally:
            self._bars[uid] -= 1
            if not self._bars[uid]:
                del self._bars[uid]

    async def run(self, uid: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Receive for a VM. An older receiver of the VM is ended first: its sender has given it up, or is to.

        Args:
            uid: the VM.
            work: what is done; it is cancelled when a newer one comes or the VM is barred, and may take its time to end.

        Raises:
            RefusedError: `NotIncoming`: the VM is barred.
            TransferError: `TransferBroken`: this one was ended.
            StorageError: an older one does not end.
        """
        while (older := self._running.get(uid)) is not None:
            await _ended(older)
        if self._bars[uid]:
            message = f"this host is at work on its copy of VM {uid}: nothing is received meanwhile"
            raise RefusedError(reasons.NOT_INCOMING, message, retryable=True)
        task = self._running[uid] = asyncio.create_task(work())
        try:
            await _through(task)
        finally:
            del self._running[uid]


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel it, and wait until it is gone.

    Raises:
        StorageError: `StorageError`: its thread hangs, in a file system that does not answer; it may still write.
    """
    task.cancel()
    await asyncio.wait({task}, timeout=END_SECONDS)
    if not task.done():
        message = f"what is being received does not end within {END_SECONDS:.0f} s; see that the instances' file system answers"
        raise StorageError(reasons.STORAGE_ERROR, message, retryable=True)


async def _through(task: asyncio.Task[None]) -> None:
    """Wait for it to end; whoever cancels this cancels it, and waits no less."""
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await gone(task)
        raise
    if task.cancelled():
        raise broken("the copy was ended at the target: a newer one began, or the target was asked to give it up")
    task.result()
