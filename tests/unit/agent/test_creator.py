"""Making a new VM's disks: room is reserved before anything is made, and never given twice."""

import dataclasses

import pytest
from agent_rig import Rig, ended
from builders import UID

from kubeferry.agent import reserver as reserver_module
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.storage.create import MARGIN
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import TaskState, Verb
from kubeferry.core.journal import Journal, JournalStep, Reserved

GIB = 1 << 30


class Killed(BaseException):
    """The process ends here."""


ROOM = [
    pytest.param({"cpu_cores": 9}, reasons.INSUFFICIENT_CPU, id="more-cpus-than-the-host-has"),
    pytest.param({"memory": 17 << 30}, reasons.INSUFFICIENT_MEMORY, id="more-memory-than-the-host-has"),
]


@pytest.mark.parametrize(("wanted", "reason"), ROOM)
async def test_what_does_not_fit_is_refused_before_anything_is_made(rig: Rig, wanted: dict[str, object], reason: str) -> None:
    await rig.place()
    await rig.change(domain=dataclasses.replace(rig.domain(), **wanted))
    assert ended(await rig.ask(Verb.CREATE)) == reason
    assert rig.journals.read(UID) is None


async def test_what_other_copies_hold_is_not_given_twice(rig: Rig) -> None:
    await rig.place(running=False)
    await rig.ask(Verb.CREATE)
    other = dataclasses.replace(rig.journal(), uid="other")
    assert other.reserved is not None
    rig.journals.write(dataclasses.replace(other, reserved=dataclasses.replace(other.reserved, memory=16 << 30)))
    (rig.path / "state" / "journals" / f"{UID}.json").unlink()
    for file in (rig.path / "instances" / UID).iterdir():
        file.unlink()
    assert ended(await rig.ask(Verb.CREATE)) == reasons.INSUFFICIENT_MEMORY


async def test_a_host_whose_compute_node_can_list_no_more_copies_takes_none_and_goes_on_with_its_own(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserver_module, "INVENTORY_LENGTH", 2)
    await rig.place(running=False)
    directory = rig.path / "state" / "journals"
    rig.journals.write(held("other", Role.ACTIVE))
    (directory / "corrupt.json").write_text("{")
    assert ended(await rig.ask(Verb.CREATE)) == reasons.INVENTORY_FULL
    assert rig.journals.read(UID) is None
    (directory / "corrupt.json").unlink()
    assert ended(await rig.ask(Verb.CREATE)) == TaskState.CREATED
    rig.journals.write(dataclasses.replace(rig.journal(), role=Role.INCOMING))
    assert ended(await rig.ask(Verb.CREATE)) == TaskState.CREATED
    assert rig.journal().role == Role.ACTIVE


def sources_occupy(rig: Rig) -> int:
    """Bytes on disk of what the VM is made from."""
    return sum((rig.path / "images" / name).stat().st_blocks * 512 for name in ("root", "vmlinuz"))


def held(uid: str, role: Role, *, disk: int = 0, memory: int = 0) -> Journal:
    """The journal of another VM that holds so much of this host."""
    reserved = Reserved(cpu=1, memory=memory, disk=disk)
    return Journal(uid=uid, epoch=1, epoch_id="e1", role=role, step=JournalStep(seq=1, verb=Verb.CREATE), reserved=reserved)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let so many bytes be free for disks."""
    monkeypatch.setattr(reserver_module, "make_room", lambda *_: count)


async def test_everything_is_journaled_before_it_is_made(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Role, tuple[str, ...], int, set[str]]] = []
    write = JournalStore.write

    def noted(store: JournalStore, journal: Journal) -> None:
        there = {path.name for path in (rig.path / "instances").glob("*/*")}
        written.append((journal.role, journal.created, 0 if journal.reserved is None else journal.reserved.disk, there))
        write(store, journal)

    monkeypatch.setattr(JournalStore, "write", noted)
    await rig.place(running=False)
    await rig.ask(Verb.CREATE)
    needed = MARGIN + sources_occupy(rig)
    assert written == [
        (Role.INCOMING, (), needed, set()),
        (Role.INCOMING, ("kernel",), needed, set()),
        (Role.INCOMING, ("kernel", "root.raw"), needed, {"kernel"}),
        (Role.ACTIVE, ("kernel", "root.raw"), needed, {"kernel", "root.raw"}),
    ]


@pytest.mark.parametrize(("spare", "outcome"), [(0, TaskState.CREATED), (-1, reasons.INSUFFICIENT_DISK)])
async def test_there_must_be_room_for_the_sources_and_a_margin(rig: Rig, spare: int, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, MARGIN + sources_occupy(rig) + spare)
    await rig.place(running=False)
    assert ended(await rig.ask(Verb.CREATE)) == outcome


@pytest.mark.parametrize(
    ("role", "outcome"),
    [
        pytest.param(Role.INCOMING, reasons.INSUFFICIENT_DISK, id="what-is-being-filled-will-take-it"),
        pytest.param(Role.ACTIVE, TaskState.CREATED, id="what-is-whole-has-taken-it"),
    ],
)
async def test_of_the_free_bytes_those_are_held_that_other_copies_will_fill(
    rig: Rig, role: Role, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, MARGIN + sources_occupy(rig) + 99)
    rig.journals.write(held("other", role, disk=100))
    await rig.place(running=False)
    assert ended(await rig.ask(Verb.CREATE)) == outcome


async def killed_midway(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Create that ends when the kernel is whole and the disk is about to be made."""
    write = JournalStore.write

    def die(store: JournalStore, journal: Journal) -> None:
        write(store, journal)
        if "root.raw" in journal.created:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(JournalStore, "write", die)
        with pytest.raises(Killed):
            await rig.ask(Verb.CREATE)
    rig.boot(rig.settings, "boot-1")


async def test_a_create_that_was_killed_midway_goes_on_from_its_journal(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.place()
    await killed_midway(rig, monkeypatch)
    assert rig.journal().role == Role.INCOMING
    assert (rig.path / "instances" / UID / "kernel").exists()
    await rig.worker.reconcile(UID)
    assert rig.journal().role == Role.ACTIVE
    assert rig.runs()


async def test_a_create_that_goes_on_does_not_count_itself_among_the_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, MARGIN + sources_occupy(rig))
    await rig.place(running=False)
    await rig.change(domain=dataclasses.replace(rig.domain(), memory=10 * GIB))
    await killed_midway(rig, monkeypatch)
    await rig.worker.reconcile(UID)
    assert rig.journal().role == Role.ACTIVE


async def test_a_create_that_goes_on_needs_room_only_for_what_is_missing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.place(running=False)
    await killed_midway(rig, monkeypatch)
    root = (rig.path / "images" / "root").stat().st_blocks * 512
    (rig.path / "instances" / UID / "root.raw.part").write_bytes(b"half")
    part = (rig.path / "instances" / UID / "root.raw.part").stat().st_blocks * 512
    assert part > 0
    free(monkeypatch, MARGIN + root - part)
    await rig.worker.reconcile(UID)
    assert rig.journal().role == Role.ACTIVE
    assert rig.journal().reserved == Reserved(cpu=2, memory=512 << 20, disk=MARGIN + root - part)


async def test_a_journal_that_can_not_be_read_keeps_no_other_vm_from_being_made(rig: Rig) -> None:
    (rig.path / "state" / "journals" / "other.json").write_text("{")
    await rig.place(running=False)
    assert ended(await rig.ask(Verb.CREATE)) == TaskState.CREATED
