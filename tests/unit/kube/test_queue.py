"""The work queue: each key serially, never lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from manual_clock import ManualClock
from structlog.testing import capture_logs

from kubeferry.kube.errors import Unavailable
from kubeferry.kube.queue import WorkQueue

GRACE = timedelta(seconds=5)


class Work:
    """A handler whose passes begin and end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.outcomes: dict[str, list[timedelta | Exception | None]] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.running = 0
        self.most = 0

    async def __call__(self, key: str) -> timedelta | None:
        self.begun.append(key)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        outcome = self.outcomes[key].pop(0) if self.outcomes.get(key) else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def queue(work: Work, clock: ManualClock) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, clock)
    queue.start(workers=2)
    yield queue
    work.open.set()
    await queue.stop(GRACE)


async def test_a_key_added_many_times_is_worked_on_once(queue: WorkQueue, work: Work) -> None:
    for _ in range(5):
        queue.add("a")
    await settle()
    assert work.begun == ["a"]


async def test_a_key_added_while_it_is_worked_on_is_worked_on_once_more_and_never_twice_at_a_time(queue: WorkQueue, work: Work) -> None:
    work.open.clear()
    queue.add("a")
    await settle()
    queue.add("a")
    queue.add("a")
    await settle()
    assert work.begun == ["a"]
    work.open.set()
    await settle()
    assert work.begun == ["a", "a"]
    assert work.most == 1


async def test_different_keys_are_worked_on_at_a_time_by_as_many_workers_as_there_are(queue: WorkQueue, work: Work) -> None:
    work.open.clear()
    for key in "abc":
        queue.add(key)
    await settle()
    assert work.begun == ["a", "b"]
    work.open.set()
    await settle()
    assert work.begun == ["a", "b", "c"]
    assert work.most == 2


async def test_a_delayed_key_comes_when_its_time_has_come(queue: WorkQueue, work: Work, clock: ManualClock) -> None:
    queue.add_after("a", timedelta(seconds=10))
    clock.advance(9.9)
    await settle()
    assert work.begun == []
    clock.advance(0.1)
    await settle()
    assert work.begun == ["a"]


@pytest.mark.parametrize("delays", [(10, 3), (3, 10)], ids=["the later one first", "the earlier one first"])
async def test_of_two_delays_the_earlier_wins(queue: WorkQueue, work: Work, clock: ManualClock, delays: tuple[int, int]) -> None:
    for delay in delays:
        queue.add_after("a", timedelta(seconds=delay))
    assert clock.waits() == [3]
    clock.advance(3)
    await settle()
    clock.advance(60)
    await settle()
    assert work.begun == ["a"]


async def test_what_the_handler_gives_back_replaces_an_earlier_delay(queue: WorkQueue, work: Work, clock: ManualClock) -> None:
    work.outcomes["a"] = [timedelta(seconds=30)]
    queue.add_after("a", timedelta(seconds=10))
    queue.add("a")
    await settle()
    assert clock.waits() == [30]


async def test_a_pass_that_asks_for_another_at_once_gets_it(queue: WorkQueue, work: Work) -> None:
    work.outcomes["a"] = [timedelta()]
    queue.add("a")
    await settle()
    assert work.begun == ["a", "a"]


async def test_a_failing_key_comes_again_later_and_later_until_it_succeeds(queue: WorkQueue, work: Work, clock: ManualClock) -> None:
    work.outcomes["a"] = [*(ValueError("no") for _ in range(9)), None, ValueError("no")]
    queue.add("a")
    waits = []
    for _ in range(9):
        await settle()
        waits += clock.waits()
        clock.advance(clock.waits()[0])
    await settle()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert clock.waits() == []
    assert queue.errors == 9
    queue.add("a")
    await settle()
    assert clock.waits() == [1]


async def test_a_key_that_failed_a_hundred_times_is_not_lost(queue: WorkQueue, work: Work, clock: ManualClock) -> None:
    work.outcomes["a"] = [ValueError("no") for _ in range(100)]
    queue.add("a")
    for _ in range(100):
        await settle()
        clock.advance(60)
    await settle()
    assert len(work.begun) == 101


async def test_an_event_does_not_wait_for_the_back_off_of_its_key(queue: WorkQueue, work: Work) -> None:
    work.outcomes["a"] = [ValueError("no")]
    queue.add("a")
    await settle()
    queue.add("a")
    await settle()
    assert work.begun == ["a", "a"]


async def test_other_keys_are_worked_on_while_one_fails(queue: WorkQueue, work: Work) -> None:
    work.outcomes["a"] = [ValueError("no")] * 3
    for key in "abc":
        queue.add(key)
    await settle()
    assert work.begun == ["a", "b", "c"]


@pytest.mark.parametrize(("error", "traced"), [(ValueError("odd"), True), (Unavailable("get x: no answer"), False)])
async def test_a_failure_is_logged_with_its_key_and_its_traceback_if_that_tells_anything(
    queue: WorkQueue, work: Work, error: Exception, traced: bool
) -> None:
    work.outcomes["a"] = [error]
    with capture_logs() as logs:
        queue.add("a")
        await settle()
    assert [(line["key"], line["error"], line["exc_info"]) for line in logs] == [("a", str(error), traced)]


async def test_stop_lets_the_work_at_hand_end_and_begins_no_more(work: Work, clock: ManualClock) -> None:
    queue = WorkQueue(work, clock)
    queue.start(workers=1)
    work.open.clear()
    work.outcomes["a"] = [timedelta(seconds=5)]
    queue.add("a")
    queue.add("b")
    queue.add_after("c", timedelta(seconds=5))
    await settle()
    stopping = asyncio.create_task(queue.stop(GRACE))
    await settle()
    assert not stopping.done()
    work.open.set()
    await stopping
    assert work.begun == ["a"]
    assert clock.waits() == []


async def test_stop_begins_nothing_that_was_added_just_before(work: Work, clock: ManualClock) -> None:
    queue = WorkQueue(work, clock)
    queue.start(workers=1)
    await settle()
    queue.add("a")
    await queue.stop(GRACE)
    assert work.begun == []


async def test_stop_does_not_wait_for_workers_without_work(work: Work, clock: ManualClock) -> None:
    queue = WorkQueue(work, clock)
    queue.start(workers=3)
    await settle()
    async with asyncio.timeout(1):
        await queue.stop(timedelta(minutes=1))


async def test_stop_cancels_what_does_not_end_in_time(work: Work, clock: ManualClock) -> None:
    queue = WorkQueue(work, clock)
    queue.start(workers=1)
    work.open.clear()
    queue.add("a")
    await settle()
    await queue.stop(timedelta())
    assert work.running == 0
