"""What a host has is given once, whoever asks for it: a VM that is made here, or one that comes from another host."""

import asyncio
import dataclasses
import threading
from contextlib import suppress

import pytest
from agent_rig import Rig
from builders import UID
from fake_hypervisor import FACTS
from hypervisor_contract import machine

from kubeferry.agent import reserver as reserver_module
from kubeferry.agent.creator import Creator
from kubeferry.agent.errors import RefusedError
from kubeferry.agent.journal import Journals, JournalStore
from kubeferry.agent.preparer import Preparer
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.virt.port import HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core import transitions
from kubeferry.core.journal import Journal, JournalStep, Reserved

GIB = 1 << 30


def wanted(rig: Rig, uid: str = UID, **changes: object) -> Journal:
    """The journal of a copy that is to be made."""
    domain = dataclasses.replace(rig.domain(), uuid=uid, **changes)
    return Journal(uid=uid, epoch=3, epoch_id="e3", role=Role.INCOMING, step=JournalStep(seq=7, verb=Verb.PREPARE), domain=domain)


def reserver(rig: Rig) -> Reserver:
    return Reserver(rig.machine, rig.journals, rig.calls)


async def refusal(rig: Rig, journal: Journal, needed: int = 0) -> str:
    """Why nothing was reserved; and nothing was."""
    before = rig.journals.all()
    with pytest.raises(RefusedError) as refused:
        await reserver(rig).reserve(journal, lambda *_: needed)
    assert rig.journals.all() == before
    return refused.value.reason


async def test_what_is_reserved_stands_in_the_journal_that_was_to_be_written(rig: Rig) -> None:
    journal = wanted(rig)
    held = await reserver(rig).reserve(journal, lambda *_: GIB)
    assert held == dataclasses.replace(journal, reserved=Reserved(cpu=2, memory=512 << 20, disk=GIB)) == rig.journal()


async def test_what_lies_in_the_trash_gives_way_to_a_vm_that_comes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    stays: list[object] = []
    monkeypatch.setattr(reserver_module, "make_room", lambda _, needed, busy: stays.append(busy) or asked.append(needed) or 5 * GIB)
    await reserver(rig).reserve(wanted(rig, "first"), lambda *_: 3 * GIB)
    assert await refusal(rig, wanted(rig), 3 * GIB) == reasons.INSUFFICIENT_DISK
    await reserver(rig).reserve(wanted(rig), lambda *_: 2 * GIB)
    assert asked == [3 * GIB, 6 * GIB, 5 * GIB], "what copies that are being filled will take is made room for, too"
    rig.journals.write(dataclasses.replace(wanted(rig, "goes"), role=Role.DELETING))
    await reserver(rig).reserve(wanted(rig, "third"), lambda *_: 0)
    assert (stays[0], stays[-1]) == (frozenset(), {"goes"}), "what an interrupted discard will look for is left in the trash"


async def test_what_is_needed_is_told_of_the_domain_on_the_hypervisor_that_is_here(rig: Rig) -> None:
    told: list[tuple[Domain, HypervisorFacts]] = []

    def needed(domain: Domain, facts: HypervisorFacts) -> int:
        told.append((domain, facts))
        return 0

    await reserver(rig).reserve(wanted(rig), needed)
    assert told == [(rig.domain(), FACTS)]


async def test_what_refuses_to_tell_what_is_needed_keeps_the_journal_from_being_written(rig: Rig) -> None:
    def needed(*_: object) -> int:
        raise StorageError(reasons.FOREIGN_FILES, "somebody's")

    with pytest.raises(StorageError, match="somebody's"):
        await reserver(rig).reserve(wanted(rig), needed)
    assert rig.journals.read(UID) is None


async def test_a_journal_without_a_domain_reserves_nothing(rig: Rig) -> None:
    assert await refusal(rig, dataclasses.replace(wanted(rig), domain=None)) == reasons.INVALID_TASK


@pytest.mark.parametrize("running", [True, False])
async def test_a_vm_that_the_hypervisor_knows_already_gets_nothing(rig: Rig, running: bool) -> None:
    if running:
        rig.hypervisor.create(machine(UID, "somebody"), lambda: True)
    else:
        rig.hypervisor.define(machine(UID, "somebody"))
    assert await refusal(rig, wanted(rig)) == reasons.FOREIGN_DOMAIN


