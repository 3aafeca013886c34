"""A look at a file system, which may be a network's, with a deadline."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

T = TypeVar("T")

LOOK_DEADLINE = 30.0
"""Seconds for a look."""


class Look(Generic[T]):
    """One that hangs can't be ended: it is asked whether it has come back, and no second one is sent after it."""

    def __init__(self, what: str, look: Callable[[], T], deadline: float = LOOK_DEADLINE) -> None:
        """`look` is called in a thread of its own, once at a time; `what` names for messages what it looks at."""
        self._what = what
        self._look = look
        self._deadline = deadline
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="look")
        self._hanging: asyncio.Future[T] | None = None

    async def now(self) -> T:
        """What is seen now.

        Raises:
            StorageError: `StorageError`: the look does not return; or what the look itself raises.
        """
        if self._hanging is not None:
            if not self._hanging.done():
                raise self._hangs()
            self._hanging.exception()  # what it saw is long past, an error too
            self._hanging = None
        look = asyncio.get_running_loop().run_in_executor(self._thread, self._look)
        done, _ = await asyncio.wait({look}, timeout=self._deadline)
        if not done:
            self._hanging = look
            raise self._hangs()
        return look.result()

    def _hangs(self) -> StorageError:
        message = f"a look at {self._what} does not return, {self._deadline:.0f} s were given; see that its file system answers"
        return StorageError(reasons.STORAGE_ERROR, message, retryable=True)
