"""A migration as one host sees it: what each task makes of the copy here, with real files and a hypervisor that keeps libvirt's rules."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from agent_rig import HOST_ID, Rig, begins, ended
from builders import UID
from migration_rig import move, running, sealed, word

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.interruption import Interruption
from kubeferry.agent.revivals import LONGEST_WAIT
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.processes import Sent
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus, SshEndpoint
from kubeferry.api.meta import Meta
from kubeferry.api.placement import Direction
from kubeferry.api.role import Role
from kubeferry.api.task import DiscardMode, HostTaskSpec, Proof, ProofKind, TaskPhase, TaskProgress, Verb
from kubeferry.core.journal import Journal, JournalStep

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvvoOpHJXl5V6rsXCTpBQLsMTZhJH8yJ1xlZ7mJ6FJq"


class Others:
    """The other agents: they note what they are asked, and answer as they were told to."""

    def __init__(self) -> None:
        self.asked: list[Verb] = []
        self.error: TransferError | None = None
        self.meanwhile: Callable[[Callable[[TaskProgress], None]], Any] | None = None

    async def preflight(self, task: HostTaskSpec) -> None:
        await self._ask(task)

    async def copy(self, task: HostTaskSpec, journal: Journal, on_progress: Callable[[TaskProgress], None]) -> Sent:
        await self._ask(task)
        if self.meanwhile is not None:
            await self.meanwhile(on_progress)
        return Sent(bytes_sent=20, digest="d" * 64)

    async def _ask(self, task: HostTaskSpec) -> None:
        self.asked.append(task.verb)
        if self.error is not None:
            raise self.error


@pytest.fixture
def others(rig: Rig) -> Others:
    made = Others()
    rig.effects._outbound = made  # type: ignore[assignment]
    return made


async def verified(rig: Rig) -> None:
    """The copy here was filled from host b and is whole."""
    await rig.created()
    rig.journals.write(
        dataclasses.replace(
            rig.journal(), role=Role.VERIFIED, epoch=2, epoch_id="e2", source="b", step=JournalStep(seq=1, verb=Verb.PREPARE)
        )
    )


async def test_a_target_that_is_prepared_has_reserved_what_the_vm_needs_and_knows_who_may_call(rig: Rig) -> None:
    await rig.place(node_name="b", host_id="host-b")
    node = await rig.cluster.create(ComputeNode, Meta(name="b"))
    told = ComputeNodeStatus(
        host_id="host-b",
        boot_id="boot-b",
        protocol_version=1,
        agent_version="test",
        ssh=SshEndpoint(address="10.0.0.2", port=8022, host_key=KEY, identity_key=KEY),
    )
    await rig.cluster.apply_status(ComputeNode, node.metadata.name, told)
    await move(rig, source="b", target="a")
    assert ended(await rig.ask(Verb.PREPARE)) == "Prepared"
    journal = rig.journal()
    assert (journal.role, journal.epoch, journal.epoch_id, journal.source) == (Role.INCOMING, 2, "e2", "b")
    assert journal.reserved is not None
    assert journal.reserved.memory == journal.domain.memory if journal.domain else False
    authorized = (rig.settings.state_path / "ssh" / "authorized_keys").read_text()
    assert authorized.count("\n") == 1
    assert f"restrict {KEY}" in authorized
    assert "--peer b" in authorized


async def test_a_host_that_has_the_vm_is_no_target(rig: Rig) -> None:
    await running(rig)
    await move(rig, source="b", target="a")
    assert ended(await rig.ask(Verb.PREPARE)) == reasons.UNABLE_TO_MIGRATE_TO_SELF
    assert rig.journal().epoch == 1


async def test_a_preflight_reaches_the_target_and_changes_nothing_here(rig: Rig, others: Others) -> None:
    await running(rig)
    await move(rig)
    before = rig.journal()
    assert ended(await rig.ask(Verb.PREFLIGHT)) == "Reachable"
    assert (others.asked, rig.journal(), rig.runs()) == ([Verb.PREFLIGHT], before, True)


async def test_a_target_that_cannot_be_reached_is_told_with_the_reason_and_the_vm_runs_on(rig: Rig, others: Others) -> None:
    await running(rig)
    await move(rig)
    others.error = TransferError(reasons.SSH_HOST_KEY_MISMATCH, "another key")
    assert ended(await rig.ask(Verb.PREFLIGHT)) == reasons.SSH_HOST_KEY_MISMATCH
    assert rig.runs()


async def test_a_sealed_vm_is_stopped_and_its_host_does_not_start_it_again(rig: Rig) -> None:
    await running(rig)
    await move(rig)
    assert ended(await rig.ask(Verb.SEAL)) == "Sealed"
    assert (rig.journal().role, rig.journal().epoch, rig.runs()) == (Role.SEALED, 2, False)
    rig.clock.advance(3600)
    await rig.worker.reconcile(UID)
    assert not rig.runs()


async def test_a_copy_is_released_once_the_target_has_it(rig: Rig, others: Others) -> None:
    await sealed(rig)
    task = await rig.ask(Verb.COPY)
    assert ended(task) == "Released"
    assert task.status is not None
    assert task.status.result is not None
    assert (task.status.result.bytes_copied, task.status.result.digest) == (20, "d" * 64)
    assert rig.journal().role == Role.RELEASED


async def test_a_copy_that_broke_leaves_the_source_sealed_and_is_begun_anew(rig: Rig, others: Others) -> None:
    await sealed(rig)
    others.error = TransferError(reasons.TRANSFER_BROKEN, "cut", retryable=True)
    assert ended(await rig.ask(Verb.COPY)) == reasons.TRANSFER_BROKEN
    assert rig.journal().role == Role.SEALED
    others.error = None
    assert ended(await rig.ask(Verb.COPY)) == "Released"
    assert others.asked == [Verb.COPY, Verb.COPY]
    assert ended(await rig.ask(Verb.COPY)) == "Released"
    assert others.asked == [Verb.COPY, Verb.COPY], "what was done is acknowledged from the journal"


async def test_nothing_is_copied_of_a_vm_that_somebody_has_started_since(rig: Rig, others: Others) -> None:
    xml = await sealed(rig)
    rig.hypervisor.create(xml, lambda: True)
    assert ended(await rig.ask(Verb.COPY)) == reasons.NOT_STOPPED
    assert (others.asked, rig.journal().role) == ([], Role.SEALED)


async def test_a_vm_that_somebody_started_while_it_was_copied_is_not_given_up(rig: Rig, others: Others) -> None:
    xml = await sealed(rig)

    async def meanwhile(_: Callable[[TaskProgress], None]) -> None:
        rig.hypervisor.create(xml, lambda: True)

    others.meanwhile = meanwhile
    assert ended(await rig.ask(Verb.COPY)) == reasons.NOT_STOPPED
    assert (others.asked, rig.journal().role) == ([Verb.COPY], Role.SEALED)


async def test_how_far_a_copy_is_stands_in_the_task_while_it_runs_and_not_after(rig: Rig, others: Others) -> None:
    await sealed(rig)
    told: list[TaskProgress | None] = []

    async def meanwhile(on_progress: Callable[[TaskProgress], None]) -> None:
        on_progress(TaskProgress(bytes_total=20, bytes_done=7))
        async with asyncio.timeout(30):
            while not told:
                await asyncio.sleep(0)
                (running,) = [t for t in await rig.tasks() if t.spec.verb == Verb.COPY]
                if running.status is not None and running.status.progress is not None:
                    assert running.status.phase == TaskPhase.RUNNING
                    told.append(running.status.progress)

    others.meanwhile = meanwhile
    task = await rig.ask(Verb.COPY)
    assert told == [TaskProgress(bytes_total=20, bytes_done=7)]
    assert task.status is not None
    assert task.status.progress is None


async def test_a_target_whose_copy_is_whole_starts_the_vm_with_the_sources_word(rig: Rig) -> None:
    await verified(rig)
    await move(rig, source="b", target="a", node_name="a", host_id=HOST_ID)
    assert ended(await rig.ask(Verb.ACTIVATE, word(ProofKind.RELEASED, 2))) == "Running"
    assert (rig.journal().role, rig.runs()) == (Role.ACTIVE, True)


async def test_a_target_whose_vm_is_halted_is_ready_and_does_not_start_it(rig: Rig) -> None:
    await verified(rig)
    await move(rig, source="b", target="a", node_name="a", host_id=HOST_ID, running=False)
    task = await rig.ask(Verb.ACTIVATE, word(ProofKind.RELEASED, 2))
    assert (ended(task), rig.journal().role, rig.runs()) == ("Ready", Role.ACTIVE, False)
    assert task.status is not None
    assert task.status.result is not None
    assert [disk.name for disk in task.status.result.disks] == ["root"]
    rig.clock.advance(3600)
    await rig.worker.reconcile(UID)
    assert not rig.runs(), "nor does the agent by itself"


async def resized(rig: Rig, **changes: object) -> None:
    """The VM was stopped, and is to be started with something else."""
    await running(rig)
    await rig.change(running=False)
    await rig.ask(Verb.STOP)
    spec = (await rig.placement()).spec
    await rig.change(running=True, domain=dataclasses.replace(spec.domain, **changes))


async def test_a_vm_is_started_with_other_resources_once_they_are_reserved(rig: Rig) -> None:
    await resized(rig, cpu_cores=1, memory=256 << 20)
    rig.clock.advance(3600)
    await rig.worker.reconcile(UID)
    assert not rig.runs(), "not by the agent itself: its journal tells of the old ones"
    assert ended(await rig.ask(Verb.START)) == "Running"
    journal = rig.journal()
    assert journal.reserved is not None
    assert (journal.reserved.cpu, journal.reserved.memory) == (1, 256 << 20)
    assert "<vcpu>1</vcpu>" in rig.hypervisor.xml(UID)


async def test_a_vm_that_could_not_be_stopped_is_not_said_to_run_with_what_it_has_not(rig: Rig) -> None:
    await running(rig)
    before, spec = rig.journal(), (await rig.placement()).spec
    await rig.change(domain=dataclasses.replace(spec.domain, cpu_cores=1))
    assert ended(await rig.ask(Verb.START)) == reasons.NOT_STOPPED
    assert (rig.journal(), rig.runs()) == (before, True)


async def test_a_vm_that_the_host_has_no_room_for_is_not_started_and_keeps_what_it_had(rig: Rig) -> None:
    await resized(rig, memory=1 << 50)
    before = rig.journal()
    assert ended(await rig.ask(Verb.START)) == reasons.INSUFFICIENT_MEMORY
    assert (rig.journal(), rig.runs()) == (before, False)


async def test_a_vm_that_is_stopped_stays_so_until_it_is_to_run_again(rig: Rig) -> None:
    await running(rig)
    await rig.change(running=False)
    assert ended(await rig.ask(Verb.STOP)) == "Stopped"
    rig.clock.advance(3600)
    assert (await rig.worker.reconcile(UID), rig.runs()) == (LONGEST_WAIT, False)
    await rig.change(running=True)
    assert ended(await rig.ask(Verb.START)) == "Running"
    assert rig.runs()


@pytest.mark.parametrize("proof", [None, word(ProofKind.SEALED, 2)], ids=["no-word", "another-word"])
async def test_without_the_sources_word_a_whole_copy_is_not_started(rig: Rig, proof: Proof | None) -> None:
    await verified(rig)
    await move(rig, source="b", target="a", node_name="a", host_id=HOST_ID)
    assert ended(await rig.ask(Verb.ACTIVATE, proof)) == reasons.REFUSED_BY_ROLE
    assert (rig.journal().role, rig.runs()) == (Role.VERIFIED, False)


async def test_an_activate_that_comes_too_late_finds_the_gate_shut(rig: Rig) -> None:
    await verified(rig)
    await move(rig, source="b", target="a", node_name="", host_id="")
    assert ended(await rig.ask(Verb.ACTIVATE, word(ProofKind.RELEASED, 2))) == reasons.GATE_SHUT
    assert not rig.runs()


async def test_a_source_that_gave_up_its_right_takes_it_back_with_proof(rig: Rig, others: Others) -> None:
    await sealed(rig)
    await rig.ask(Verb.COPY)
    await move(rig, direction=Direction.BACK)
    assert ended(await rig.ask(Verb.ACTIVATE, word(ProofKind.SEALED, 3))) == "Running"
    assert (rig.journal().role, rig.journal().epoch, rig.runs()) == (Role.ACTIVE, 3, True)


async def released(rig: Rig) -> str:
    """This host's copy has lost, and is to go."""
    xml = await sealed(rig)
    await rig.ask(Verb.COPY)
    spec = (await rig.placement()).spec
    marked = tuple(dataclasses.replace(c, discard=DiscardMode.TRASH) if c.node == "a" else c for c in spec.copies)
    await rig.change(lock=None, move=None, node_name="b", host_id="host-b", copies=marked)
    return xml


