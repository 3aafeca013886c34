"""Waiting for what must not be left behind: the work of a thread, which can't be cancelled."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def finished(work: "Future[T]", stop: Callable[[], None]) -> T:
    """What came of the work. A cancellation tells it to stop, and goes on only when it has: no thread outlives who started it.

    Args:
        work: given to an executor; if it has not begun when the cancellation comes, it never does.
        stop: called in the event loop at a cancellation; the work must heed it soon.
    """
    waiting = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        stop()
        if not work.cancel():
            await gone(waiting)
            waiting.exception()  # taken note of: it is the cancellation that is told
        raise


async def completed(work: "Future[T]") -> T:
    """What came of work that must be done in any case, be it not begun yet: a cancellation goes on only when it is."""
    waiting = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await gone(waiting)
        waiting.exception()  # taken note of: it is the cancellation that is told
        raise


def unstoppable() -> None:
    """The `stop` of work that is short, or ends by its own deadlines."""


async def gone(waiting: "asyncio.Future[Any]") -> None:
    """Wait until it is done, whoever cancels this meanwhile: call it where a cancellation is on its way already."""
    while not waiting.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({waiting})
