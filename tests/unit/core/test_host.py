"""The role table: which task makes what of a copy."""

import dataclasses

import pytest
from builders import UID, domain, placement

from kubeferry.api import reasons
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.role import Role
from kubeferry.api.task import CreateParameters, HostTaskSpec, PlacementReference, StartParameters, TaskState, Verb
from kubeferry.core import guards, host
from kubeferry.core.host import Acknowledge, Act, Refuse
from kubeferry.core.journal import Journal, JournalDisk, JournalStep

HERE = "host-a"


def lineage(*ids: str) -> PlacementSpec:
    """A Placement on this host whose epochs have these ids, newest first."""
    return dataclasses.replace(placement().spec, epoch=len(ids), lineage=ids, copies=())


def task(verb: Verb, epoch: int = 2, epoch_id: str = "e2", host_id: str = HERE) -> HostTaskSpec:
    return HostTaskSpec(
        node="a",
        host_id=host_id,
        verb=verb,
        epoch=epoch,
        epoch_id=epoch_id,
        seq=5,
        placement=PlacementReference(name=UID, uid="placement-1"),
        create=CreateParameters(domain=domain()) if verb == Verb.CREATE else None,
        start=StartParameters(domain=domain()) if verb == Verb.START else None,
    )


def journal(role: Role, epoch: int = 2, epoch_id: str = "e2") -> Journal:
    return Journal(uid=UID, epoch=epoch, epoch_id=epoch_id, role=role, step=JournalStep(seq=1, verb=Verb.CREATE), domain=domain())


def cell(role: Role, verb: Verb, at: str) -> str:
    """What the table answers, in a word; `at`: the task's epoch is lower, the same or higher than the journal's."""
    epoch, epoch_id = {"lower": (1, "e1"), "same": (2, "e2"), "higher": (3, "e3")}[at]
    ids = ("e3", "e2", "e1")[3 - max(epoch, 2) :]  # the Placement is at the task's epoch, or at the journal's if that is higher
    answer = host.answer(task(verb, epoch, epoch_id), None if role == Role.NONE else journal(role), lineage(*ids), HERE)
    match answer:
        case Refuse():
            return "-" if answer.reason == reasons.REFUSED_BY_ROLE else answer.reason
        case Acknowledge():
            return f"ack {answer.state}"
        case Act():
            assert (answer.journal.epoch, answer.journal.epoch_id, answer.journal.step.seq) == (epoch, epoch_id, 5)
            return f"{answer.journal.role} {answer.effect}"


CREATE_NEW = ("INCOMING MakeDisks",) * 2
REFUSED = ("-", "-")

# role, (Create at same, higher), (Start at same, higher)
CELLS = [
    (Role.NONE, CREATE_NEW, REFUSED),
    (Role.GONE, CREATE_NEW, REFUSED),
    (Role.INCOMING, ("INCOMING MakeDisks", "-"), REFUSED),
    (Role.ACTIVE, ("ack Created", "-"), ("ACTIVE Start", "ACTIVE Start")),
    (Role.VERIFIED, REFUSED, REFUSED),
    (Role.SEALING, REFUSED, REFUSED),
    (Role.SEALED, REFUSED, REFUSED),
    (Role.RELEASED, REFUSED, REFUSED),
    (Role.DELETING, REFUSED, REFUSED),
]


@pytest.mark.parametrize(("role", "create", "start"), CELLS, ids=[row[0] for row in CELLS])
def test_the_table_says_for_every_role_and_verb_what_becomes_of_the_copy(
    role: Role, create: tuple[str, ...], start: tuple[str, ...]
) -> None:
    assert tuple(cell(role, Verb.CREATE, at) for at in ("same", "higher")) == create
    assert tuple(cell(role, Verb.START, at) for at in ("same", "higher")) == start


def test_every_role_is_in_the_table_of_this_test() -> None:
    assert {row[0] for row in CELLS} == set(Role)


@pytest.mark.parametrize("role", [role for role in Role if role != Role.NONE])
@pytest.mark.parametrize("verb", list(Verb))
def test_a_task_of_a_lower_epoch_is_refused_in_every_role(role: Role, verb: Verb) -> None:
    assert cell(role, verb, "lower") == reasons.STALE_EPOCH


def test_without_the_epoch_guard_a_late_task_would_be_acted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "epoch", lambda task_epoch, journal_epoch: True)
    assert cell(Role.ACTIVE, Verb.START, "lower") == "ACTIVE Start"


def test_a_task_for_another_host_is_refused() -> None:
    answer = host.answer(task(Verb.CREATE, host_id="host-old"), None, lineage("e2"), HERE)
    assert isinstance(answer, Refuse)
    assert answer.reason == reasons.HOST_REPLACED


@pytest.mark.parametrize(
    ("asked", "held", "known", "diverged"),
    [
        pytest.param("e2", "e2", ("e2", "e1"), False, id="both-known"),
        pytest.param("e2", "e1", ("e2", "e1"), False, id="older-journal"),
        pytest.param("x2", "e2", ("e2", "e1"), True, id="task-of-another-history"),
        pytest.param("e2", "x1", ("e2", "e1"), True, id="journal-of-another-history"),
    ],
)
def test_a_history_that_the_lineage_does_not_hold_stops_everything(asked: str, held: str, known: tuple[str, ...], diverged: bool) -> None:
    kept = journal(Role.ACTIVE, epoch=1, epoch_id=held)
    answer = host.answer(task(Verb.START, 2, asked), kept, lineage(*known), HERE)
    assert isinstance(answer, Refuse) == diverged
    if isinstance(answer, Refuse):
        assert answer.reason == reasons.HISTORY_DIVERGED