async def test_a_copy_that_has_lost_goes_to_the_trash(rig: Rig, others: Others) -> None:
    await released(rig)
    assert ended(await rig.ask(Verb.DISCARD)) == "Gone"
    assert not (rig.settings.instances_path / UID).exists()
    assert begins(rig.settings.instances_path / ".trash" / f"{UID}-2" / "root.raw") == b"content of the image"
    journal = rig.journal()
    assert (journal.role, journal.epoch, journal.domain, journal.reserved) == (Role.GONE, 2, None, None)
    assert ended(await rig.ask(Verb.DISCARD)) == "Gone"


async def test_a_copy_whose_vm_runs_here_is_never_discarded(rig: Rig, others: Others) -> None:
    xml = await released(rig)
    rig.hypervisor.create(xml, lambda: True)
    assert ended(await rig.ask(Verb.DISCARD)) == reasons.NOT_STOPPED
    assert (rig.settings.instances_path / UID / "root.raw").exists()
    assert rig.journal().role == Role.RELEASED


async def test_whoever_fills_the_copy_is_gone_before_a_task_judges_by_its_journal(rig: Rig) -> None:
    await rig.place()
    begun, order = asyncio.Event(), []

    async def fill() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append("receiver gone")

    receiving = asyncio.create_task(rig.receivers.run(UID, fill))
    await begun.wait()
    assert ended(await rig.ask(Verb.CREATE)) == "Created"
    assert order == ["receiver gone"]
    with pytest.raises(TransferError):
        await receiving


