"""A host that is to take a VM finds now, while the VM still runs elsewhere, all that would keep it from running here."""

import dataclasses

import pytest
from agent_rig import Rig
from builders import UID
from fake_hypervisor import FACTS, FakeHypervisor

from kubeferry.agent import reserver as reserver_module
from kubeferry.agent.errors import FAILURES, Failure
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.preparer import Preparer
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.storage.create import MARGIN
from kubeferry.agent.storage.layout import TRASH
from kubeferry.agent.virt.port import HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import MachineType
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core.journal import Journal, JournalStep, Reserved

BYTES = 3 << 20


def incoming(rig: Rig, uid: str = UID, **changes: object) -> Journal:
    domain = dataclasses.replace(rig.domain(), uuid=uid, **changes)
    step = JournalStep(seq=7, verb=Verb.PREPARE)
    return Journal(uid=uid, epoch=3, epoch_id="e3", role=Role.INCOMING, step=step, domain=domain, source="b")


def preparer(rig: Rig, facts: HypervisorFacts = FACTS) -> Preparer:
    """On a host whose hypervisor is that."""
    calls = HypervisorCalls(FakeHypervisor(facts), callers=2)
    return Preparer(rig.machine, Reserver(rig.machine, rig.journals, calls))


async def refusal(rig: Rig, journal: Journal, facts: HypervisorFacts = FACTS) -> Failure:
    """What it refuses with; and nothing was journaled."""
    with pytest.raises(FAILURES) as refused:
        await preparer(rig, facts).prepare(journal, BYTES)
    assert rig.journals.read(UID) is None
    assert isinstance(refused.value, FAILURES)
    return refused.value


async def test_a_prepared_host_has_journaled_what_the_vm_needs_and_made_nothing(rig: Rig) -> None:
    journal = incoming(rig)
    await preparer(rig).prepare(journal, BYTES)
    assert rig.journal() == dataclasses.replace(journal, reserved=Reserved(cpu=2, memory=512 << 20, disk=BYTES + MARGIN))
    assert list((rig.path / "instances").iterdir()) == []


async def test_an_empty_instance_directory_and_the_trash_are_nothing_of_the_vm(rig: Rig) -> None:
    (rig.path / "instances" / UID).mkdir()
    (rig.path / "instances" / TRASH / f"{UID}-2").mkdir(parents=True)
    (rig.path / "instances" / TRASH / f"{UID}-2" / "root.raw").write_bytes(b"from before")
    await preparer(rig).prepare(incoming(rig), BYTES)
    assert rig.journal().role == Role.INCOMING


@pytest.mark.parametrize("name", ["root.raw", "root.raw.part", "console.log", "anything"])
async def test_what_lies_where_the_vms_files_would_is_named_and_refuses_it(rig: Rig, name: str) -> None:
    (rig.path / "instances" / UID).mkdir()
    (rig.path / "instances" / UID / name).write_bytes(b"whose?")
    refused = await refusal(rig, incoming(rig))
    assert refused.reason == reasons.FOREIGN_FILES
    assert f"{UID}/{name} " in str(refused)


async def test_a_vm_for_other_processors_is_refused(rig: Rig) -> None:
    class Arm(str):
        value = "arm64"

    facts = dataclasses.replace(FACTS, architecture=Arm("arm64"))  # the API knows but one so far
    assert (await refusal(rig, incoming(rig), facts)).reason == reasons.ARCHITECTURE_MISMATCH


OFFERS = [
    pytest.param((), "pc-q35-7.2", False, id="none"),
    pytest.param((MachineType(name="pc-q35-7.1"),), "pc-q35-7.2", False, id="another-version"),
    pytest.param((MachineType(name="pc-q35-7.2"),), "pc-q35-7.2", True, id="that-one"),
    pytest.param((MachineType(name="q35", canonical="pc-q35-7.2"),), "pc-q35-7.2", True, id="an-alias-of-that-one"),
    pytest.param((MachineType(name="q35", canonical="pc-q35-9.0"),), "q35", False, id="an-alias-that-stands-for-another-elsewhere"),
]


@pytest.mark.parametrize(("offered", "wanted", "fits"), OFFERS)
async def test_the_canonical_machine_type_must_be_offered(rig: Rig, offered: tuple[MachineType, ...], wanted: str, fits: bool) -> None:
    facts = dataclasses.replace(FACTS, machine_types=offered)
    journal = incoming(rig, machine_type=wanted)
    if fits:
        await preparer(rig, facts).prepare(journal, BYTES)
        assert rig.journal().role == Role.INCOMING
    else:
        assert (await refusal(rig, journal, facts)).reason == reasons.MACHINE_TYPE_UNAVAILABLE


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
async def test_there_must_be_room_for_what_the_source_tells_and_a_margin(
    rig: Rig, spare: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserver_module, "make_room", lambda *_: BYTES + MARGIN + spare)
    if fits:
        await preparer(rig).prepare(incoming(rig), BYTES)
        assert rig.journal().role == Role.INCOMING
    else:
        assert (await refusal(rig, incoming(rig))).reason == reasons.INSUFFICIENT_DISK


async def test_room_that_another_copy_will_fill_is_not_given_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserver_module, "make_room", lambda *_: 2 * (BYTES + MARGIN) - 1)
    await preparer(rig).prepare(incoming(rig, "other"), BYTES)
    assert (await refusal(rig, incoming(rig))).reason == reasons.INSUFFICIENT_DISK
