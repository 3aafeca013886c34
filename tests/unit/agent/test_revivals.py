"""A VM that keeps stopping is started again, but not in a hot loop."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from agent_rig import NODE, Rig, ended
from builders import UID
from fake_hypervisor import FakeHypervisor
from manual_clock import ManualClock

from kubeferry.agent.revivals import Revivals
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core import host
from kubeferry.kube.errors import Unavailable


class Restless(FakeHypervisor):
    """Its guests power themselves off at once, or soon after they were seen to run."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self._at_once = at_once

    def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        super().create(xml, allowed)
        if self._at_once:
            self.destroy(UID)


def waits(revivals: Revivals, clock: ManualClock, count: int) -> list[float]:
    """Seconds before each of the next revivals, each tried as early as it may be."""
    told = []
    for _ in range(count):
        told.append(revivals.remaining(UID).total_seconds())
        clock.advance(told[-1])
        revivals.tried(UID)
    return told


def test_the_first_revival_comes_at_once_and_the_waits_double_up_to_five_minutes() -> None:
    clock = ManualClock()
    assert waits(Revivals(clock.time), clock, 12) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.parametrize(("ran", "wait"), [(600.0, 8), (600.1, 1)])
def test_a_vm_that_ran_for_ten_minutes_is_revived_at_once_and_its_past_forgotten(ran: float, wait: int) -> None:
    clock = ManualClock()
    revivals = Revivals(clock.time)
    waits(revivals, clock, 3)
    clock.advance(ran)
    assert revivals.remaining(UID) == timedelta()
    assert revivals.tried(UID) == timedelta(seconds=wait)


def test_a_refusal_comes_again_after_ten_seconds_and_does_not_count_as_a_revival() -> None:
    clock = ManualClock()
    revivals = Revivals(clock.time)
    for _ in range(5):
        assert revivals.refused(UID) == timedelta(seconds=10)
        clock.advance(4)
        assert revivals.remaining(UID) == timedelta(seconds=6)
        clock.advance(6)
    assert revivals.remaining(UID) == timedelta()
    assert revivals.tried(UID) == timedelta(seconds=1)


def test_vms_do_not_wait_for_each_other() -> None:
    revivals = Revivals(ManualClock().time)
    revivals.tried("another")
    assert revivals.remaining(UID) == timedelta()


@pytest.mark.parametrize("at_once", [True, False], ids=["gone-before-it-was-seen", "seen-running-first"])
async def test_a_guest_that_powers_off_at_once_is_not_started_in_a_hot_loop(rig: Rig, *, at_once: bool) -> None:
    await rig.created()
    hypervisor = rig.hypervisor = Restless(at_once=at_once)
    rig.boot(rig.settings, "boot-1")
    starts = []
    for _ in range(60):  # woken each second, by events and the publisher
        await rig.worker.reconcile(UID)
        starts.append(hypervisor.starts)
        if rig.runs():
            hypervisor.destroy(UID)
        rig.clock.advance(1)
    assert hypervisor.starts == 6  # after 0, 1, 3, 7, 15 and 31 s
    assert [starts.index(count) for count in range(1, 7)] == [0, 1, 3, 7, 15, 31]


async def test_whoever_wakes_a_vm_too_early_is_told_how_long_it_must_wait(rig: Rig) -> None:
    await rig.created()
    hypervisor = rig.hypervisor = Restless(at_once=True)
    rig.boot(rig.settings, "boot-1")
    assert await rig.worker.reconcile(UID) == timedelta(seconds=1)
    rig.clock.advance(0.25)
    assert await rig.worker.reconcile(UID) == timedelta(seconds=0.75)
    assert hypervisor.starts == 1


async def test_a_shut_gate_is_asked_again_after_ten_seconds_whoever_wakes_the_vm(rig: Rig) -> None:
    await rig.created(node_name="")
    assert await rig.worker.reconcile(UID) == timedelta(seconds=10)
    await rig.change(node_name="a")
    rig.clock.advance(9)
    assert await rig.worker.reconcile(UID) == timedelta(seconds=1)
    assert not rig.runs()
    rig.clock.advance(1)
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()


async def test_a_start_task_that_fails_is_not_followed_by_a_revival_at_once(rig: Rig) -> None:
    await rig.created()
    hypervisor = rig.hypervisor = Restless(at_once=True)
    rig.boot(rig.settings, "boot-1")
    assert ended(await rig.ask(Verb.START)) == reasons.HYPERVISOR_ERROR
    assert hypervisor.starts == 1
    assert await rig.worker.reconcile(UID) == timedelta(seconds=1)


async def test_a_start_task_that_is_refused_is_not_followed_by_a_revival_at_once(rig: Rig) -> None:
    await rig.created(node_name="")
    assert ended(await rig.ask(Verb.START)) == reasons.GATE_SHUT
    assert await rig.worker.reconcile(UID) == timedelta(seconds=10)


async def test_an_api_server_that_was_away_for_long_delays_no_revival_by_more_than_ten_seconds(rig: Rig) -> None:
    await rig.created()
    rig.server.before[f"get {NODE}"] = [Unavailable("no answer")] * 20
    for _ in range(20):
        assert await rig.worker.reconcile(UID) == timedelta(seconds=10)
        rig.clock.advance(10)
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()


async def test_without_libvirt_it_is_looked_again_and_no_revival_is_counted(rig: Rig) -> None:
    await rig.created()
    rig.hypervisor.stop_service()
    assert await rig.worker.reconcile(UID) == timedelta(seconds=10)
    rig.hypervisor.start_service()
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()


async def test_a_copy_that_is_not_active_is_not_revived(rig: Rig) -> None:
    await rig.place()
    task = await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    answer = host.answer(task.spec, None, (await rig.change()).spec, task.spec.host_id)
    assert isinstance(answer, host.Act)
    assert answer.journal.role == Role.INCOMING
    rig.journals.write(answer.journal)
    rig.server.requests.clear()
    rig.clock.advance(600)
    assert await rig.worker.reconcile(UID) is None
    assert rig.server.requests == []