async def test_whoever_fills_a_copy_is_gone_before_its_seal_is_acknowledged(rig: Rig) -> None:
    """The target of a migration that goes back: from then on nothing may be written to its copy."""
    await rig.place()
    await move(rig, source="b", target="a")
    step = JournalStep(seq=1, verb=Verb.PREPARE)
    rig.journals.write(Journal(uid=UID, epoch=2, epoch_id="e2", role=Role.INCOMING, step=step, source="b"))
    begun, left_with = asyncio.Event(), []

    async def fill() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left_with.append(rig.journal().epoch)

    receiving = asyncio.create_task(rig.receivers.run(UID, fill))
    await begun.wait()
    await move(rig, source="b", target="a", direction=Direction.BACK)
    assert ended(await rig.ask(Verb.SEAL)) == "Sealed"
    assert left_with == [2]
    assert (rig.journal().role, rig.journal().epoch) == (Role.INCOMING, 3)
    with pytest.raises(TransferError):
        await receiving


async def test_nothing_is_received_while_a_task_is_carried_out(rig: Rig, others: Others) -> None:
    await sealed(rig)
    refused: list[str] = []

    async def meanwhile(_: Callable[[TaskProgress], None]) -> None:
        async def fill() -> None:
            raise AssertionError("received beside a task")

        with pytest.raises(RefusedError) as error:
            await rig.receivers.run(UID, fill)
        refused.append(error.value.reason)

    others.meanwhile = meanwhile
    assert ended(await rig.ask(Verb.COPY)) == "Released"
    assert refused == [reasons.NOT_INCOMING]


