"""How a task that runs is ended for one of a higher epoch: only where that leaves nothing behind."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from kubeferry.agent.transfer.threads import gone
from kubeferry.api.task import HostTaskSpec

T = TypeVar("T")


class SupersededError(Exception):
    """A task of a higher epoch came; what this one had done so far stands in the journal."""


class Interruption:
    """A task's own. Its effect asks for it where it may wait for long; everywhere else the newer task waits."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self._why = ""

    def end(self, by: HostTaskSpec) -> None:
        """Have the task end as soon as it can."""
        self._why = f"a {by.verb} of epoch {by.epoch} came, and is done instead"
        self._ended.set()

    def check(self) -> None:
        """Go on, if the task is not to end.

        Raises:
            SupersededError: it is.
        """
        if self._ended.is_set():
            raise SupersededError(self._why)

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """What came of the work; it is cancelled if the task is to end, and gone when this returns or raises.

        Raises:
            SupersededError: the task is to end, and the work had not come to its end before.
        """
        doing, ended = asyncio.ensure_future(work), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
        finally:
            ended.cancel()
            if not doing.done():
                doing.cancel()
                await gone(doing)
        if not doing.cancelled() and doing.exception() is None:
            return doing.result()
        raise SupersededError(self._why)