@pytest.mark.parametrize(
    ("changes", "needed", "reason"),
    [
        ({"cpu_cores": FACTS.cpu.count + 1}, 0, reasons.INSUFFICIENT_CPU),
        ({"memory": FACTS.memory + 1}, 0, reasons.INSUFFICIENT_MEMORY),
        ({}, 1 << 60, reasons.INSUFFICIENT_DISK),
    ],
)
async def test_nothing_is_journaled_of_what_the_host_lacks(rig: Rig, changes: dict[str, object], needed: int, reason: str) -> None:
    assert await refusal(rig, wanted(rig, **changes), needed) == reason


async def test_copies_that_are_gone_take_no_place_in_the_inventory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserver_module, "INVENTORY_LENGTH", 2)
    for number in range(3):
        rig.journals.write(transitions.bury(dataclasses.replace(wanted(rig), uid=f"gone-{number}", role=Role.DELETING)))
    await reserver(rig).reserve(wanted(rig), lambda _, __: 0)
    rig.journals.write(dataclasses.replace(wanted(rig), uid="second"))
    assert await refusal(rig, wanted(rig, "third")) == reasons.INVENTORY_FULL


async def test_one_that_is_made_here_and_one_that_comes_are_not_given_the_same_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    read_all = JournalStore.all

    def met(store: JournalStore) -> Journals:
        found = read_all(store)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)  # whoever could look at the same time gets the time to
        return found

    monkeypatch.setattr(JournalStore, "all", met)
    shared = reserver(rig)
    creating = Creator(rig.machine, rig.journals, shared).create(wanted(rig, memory=10 * GIB))
    preparing = Preparer(rig.machine, shared).prepare(wanted(rig, "other", memory=10 * GIB), 0)
    outcomes = await asyncio.gather(creating, preparing, return_exceptions=True)
    (refused,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(refused, RefusedError)
    assert refused.reason == reasons.INSUFFICIENT_MEMORY


async def resized(rig: Rig, **changes: object) -> Journal:
    """The journal of a VM that is here, and is to be started with something else."""
    await rig.created()
    journal = rig.journal()
    assert journal.domain is not None
    return dataclasses.replace(journal, domain=dataclasses.replace(journal.domain, **changes))


async def test_what_a_vm_is_started_with_anew_is_reserved_and_its_disk_stays(rig: Rig) -> None:
    before = await resized(rig, cpu_cores=3, memory=GIB)
    assert before.reserved is not None
    held = await reserver(rig).hold_again(before)
    assert held == rig.journal() == dataclasses.replace(before, reserved=Reserved(cpu=3, memory=GIB, disk=before.reserved.disk))


async def test_of_what_it_had_before_nothing_counts_against_it(rig: Rig) -> None:
    journal = await resized(rig, memory=FACTS.memory)
    assert (await reserver(rig).hold_again(journal)).reserved is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"cpu_cores": FACTS.cpu.count + 1}, reasons.INSUFFICIENT_CPU), ({"memory": FACTS.memory + 1}, reasons.INSUFFICIENT_MEMORY)],
)
async def test_what_the_host_lacks_is_not_given_to_a_vm_of_its_own(change: dict[str, int], reason: str, rig: Rig) -> None:
    journal, before = await resized(rig, **change), rig.journal()
    with pytest.raises(RefusedError) as refused:
        await reserver(rig).hold_again(journal)
    assert (refused.value.reason, rig.journal()) == (reason, before)


async def test_of_a_copy_that_is_gone_nothing_is_held(rig: Rig) -> None:
    journal = await resized(rig, memory=FACTS.memory)
    gone = dataclasses.replace(wanted(rig, "gone"), role=Role.GONE, reserved=Reserved(cpu=1, memory=GIB, disk=0))
    rig.journals.write(gone)
    await reserver(rig).hold_again(journal)
    rig.journals.write(dataclasses.replace(gone, uid="here", role=Role.ACTIVE))
    with pytest.raises(RefusedError):
        await reserver(rig).hold_again(journal)
