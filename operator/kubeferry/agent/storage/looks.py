"""Calls of a file system that may hang, as a stale NFS mount does: few threads hang there, and nobody waits for one for long.

A thread that hangs in the kernel can't be ended; it comes back when the file system does.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

T = TypeVar("T")
Rest = Callable[[], float]
"""How many seconds whoever waits has left."""

LOOK_SECONDS = 10.0
"""For one look: a disk that is busy with copies may take seconds for the few bytes of it."""
LEAVE_SECONDS = 1.0
"""For what a look made to be removed, where the time of who waits is over: as a rule it is gone when they go on."""
THREADS = 4
"""Looks at a time, of those that hang too."""


def no_end() -> float:
    """The `Rest` of one who waits as long as a look may take."""
    return math.inf


class Looks:
    """What is done at one path, each in a thread of a few of its own."""

    def __init__(self, path: Path, name: str) -> None:
        """Nothing is done yet.

        Args:
            path: told to who waits in vain.
            name: of the threads.
        """
        self._path = path
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix=name)
        self._since: dict[int, float] = {}  # by thread: when what it is at began

    def begin(self, look: Callable[[], T]) -> "Future[T]":
        """Have a look begin; it is for the caller to wait.

        Raises:
            StorageError: every thread hangs: none would come to it.
        """
        now = time.monotonic()
        hanging = sum(now - since >= LOOK_SECONDS for since in list(self._since.values()))
        if hanging >= THREADS:
            raise self._silent(f"does not answer: {hanging} earlier looks at it hang, and no other is begun before one of them ends")
        return self._threads.submit(self._timed, look)

    def call(self, look: Callable[[], T], rest: Rest = no_end) -> T:
        """What came of a look.

        Args:
            look: what is done; it may go on long after it was given up, so it must do no harm then.
            rest: of the caller, who is not held up longer.

        Raises:
            StorageError: the file system does not answer within `LOOK_SECONDS`.
            Exception: whatever the look raises.
        """
        doing = self.begin(look)
        try:
            return self._outcome(doing, rest())
        finally:
            doing.cancel()  # if it has not begun

    @contextmanager
    def held(self, context: AbstractContextManager[T], rest: Rest = no_end) -> Iterator[T]:
        """A context that is entered and left by looks. One that is entered only after it was given up is left at once.

        Raises:
            StorageError: as of `call`; at the end only if nothing else went wrong before.
        """
        stack = ExitStack()
        entering = self.begin(partial(stack.enter_context, context))
        try:
            yield self._outcome(entering, rest())
        except BaseException:
            with suppress(StorageError):
                self._leave(stack, entering, rest)
            raise
        self._leave(stack, entering, rest)

    def _leave(self, stack: ExitStack, entering: "Future[T]", rest: Rest) -> None:
        def leave() -> "Future[None]":
            """Even if every thread hangs: this must be done, however late."""
            return self._threads.submit(self._timed, stack.close)

        if entering.cancel() or entering.done():
            self._outcome(leave(), max(rest(), LEAVE_SECONDS))
        else:
            entering.add_done_callback(lambda _: leave())

    def _outcome(self, look: "Future[T]", at_most: float) -> T:
        seconds = min(LOOK_SECONDS, at_most)
        wait({look}, seconds)
        if not look.done():
            raise self._silent(f"does not answer within {seconds:.0f} s")
        return look.result()

    def _timed(self, look: Callable[[], T]) -> T:
        thread = threading.get_ident()
        self._since[thread] = time.monotonic()
        try:
            return look()
        finally:
            del self._since[thread]

    def _silent(self, seen: str) -> StorageError:
        message = f"the file system of {self._path} {seen}; see that it is mounted, and that its server or disk answers"
        return StorageError(reasons.STORAGE_ERROR, message, retryable=True)
