"""How far a task is, told while it runs."""

import asyncio

import pytest
from structlog.testing import capture_logs

from kubeferry.agent.progress import told
from kubeferry.api.task import TaskProgress
from kubeferry.kube.errors import Unavailable


def at(done: int) -> TaskProgress:
    return TaskProgress(bytes_total=10, bytes_done=done)


class Writer:
    """Writes when it is let to."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, progress: TaskProgress) -> None:
        self.begun.set()
        await self.go_on.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.written.append(progress.bytes_done)


async def test_of_several_news_only_the_last_is_written() -> None:
    writer = Writer()
    async with told(writer) as on_progress:
        on_progress(at(1))
        await writer.begun.wait()
        for done in (2, 3, 4):
            on_progress(at(done))
        writer.go_on.set()
        writer.begun.clear()
        await writer.begun.wait()
    assert writer.written == [1, 4]


async def test_the_end_waits_for_the_write_that_has_begun() -> None:
    writer = Writer()
    left = False

    async def task() -> None:
        nonlocal left
        async with told(writer) as on_progress:
            on_progress(at(1))
            await writer.begun.wait()
        left = True

    running = asyncio.create_task(task())
    await writer.begun.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not left
    writer.go_on.set()
    await running
    assert writer.written == [1]


async def test_a_defect_of_who_writes_does_not_take_the_place_of_the_tasks_outcome() -> None:
    writer = Writer()
    writer.error = ZeroDivisionError()
    writer.go_on.set()
    with capture_logs() as logs:
        async with told(writer) as on_progress:
            on_progress(at(1))
            await writer.begun.wait()
    assert [line["log_level"] for line in logs] == ["error"]


async def test_an_api_server_that_does_not_answer_keeps_no_later_news_from_being_told() -> None:
    writer = Writer()
    writer.error = Unavailable("no answer")
    writer.go_on.set()
    with capture_logs() as logs:
        async with told(writer) as on_progress:
            on_progress(at(1))
            await writer.begun.wait()
            writer.begun.clear()
            on_progress(at(2))
            await writer.begun.wait()
    assert writer.written == [2]
    assert [line["reason"] for line in logs] == ["Unavailable"]


async def test_what_the_task_raises_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with told(Writer()):
            raise ZeroDivisionError
