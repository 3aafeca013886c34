import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import receivers as receivers_module
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.receivers import Receivers
from kubeferry.agent.transfer.threads import finished
from kubeferry.api import reasons


class Work:
    """A receiver whose thread takes its time, and notes what happens."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()
        self.let_go = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1)

    async def __call__(self) -> None:
        self.events.append(f"{self.name} begins")
        self.begun.set()
        try:
            await finished(self._pool.submit(self.let_go.wait, 30), self.stopped.set)
        finally:
            self.events.append(f"{self.name} is gone")
            self._pool.shutdown(wait=False)


@pytest.fixture
def events() -> list[str]:
    return []


def begun(call: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    async def wrapped() -> None:
        await call()

    return asyncio.create_task(wrapped())


async def test_a_receiver_runs_to_its_end(events: list[str]) -> None:
    work = Work("one", events)
    work.let_go.set()
    await Receivers().run("vm", work)
    assert events == ["one begins", "one is gone"]


async def test_what_a_receiver_fails_with_is_passed_on_and_the_next_may_come(events: list[str]) -> None:
    receivers = Receivers()

    async def fail() -> None:
        raise TransferError(reasons.DIGEST_MISMATCH, "differs")

    with pytest.raises(TransferError, match="differs"):
        await receivers.run("vm", fail)
    work = Work("next", events)
    work.let_go.set()
    await receivers.run("vm", work)


async def test_a_second_receiver_begins_when_the_first_is_gone_with_its_thread(events: list[str]) -> None:
    receivers, one, two = Receivers(), Work("one", events), Work("two", events)
    first = begun(lambda: receivers.run("vm", one))
    await one.begun.wait()
    second = begun(lambda: receivers.run("vm", two))
    await one.stopped.wait()
    assert events == ["one begins"]
    one.let_go.set()
    with pytest.raises(TransferError, match="a newer one began") as ended:
        await first
    assert (ended.value.reason, ended.value.retryable) == (reasons.TRANSFER_BROKEN, True)
    await two.begun.wait()
    two.let_go.set()
    await second
    assert events == ["one begins", "one is gone", "two begins", "two is gone"]


async def test_of_two_that_wait_for_the_first_never_both_run(events: list[str]) -> None:
    receivers = Receivers()
    works = [Work(str(number), events) for number in range(3)]
    first = begun(lambda: receivers.run("vm", works[0]))
    await works[0].begun.wait()
    others = [begun(lambda work=work: receivers.run("vm", work)) for work in works[1:]]
    await works[0].stopped.wait()
    for work in works:
        work.let_go.set()
    await asyncio.gather(first, *others, return_exceptions=True)
    assert events[0::2] == [event.replace("is gone", "begins") for event in events[1::2]]
    assert "2 is gone" in events


async def test_one_whose_thread_hangs_is_told_of_and_nothing_is_done_beside_it(events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers_module, "END_SECONDS", 0.01)
    receivers, hanging = Receivers(), Work("one", events)
    running = begun(lambda: receivers.run("vm", hanging))
    await hanging.begun.wait()
    with pytest.raises(StorageError, match="does not end") as told:
        async with receivers.barred("vm"):
            raise AssertionError("the bar is not held")
    assert told.value.retryable
    with pytest.raises(StorageError, match="does not end"):
        await receivers.run("vm", Work("two", events))
    assert events == ["one begins"]
    hanging.let_go.set()
    with pytest.raises(TransferError):
        await running
    async with receivers.barred("vm"):
        assert events == ["one begins", "one is gone"]


async def test_receivers_of_two_vms_do_not_know_of_each_other(events: list[str]) -> None:
    receivers, one, two = Receivers(), Work("one", events), Work("two", events)
    first = begun(lambda: receivers.run("vm", one))
    await one.begun.wait()
    second = begun(lambda: receivers.run("other", two))
    await two.begun.wait()
    async with receivers.barred("third"):
        assert not one.stopped.is_set()
    for work in (one, two):
        work.let_go.set()
    await asyncio.gather(first, second)


async def test_a_bar_is_held_only_when_what_runs_is_gone_with_its_thread(events: list[str]) -> None:
    receivers, one = Receivers(), Work("one", events)
    first = begun(lambda: receivers.run("vm", one))
    await one.begun.wait()

    async def bar() -> None:
        async with receivers.barred("vm"):
            events.append("barred")

    barring = begun(bar)
    await one.stopped.wait()
    one.let_go.set()
    await barring
    assert events == ["one begins", "one is gone", "barred"]
    with pytest.raises(TransferError, match="asked to give it up"):
        await first


async def test_nothing_is_received_while_a_bar_is_held_and_after_the_last_one_it_is(events: list[str]) -> None:
    receivers = Receivers()
    work = Work("one", events)
    work.let_go.set()
    async with receivers.barred("vm"):
        async with receivers.barred("vm"):
            pass
        with pytest.raises(RefusedError) as refused:
            await receivers.run("vm", work)
        assert (refused.value.reason, refused.value.retryable) == (reasons.NOT_INCOMING, True)
    assert events == []
    await receivers.run("vm", work)
    assert events == ["one begins", "one is gone"]


async def test_one_that_waited_when_the_bar_came_does_not_begin(events: list[str]) -> None:
    receivers, one, two = Receivers(), Work("one", events), Work("two", events)
    first = begun(lambda: receivers.run("vm", one))
    await one.begun.wait()
    second = begun(lambda: receivers.run("vm", two))
    await one.stopped.wait()

    async def bar() -> None:
        async with receivers.barred("vm"):
            with pytest.raises(RefusedError):
                await second

    barring = begun(bar)
    await asyncio.sleep(0)  # the bar is set; it waits for the first, too
    one.let_go.set()
    await barring
    assert "two begins" not in events
    with suppress(TransferError):
        await first


async def test_whoever_is_cancelled_twice_still_leaves_no_thread_behind(events: list[str]) -> None:
    receivers, one, two = Receivers(), Work("one", events), Work("two", events)
    first = begun(lambda: receivers.run("vm", one))
    await one.begun.wait()
    first.cancel()
    await one.stopped.wait()
    first.cancel()
    second = begun(lambda: receivers.run("vm", two))
    await asyncio.sleep(0)
    assert events == ["one begins"]
    one.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    two.let_go.set()
    await second
    assert events == ["one begins", "one is gone", "two begins", "two is gone"]


async def test_work_that_had_not_begun_when_it_was_cancelled_never_begins() -> None:
    hold = threading.Event()
    ran: list[str] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(hold.wait, 30)
        waiting = begun(lambda: finished(pool.submit(ran.append, "begun"), lambda: None))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hold.set()
    assert ran == []