def test_an_epoch_that_left_the_lineage_is_known_by_this_hosts_own_copy() -> None:
    spec = placement().spec
    assert guards.lineage(dataclasses.replace(spec, lineage=("e99",)), "e1", HERE)
    assert not guards.lineage(dataclasses.replace(spec, lineage=("e99",)), "e1", "host-b")


def test_where_nothing_is_left_only_the_tasks_history_counts() -> None:
    answer = host.answer(task(Verb.CREATE, 2, "e2"), journal(Role.GONE, 1, "x1"), lineage("e2", "e1"), HERE)
    assert isinstance(answer, Act)


def test_a_copy_that_was_gone_starts_from_an_empty_journal() -> None:
    gone = dataclasses.replace(journal(Role.GONE, 1, "e1"), created=("root.raw",), disks={"root": JournalDisk(inode=9)})
    answer = host.answer(task(Verb.CREATE), gone, lineage("e2", "e1"), HERE)
    assert isinstance(answer, Act)
    assert (answer.journal.created, answer.journal.disks) == ((), {})


@pytest.mark.parametrize("verb", list(Verb))
def test_a_task_without_its_parameters_is_refused(verb: Verb) -> None:
    bare = dataclasses.replace(task(verb), create=None, start=None)
    answer = host.answer(bare, None if verb == Verb.CREATE else journal(Role.ACTIVE), lineage("e2", "e1"), HERE)
    assert isinstance(answer, Refuse)
    assert answer.reason == reasons.INVALID_TASK


@pytest.mark.parametrize(
    "placed",
    [{"node_name": "b", "host_id": "host-b"}, {"node_name": ""}, {"host_id": "host-new"}, {"epoch": 3, "lineage": ("e3", "e2", "e1")}],
    ids=["another-node", "no-node", "another-host", "another-epoch"],
)
@pytest.mark.parametrize("role", [Role.NONE, Role.GONE])
def test_a_late_create_makes_nothing_where_the_vm_is_not_any_more(role: Role, placed: dict[str, object]) -> None:
    spec = dataclasses.replace(lineage("e2", "e1"), **placed)
    answer = host.answer(task(Verb.CREATE), None if role == Role.NONE else journal(role, 1, "e1"), spec, HERE)
    assert isinstance(answer, Refuse)
    assert answer.reason == reasons.NOT_PLACED_HERE


def test_a_task_whose_domain_is_another_vms_is_refused() -> None:
    other = dataclasses.replace(task(Verb.CREATE), create=CreateParameters(domain=domain(uuid="0" * 36)))
    answer = host.answer(other, None, lineage("e2", "e1"), HERE)
    assert isinstance(answer, Refuse)
    assert answer.reason == reasons.INVALID_TASK


def test_the_journal_of_a_created_copy_is_active_and_knows_its_disks() -> None:
    made = host.activate(host.reserve(host.note_created(journal(Role.INCOMING), "root.raw"), 99), {"root": JournalDisk(inode=9)})
    assert (made.role, made.disks, made.created) == (Role.ACTIVE, {"root": JournalDisk(inode=9)}, ("root.raw",))
    assert made.reserved is not None
    assert (made.reserved.cpu, made.reserved.memory, made.reserved.disk) == (2, 512 << 20, 99)
    assert host.note_created(made, "root.raw").created == ("root.raw",)


GATE = [
    pytest.param({}, {}, None, TaskState.RUNNING, id="open"),
    pytest.param({"node_name": "b"}, {}, None, reasons.GATE_SHUT, id="another-node"),
    pytest.param({"node_name": ""}, {}, None, reasons.GATE_SHUT, id="no-node"),
    pytest.param({"host_id": "host-new"}, {}, None, reasons.GATE_SHUT, id="another-host-of-that-name"),
    pytest.param({"running": False}, {}, None, reasons.GATE_SHUT, id="wanted-stopped"),
    pytest.param({}, {"role": Role.SEALED}, None, reasons.GATE_SHUT, id="sealed"),
    pytest.param({}, {"role": Role.RELEASED}, None, reasons.GATE_SHUT, id="released"),
    pytest.param({}, {"role": Role.INCOMING}, None, reasons.GATE_SHUT, id="incoming"),
    pytest.param({}, {"epoch_id": "x1"}, None, reasons.HISTORY_DIVERGED, id="another-history"),
    pytest.param({}, {}, 1, TaskState.RUNNING, id="task-of-this-epoch"),
    pytest.param({}, {}, 2, reasons.GATE_SHUT, id="task-of-a-higher-epoch"),
    pytest.param({"epoch": 2, "lineage": ("e2", "e1")}, {}, 1, reasons.GATE_SHUT, id="task-of-a-lower-epoch"),
]


@pytest.mark.parametrize(("placed", "kept", "epoch", "expected"), GATE)
def test_the_gate_opens_only_for_the_host_that_the_placement_names(
    placed: dict[str, object], kept: dict[str, object], epoch: int | None, expected: str
) -> None:
    spec = dataclasses.replace(placement().spec, **placed)
    mine = dataclasses.replace(journal(Role.ACTIVE, 1, "e1"), **kept)
    refused = host.gate(spec, mine, "a", HERE, None if epoch is None else task(Verb.START, epoch, "e1"))
    assert (TaskState.RUNNING if refused is None else refused.reason) == expected


def test_without_the_node_guard_the_gate_would_open_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "gate_node", lambda placement, node, host_id: True)
    spec = dataclasses.replace(placement().spec, node_name="b")
    assert host.gate(spec, journal(Role.ACTIVE, 1, "e1"), "a", HERE, None) is None