async def test_a_guest_gets_as_long_to_shut_down_as_the_migration_says(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    graces: list[int] = []
    seal = rig.effects._sealer.seal

    async def noting(journal: Journal, interruption: Interruption) -> Journal:
        graces.append(journal.step.grace_seconds)
        return await seal(journal, interruption)

    monkeypatch.setattr(rig.effects._sealer, "seal", noting)
    await sealed(rig)
    assert graces == [60]


async def test_a_copy_that_begins_is_journaled_before_a_byte_is_sent(rig: Rig, others: Others) -> None:
    await sealed(rig)
    seen: list[Verb] = []

    async def meanwhile(_: Callable[[TaskProgress], None]) -> None:
        seen.append(rig.journal().step.verb)

    others.meanwhile = meanwhile
    await rig.ask(Verb.COPY)
    assert seen == [Verb.COPY]


async def test_a_host_that_holds_nothing_notes_the_epoch_of_a_discard(rig: Rig) -> None:
    await rig.place(node_name="b", host_id="host-b")
    await move(rig, source="b", target="a")
    spec = (await rig.placement()).spec
    marked = tuple(dataclasses.replace(c, discard=DiscardMode.TRASH) if c.node == "a" else c for c in spec.copies)
    await rig.change(copies=marked)
    assert ended(await rig.ask(Verb.DISCARD)) == "Gone"
    assert (rig.journal().role, rig.journal().epoch) == (Role.GONE, 2)


async def test_a_task_goes_by_what_the_receiver_that_it_ended_has_left(rig: Rig) -> None:
    await rig.place()
    begun = asyncio.Event()

    async def fill() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:  # it had just come to its end
            step = JournalStep(seq=1, verb=Verb.PREPARE)
            rig.journals.write(Journal(uid=UID, epoch=1, epoch_id="e1", role=Role.VERIFIED, step=step, source="b"))

    receiving = asyncio.create_task(rig.receivers.run(UID, fill))
    await begun.wait()
    assert ended(await rig.ask(Verb.CREATE)) == reasons.REFUSED_BY_ROLE
    assert rig.journal().role == Role.VERIFIED
    with pytest.raises(TransferError):
        await receiving
