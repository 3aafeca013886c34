"""Tells how far a task is while it runs; nothing of that is told after its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from kubeferry.api.task import TaskProgress
from kubeferry.kube.errors import KubeError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def told(tell: Callable[[TaskProgress], Awaitable[None]]) -> AsyncIterator[Callable[[TaskProgress], None]]:
    """What to call, from the event loop's thread, with each news; one write at a time, and of several news only the last.

    The write that has begun is waited for at the end: one that came later than the task's outcome would take its place.

    Args:
        tell: writes it; that it fails is logged, since the next news or the outcome will be told.
    """
    news: asyncio.Queue[TaskProgress | None] = asyncio.Queue()
    writer = asyncio.create_task(_write(news, tell), name="progress")
    try:
        yield news.put_nowait
    finally:
        news.put_nowait(None)
        await writer


async def _write(news: "asyncio.Queue[TaskProgress | None]", tell: Callable[[TaskProgress], Awaitable[None]]) -> None:
    while (latest := await news.get()) is not None:
        while not news.empty():
            if (newer := news.get_nowait()) is None:
                return
            latest = newer
        try:
            await tell(latest)
        except KubeError as error:
            log.warning("progress could not be told", reason=error.reason, error=str(error))
        except Exception:  # whatever it is, it must not take the place of the task's own outcome
            log.exception("progress could not be told")
