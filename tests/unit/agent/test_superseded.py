"""A task of a higher epoch ends a lower one that runs, waits until it is gone, and goes on from what it has left."""

import asyncio
import dataclasses
from collections.abc import Callable

import pytest
from agent_rig import Rig, ended
from builders import UID
from migration_rig import move, sealed, word
from migration_rig import running as runs_here

from kubeferry.agent.interruption import Interruption, SupersededError
from kubeferry.agent.transfer.processes import Sent
from kubeferry.api import reasons
from kubeferry.api.placement import Direction
from kubeferry.api.role import Role
from kubeferry.api.task import DiscardMode, HostTask, HostTaskSpec, ProofKind, TaskPhase, TaskProgress, Verb
from kubeferry.core import guards
from kubeferry.core.journal import Journal, JournalStep


class Copier:
    """The target takes this host's copy, and does not come to an end by itself."""

    def __init__(self, rig: Rig) -> None:
        self.begun = asyncio.Event()
        self.finish = asyncio.Event()
        self.rig = rig
        self.left_with: Journal | None = None
        rig.effects._outbound = self  # type: ignore[assignment]

    async def copy(self, task: HostTaskSpec, journal: Journal, on_progress: Callable[[TaskProgress], None]) -> Sent:
        self.begun.set()
        try:
            await self.finish.wait()
        finally:
            await asyncio.sleep(0)  # its thread takes a moment to end
            self.left_with = self.rig.journal()
        return Sent(bytes_sent=1, digest="d" * 64)


async def stored(rig: Rig, task: HostTask) -> HostTask:
    return await rig.cluster.get(HostTask, task.metadata.name)


async def copying(rig: Rig) -> tuple[Copier, HostTask, asyncio.Task[object]]:
    """A copy that is under way, and the work on the VM."""
    copier = Copier(rig)
    await sealed(rig)
    task = await rig.write(Verb.COPY)
    work = asyncio.create_task(rig.worker.reconcile(UID))
    await copier.begun.wait()
    return copier, task, work


async def test_a_copy_is_ended_for_the_way_back_and_gone_before_that_begins(rig: Rig) -> None:
    copier, task, work = await copying(rig)
    await move(rig, direction=Direction.BACK, node_name="a", host_id="host-a")
    back = await rig.write(Verb.ACTIVATE)
    await work
    status = (await stored(rig, task)).status
    assert status is not None
    assert (status.phase, status.error and status.error.reason) == (TaskPhase.SUPERSEDED, reasons.SUPERSEDED)
    assert status.finished_at is not None
    assert copier.left_with is not None
    assert (copier.left_with.role, copier.left_with.epoch) == (Role.SEALED, 2)
    assert ended(await stored(rig, back)) == "Running"
    assert (rig.journal().role, rig.journal().epoch, rig.runs()) == (Role.ACTIVE, 3, True)


async def test_without_its_guard_a_higher_task_waits_behind_the_copy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "supersede", lambda running, task: False)
    copier, task, work = await copying(rig)
    await move(rig, direction=Direction.BACK, node_name="a", host_id="host-a")
    await rig.write(Verb.ACTIVATE)
    assert not rig.runs()
    copier.finish.set()
    await work
    assert ended(await stored(rig, task)) == "Released"


@pytest.mark.parametrize("epoch", [1, 2])
async def test_a_task_of_no_higher_epoch_waits_until_the_copy_has_ended(rig: Rig, epoch: int) -> None:
    copier, task, work = await copying(rig)
    late = dataclasses.replace(task, spec=dataclasses.replace(task.spec, epoch=epoch, seq=99))
    rig.worker.saw(late)
    for _ in range(20):  # more turns of the loop than it takes to end a copy
        await asyncio.sleep(0)
    assert copier.left_with is None
    copier.finish.set()
    await work
    assert ended(await stored(rig, task)) == "Released"


async def test_an_agent_that_ends_in_mid_copy_calls_nothing_superseded(rig: Rig) -> None:
    copier, task, work = await copying(rig)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert copier.left_with is not None
    status = (await stored(rig, task)).status
    assert status is not None
    assert status.phase == TaskPhase.RUNNING


async def test_two_tasks_of_one_vm_at_a_time_are_a_defect(rig: Rig) -> None:
    copier, _, work = await copying(rig)
    await rig.write(Verb.SEAL)
    with pytest.raises(RuntimeError, match="once at a time"):
        await rig.worker.reconcile(UID)
    copier.finish.set()
    await work


async def test_a_seal_is_ended_while_its_guest_is_waited_for_and_finished_before_the_vm_starts_again(rig: Rig) -> None:
    await runs_here(rig)
    rig.hypervisor.ignore(UID)
    await move(rig)
    task = await rig.write(Verb.SEAL)
    work = asyncio.create_task(rig.worker.reconcile(UID))
    await asyncio.to_thread(rig.hypervisor.was_pressed.wait, 30)
    await move(rig, direction=Direction.BACK, node_name="a", host_id="host-a")
    back = await rig.write(Verb.ACTIVATE)
    rig.hypervisor.listen(UID)
    before = rig.hypervisor.starts
    await work
    assert ended(await stored(rig, task)) == reasons.SUPERSEDED
    assert ended(await stored(rig, back)) == "Running"
    assert (rig.journal().role, rig.journal().epoch, rig.hypervisor.starts) == (Role.ACTIVE, 3, before + 1)


async def interrupted_seal(rig: Rig, role: Role = Role.SEALING) -> None:
    """A Seal of epoch 2 was cut off: its guest runs, if it is SEALING."""
    await runs_here(rig)
    await move(rig)
    step = JournalStep(seq=4, verb=Verb.SEAL, grace_seconds=60)
    rig.journals.write(dataclasses.replace(rig.journal(), role=role, epoch=2, epoch_id="e2", step=step))
    if role == Role.SEALED:
        rig.hypervisor.destroy(UID)


@pytest.mark.parametrize("role", [Role.SEALING, Role.SEALED])
async def test_the_way_back_finishes_an_interrupted_seal_wherever_it_was_cut_off(rig: Rig, role: Role) -> None:
    await interrupted_seal(rig, role)
    before = rig.hypervisor.starts
    await move(rig, direction=Direction.BACK, node_name="a", host_id="host-a")
    assert ended(await rig.ask(Verb.ACTIVATE)) == "Running"
    assert (rig.journal().role, rig.journal().epoch, rig.hypervisor.starts) == (Role.ACTIVE, 3, before + 1)


async def test_a_discard_finishes_an_interrupted_seal_first(rig: Rig) -> None:
    await interrupted_seal(rig)
    spec = (await rig.placement()).spec
    marked = tuple(dataclasses.replace(c, discard=DiscardMode.TRASH) for c in spec.copies)
    await rig.change(epoch=3, lineage=("e3", "e2", "e1"), node_name="", host_id="", lock=None, move=None, copies=marked)
    assert ended(await rig.ask(Verb.DISCARD)) == "Gone"
    assert (rig.journal().role, rig.journal().epoch, rig.runs()) == (Role.GONE, 3, False)


@pytest.mark.parametrize("role", [Role.INCOMING, Role.VERIFIED])
async def test_a_target_that_is_sealed_may_not_be_activated_any_more(rig: Rig, role: Role) -> None:
    await rig.created()
    step = JournalStep(seq=1, verb=Verb.PREPARE)
    rig.journals.write(dataclasses.replace(rig.journal(), role=role, epoch=2, epoch_id="e2", source="b", step=step))
    await move(rig, source="b", target="a", direction=Direction.BACK, node_name="", host_id="")
    assert ended(await rig.ask(Verb.SEAL)) == "Sealed"
    assert (rig.journal().role, rig.journal().epoch) == (Role.INCOMING, 3)
    assert ended(await rig.ask(Verb.ACTIVATE, word(ProofKind.RELEASED, 3))) == reasons.REFUSED_BY_ROLE


async def test_a_released_source_that_is_asked_back_without_proof_says_what_it_is(rig: Rig) -> None:
    await sealed(rig)
    rig.journals.write(dataclasses.replace(rig.journal(), role=Role.RELEASED))
    await move(rig, direction=Direction.BACK, node_name="a", host_id="host-a")
    assert ended(await rig.ask(Verb.ACTIVATE)) == "Released"
    assert (rig.journal().role, rig.journal().epoch, rig.runs()) == (Role.RELEASED, 3, False)


async def test_a_vm_that_is_stopped_stays_where_it_is_and_off_for_as_long_as_that_is_wanted(rig: Rig) -> None:
    await runs_here(rig)
    await rig.change(running=False)
    assert ended(await rig.ask(Verb.STOP)) == "Stopped"
    assert (rig.journal().role, rig.runs()) == (Role.ACTIVE, False)
    rig.clock.advance(3600)
    await rig.worker.reconcile(UID)
    assert not rig.runs()


async def test_work_that_has_come_to_its_end_counts_although_it_was_to_be_ended(rig: Rig) -> None:
    interruption = Interruption()

    async def done_all_the_same() -> str:
        interruption.end((await copy_task(rig)).spec)
        return "done"

    assert await interruption.unless(done_all_the_same()) == "done"
    with pytest.raises(SupersededError, match="Copy of epoch 2"):
        interruption.check()


async def copy_task(rig: Rig) -> HostTask:
    await sealed(rig)
    return await rig.write(Verb.COPY)


async def until_cancelled(then: Exception | str) -> str:
    """Work that ends when it is cancelled, in its own way."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if isinstance(then, Exception):
            raise then from None
    return str(then)


async def test_work_that_came_to_its_end_although_it_was_to_end_early_counts(rig: Rig) -> None:
    await rig.place()
    interruption = Interruption()
    interruption.end((await rig.write(Verb.CREATE)).spec)
    assert await interruption.unless(until_cancelled("done")) == "done"


async def test_what_ends_badly_since_it_was_to_end_early_is_superseded(rig: Rig) -> None:
    await rig.place()
    interruption = Interruption()
    interruption.end((await rig.write(Verb.CREATE)).spec)
    with pytest.raises(SupersededError, match="a Create of epoch 1 came"):
        await interruption.unless(until_cancelled(OSError("the pipe is broken")))
