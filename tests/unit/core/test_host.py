"""The role table: which task makes what of a copy."""

import dataclasses
from typing import Any

import pytest
from builders import NOON, UID, domain, placement

from kubeferry.api import reasons
from kubeferry.api.placement import Copy, PlacementSpec, Step, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import (
    ActivateParameters,
    CopyParameters,
    CreateParameters,
    DiscardMode,
    DiscardParameters,
    HostTaskSpec,
    PlacementReference,
    PreflightParameters,
    PrepareParameters,
    Proof,
    ProofKind,
    SealParameters,
    StartParameters,
    StopParameters,
    TaskState,
    Verb,
)
from kubeferry.core import gate, guards, host, transitions
from kubeferry.core.host import Acknowledge, Act, Effect, Refuse
from kubeferry.core.journal import Journal, JournalDisk, JournalStep

HERE = "host-a"
POWER = (Verb.START, Verb.STOP)
STEPS = tuple(
    Step(seq=5, verb=verb, node="a", host_id=HERE, epoch=epoch, state=StepState.PENDING, started_at=NOON)
    for verb in POWER
    for epoch in (1, 2, 3)
)
"""What the ledger waits for."""


def lineage(*ids: str) -> PlacementSpec:
    """A Placement on this host whose epochs have these ids, newest first; it names a copy here, which was made in the first of them."""
    copies = (Copy(node="a", host_id=HERE, epoch_id=ids[-1]),)
    return dataclasses.replace(placement().spec, epoch=len(ids), lineage=ids, copies=copies, steps=STEPS)


def task(verb: Verb, epoch: int = 2, epoch_id: str = "e2", host_id: str = HERE, proof: ProofKind | None = None) -> HostTaskSpec:
    shown = None if proof is None else Proof(kind=proof, node="b", host_id="host-b", epoch=epoch, seq=4)
    blocks: dict[Verb, object] = {
        Verb.CREATE: CreateParameters(domain=domain()),
        Verb.START: StartParameters(domain=domain()),
        Verb.STOP: StopParameters(shutdown_timeout_seconds=60),
        Verb.PREPARE: PrepareParameters(source="b", domain=domain(), bytes=1 << 20),
        Verb.PREFLIGHT: PreflightParameters(target="b", target_host_id="host-b"),
        Verb.SEAL: SealParameters(shutdown_timeout_seconds=60),
        Verb.COPY: CopyParameters(target="b", target_host_id="host-b"),
        Verb.ACTIVATE: ActivateParameters(domain=domain(), proof=shown),
        Verb.DISCARD: DiscardParameters(mode=DiscardMode.TRASH),
    }
    reference = PlacementReference(name=UID, uid="placement-1")
    bare = HostTaskSpec(node="a", host_id=host_id, verb=verb, epoch=epoch, epoch_id=epoch_id, seq=5, placement=reference)
    return dataclasses.replace(bare, **{verb.lower(): blocks[verb]})


def journal(role: Role, epoch: int = 2, epoch_id: str = "e2") -> Journal:
    return Journal(uid=UID, epoch=epoch, epoch_id=epoch_id, role=role, step=JournalStep(seq=1, verb=Verb.CREATE), domain=domain())


def cell(role: Role, verb: Verb, at: str, proof: ProofKind | None = None) -> str:
    """What the table answers, in a word; `at`: the task's epoch is lower, the same or higher than the journal's."""
    epoch, epoch_id = {"lower": (1, "e1"), "same": (2, "e2"), "higher": (3, "e3")}[at]
    ids = ("e3", "e2", "e1")[3 - max(epoch, 2) :]  # the Placement is at the task's epoch, or at the journal's if that is higher
    asked = task(verb, epoch, epoch_id, proof=proof)
    answer = host.answer(asked, None if role == Role.NONE else journal(role), lineage(*ids), HERE)
    match answer:
        case Refuse():
            return "-" if answer.reason == reasons.REFUSED_BY_ROLE else answer.reason
        case Acknowledge():
            if answer.note is None:
                return f"ack {answer.state}"
            assert (answer.note.epoch, answer.note.epoch_id, answer.note.step.seq) == (epoch, epoch_id, 5)
            return f"{answer.note.role} ack {answer.state}"
        case Act(effect=Effect.REACH | Effect.FINISH_SEAL):
            assert answer.journal == journal(role)
            return f"{answer.journal.role} {answer.effect}"
        case Act():
            assert (answer.journal.epoch, answer.journal.epoch_id, answer.journal.step.seq) == (epoch, epoch_id, 5)
            return f"{answer.journal.role} {answer.effect}"


CELLS: dict[tuple[Role, Verb], tuple[str, str]] = {
    (Role.NONE, Verb.CREATE): ("INCOMING MakeDisks", "INCOMING MakeDisks"),
    (Role.NONE, Verb.PREPARE): ("INCOMING Reserve", "INCOMING Reserve"),
    (Role.NONE, Verb.SEAL): ("GONE ack Sealed", "GONE ack Sealed"),
    (Role.NONE, Verb.DISCARD): ("GONE ack Gone", "GONE ack Gone"),
    (Role.GONE, Verb.CREATE): ("INCOMING MakeDisks", "INCOMING MakeDisks"),
    (Role.GONE, Verb.PREPARE): ("INCOMING Reserve", "INCOMING Reserve"),
    (Role.GONE, Verb.SEAL): ("GONE ack Sealed", "GONE ack Sealed"),
    (Role.GONE, Verb.DISCARD): ("GONE ack Gone", "GONE ack Gone"),
    (Role.INCOMING, Verb.CREATE): ("INCOMING MakeDisks", "-"),
    (Role.INCOMING, Verb.PREPARE): ("-", "-"),  # without a source it is a Create's; with one, see below
    (Role.INCOMING, Verb.SEAL): ("INCOMING ack Sealed", "INCOMING ack Sealed"),
    (Role.INCOMING, Verb.DISCARD): ("DELETING Discard", "DELETING Discard"),
    (Role.VERIFIED, Verb.SEAL): ("INCOMING ack Sealed", "INCOMING ack Sealed"),
    (Role.VERIFIED, Verb.DISCARD): ("DELETING Discard", "DELETING Discard"),
    (Role.ACTIVE, Verb.CREATE): ("ack Created", "-"),
    (Role.ACTIVE, Verb.START): ("ACTIVE Start", "ACTIVE Start"),
    (Role.ACTIVE, Verb.STOP): ("ACTIVE PowerOff", "ACTIVE PowerOff"),
    (Role.ACTIVE, Verb.PREPARE): (reasons.UNABLE_TO_MIGRATE_TO_SELF, reasons.UNABLE_TO_MIGRATE_TO_SELF),
    (Role.ACTIVE, Verb.PREFLIGHT): ("ACTIVE Reach", "ACTIVE Reach"),
    (Role.ACTIVE, Verb.SEAL): ("-", "SEALING Stop"),
    (Role.ACTIVE, Verb.ACTIVATE): ("ACTIVE Start", "ACTIVE Start"),
    (Role.SEALING, Verb.SEAL): ("SEALING Stop", "SEALING Stop"),
    (Role.SEALING, Verb.ACTIVATE): ("-", "SEALING FinishSeal"),
    (Role.SEALING, Verb.DISCARD): ("SEALING FinishSeal", "SEALING FinishSeal"),
    (Role.SEALED, Verb.PREFLIGHT): ("SEALED Reach", "SEALED Reach"),
    (Role.SEALED, Verb.SEAL): ("ack Sealed", "SEALED ack Sealed"),
    (Role.SEALED, Verb.COPY): ("SEALED Send", "-"),
    (Role.SEALED, Verb.ACTIVATE): ("-", "ACTIVE Start"),
    (Role.SEALED, Verb.DISCARD): ("DELETING Discard", "DELETING Discard"),
    (Role.RELEASED, Verb.SEAL): ("RELEASED ack Sealed", "RELEASED ack Sealed"),
    (Role.RELEASED, Verb.COPY): ("ack Released", "-"),
    (Role.RELEASED, Verb.ACTIVATE): ("RELEASED ack Released", "RELEASED ack Released"),
    (Role.RELEASED, Verb.DISCARD): ("DELETING Discard", "DELETING Discard"),
    (Role.DELETING, Verb.SEAL): ("DELETING ack Sealed", "DELETING ack Sealed"),
    (Role.DELETING, Verb.DISCARD): ("DELETING Discard", "DELETING Discard"),
}
"""What becomes of the copy at the journal's epoch, and at a higher one; all other cells refuse."""


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("verb", list(Verb))
def test_the_table_says_for_every_role_and_verb_what_becomes_of_the_copy(role: Role, verb: Verb) -> None:
    assert (cell(role, verb, "same"), cell(role, verb, "higher")) == CELLS.get((role, verb), ("-", "-"))


PROOFS = [
    pytest.param(Role.VERIFIED, None, "-", "-", id="target-without-proof"),
    pytest.param(Role.VERIFIED, ProofKind.RELEASED, "ACTIVE Start", "-", id="target-whose-source-has-released"),
    pytest.param(Role.VERIFIED, ProofKind.SEALED, "-", "-", id="target-with-the-proof-of-another-way"),
    pytest.param(Role.INCOMING, ProofKind.RELEASED, "-", "-", id="target-whose-copy-is-not-whole"),
    pytest.param(Role.RELEASED, None, "RELEASED ack Released", "RELEASED ack Released", id="source-without-proof"),
    pytest.param(Role.RELEASED, ProofKind.RELEASED, "RELEASED ack Released", "RELEASED ack Released", id="source-with-its-own-word"),
    pytest.param(Role.RELEASED, ProofKind.SEALED, "ACTIVE Start", "ACTIVE Start", id="source-whose-target-is-sealed"),
    pytest.param(Role.RELEASED, ProofKind.FENCE, "ACTIVE Start", "ACTIVE Start", id="source-whose-target-is-fenced"),
    pytest.param(Role.GONE, ProofKind.SEALED, "-", "-", id="nothing-here"),
]


@pytest.mark.parametrize(("role", "proof", "same", "higher"), PROOFS)
def test_the_right_to_start_moves_only_with_its_proof(role: Role, proof: ProofKind | None, same: str, higher: str) -> None:
    assert (cell(role, Verb.ACTIVATE, "same", proof), cell(role, Verb.ACTIVATE, "higher", proof)) == (same, higher)


@pytest.mark.parametrize(
    ("guard", "role", "verb", "becomes"),
    [
        pytest.param("activate_needs_release", Role.VERIFIED, Verb.ACTIVATE, "ACTIVE Start", id="target-without-proof"),
        pytest.param("proof_of_seal", Role.RELEASED, Verb.ACTIVATE, "ACTIVE Start", id="source-without-proof"),
        pytest.param("sealed_first", Role.ACTIVE, Verb.COPY, "ACTIVE Send", id="copy-of-a-vm-that-runs"),
    ],
)
def test_without_its_guard_a_cell_would_act(monkeypatch: pytest.MonkeyPatch, guard: str, role: Role, verb: Verb, becomes: str) -> None:
    monkeypatch.setattr(guards, guard, lambda *_, **__: True)
    assert cell(role, verb, "same") == becomes


def test_without_its_guard_a_copy_that_is_not_whole_would_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "verified", lambda *, whole: True)
    assert cell(Role.INCOMING, Verb.ACTIVATE, "same", ProofKind.RELEASED) == "ACTIVE Start"


def test_the_gate_is_asked_for_a_start_without_a_task_too(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = dataclasses.replace(placement().spec, node_name="b")
    assert gate.start(elsewhere, journal(Role.ACTIVE, 1, "e1"), "a", HERE, None) is not None
    monkeypatch.setattr(guards, "gate_on_boot", lambda task: task is not None)
    assert gate.start(elsewhere, journal(Role.ACTIVE, 1, "e1"), "a", HERE, None) is None


def test_a_seal_journals_how_long_the_guest_gets() -> None:
    answer = host.answer(task(Verb.SEAL, 3, "e3"), journal(Role.ACTIVE), lineage("e3", "e2", "e1"), HERE)
    assert isinstance(answer, Act)
    assert answer.journal.step == JournalStep(seq=5, verb=Verb.SEAL, grace_seconds=60)


def test_a_seal_is_finished_at_its_own_epoch_so_that_what_is_asked_next_is_a_higher_one() -> None:
    held = journal(Role.SEALING)
    answer = host.answer(task(Verb.ACTIVATE, 3, "e3"), held, lineage("e3", "e2", "e1"), HERE)
    assert answer == Act(held, Effect.FINISH_SEAL)
    again = host.answer(task(Verb.ACTIVATE, 3, "e3"), transitions.seal(held), lineage("e3", "e2", "e1"), HERE)
    assert isinstance(again, Act)
    assert (again.journal.role, again.journal.epoch, again.effect) == (Role.ACTIVE, 3, Effect.START)


def test_a_prepared_copy_knows_who_may_fill_it_and_is_acknowledged_again_only_at_its_epoch() -> None:
    answer = host.answer(task(Verb.PREPARE), None, lineage("e2", "e1"), HERE)
    assert isinstance(answer, Act)
    assert (answer.journal.source, answer.journal.domain) == ("b", domain())
    assert host.answer(task(Verb.PREPARE), answer.journal, lineage("e2", "e1"), HERE) == Acknowledge(TaskState.PREPARED)
    other = host.answer(task(Verb.CREATE), answer.journal, lineage("e2", "e1"), HERE)
    assert isinstance(other, Refuse), "nothing is made from its sources where a copy is to come"
    later = host.answer(task(Verb.PREPARE, 3, "e3"), answer.journal, lineage("e3", "e2", "e1"), HERE)
    assert isinstance(later, Refuse)


RECEIVED = [
    pytest.param({}, (2, "e2", "b"), True, id="incoming"),
    pytest.param({"role": Role.VERIFIED}, (2, "e2", "b"), True, id="whole-already"),
    pytest.param({"role": Role.ACTIVE}, (2, "e2", "b"), False, id="active"),
    pytest.param({"role": Role.GONE}, (2, "e2", "b"), False, id="gone"),
    pytest.param({"source": None}, (2, "e2", "b"), False, id="a-creates-copy"),
    pytest.param({}, (2, "e2", "c"), False, id="from-another-node"),
    pytest.param({}, (1, "e1", "b"), False, id="of-a-lower-epoch"),
    pytest.param({}, (3, "e3", "b"), False, id="of-a-higher-epoch"),
    pytest.param({}, (2, "x2", "b"), False, id="of-another-history"),
]


@pytest.mark.parametrize(("kept", "sender", "expected"), RECEIVED)
def test_a_copy_is_filled_only_by_its_source_at_its_epoch(kept: dict[str, object], sender: tuple[int, str, str], expected: bool) -> None:
    mine = dataclasses.replace(journal(Role.INCOMING), **({"source": "b"} | kept))
    refused = gate.receive(mine, UID, *sender)
    assert (refused is None) == expected
    assert refused is None or refused.reason == reasons.NOT_INCOMING


def test_where_nothing_was_prepared_nothing_is_received() -> None:
    refused = gate.receive(None, UID, 2, "e2", "b")
    assert refused is not None
    assert "holds none" in refused.message


def test_a_discard_that_this_version_does_not_know_is_refused() -> None:
    forget = dataclasses.replace(task(Verb.DISCARD), discard=DiscardParameters(mode=DiscardMode.FORGET))
    answer = host.answer(forget, journal(Role.RELEASED), lineage("e2", "e1"), HERE)
    assert isinstance(answer, Refuse)
    assert "Forget" in answer.message


def test_a_copy_that_is_gone_leaves_nothing_in_its_journal_but_its_epoch() -> None:
    full = dataclasses.replace(
        transitions.reserve(transitions.note_created(journal(Role.DELETING), "root.raw"), 9),
        disks={"root": JournalDisk(inode=9)},
        source="b",
    )
    gone = transitions.bury(full)
    assert gone == Journal(uid=UID, epoch=2, epoch_id="e2", role=Role.GONE, step=full.step)


def test_what_a_copy_becomes_is_told_by_its_journal() -> None:
    assert transitions.seal(journal(Role.SEALING)).role == Role.SEALED
    assert transitions.release(journal(Role.SEALED)).role == Role.RELEASED
    verified = transitions.verify(journal(Role.INCOMING), {"root": JournalDisk(inode=9, digest="d")})
    assert (verified.role, verified.disks["root"].digest) == (Role.VERIFIED, "d")


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
    bare = dataclasses.replace(task(verb), **{verb.lower(): None})
    acting = {Verb.CREATE: Role.NONE, Verb.PREPARE: Role.NONE, Verb.COPY: Role.SEALED, Verb.DISCARD: Role.SEALED, Verb.SEAL: Role.SEALING}
    role = acting.get(verb, Role.ACTIVE)
    answer = host.answer(bare, None if role == Role.NONE else journal(role), lineage("e2", "e1"), HERE)
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
    made = transitions.activate(
        transitions.reserve(transitions.note_created(journal(Role.INCOMING), "root.raw"), 99), {"root": JournalDisk(inode=9)}
    )
    assert (made.role, made.disks, made.created) == (Role.ACTIVE, {"root": JournalDisk(inode=9)}, ("root.raw",))
    assert made.reserved is not None
    assert (made.reserved.cpu, made.reserved.memory, made.reserved.disk) == (2, 512 << 20, 99)
    assert transitions.note_created(made, "root.raw").created == ("root.raw",)


@pytest.mark.parametrize(
    ("role", "epoch", "proof"),
    [
        (Role.ACTIVE, 2, None),
        (Role.ACTIVE, 3, None),
        (Role.SEALED, 3, None),
        (Role.VERIFIED, 2, ProofKind.RELEASED),
        (Role.RELEASED, 3, ProofKind.SEALED),
        (Role.RELEASED, 3, ProofKind.FENCE),
    ],
)
def test_a_halted_vm_is_there_and_not_started(role: Role, epoch: int, proof: ProofKind | None) -> None:
    """As far as it would be started if it were to run: whoever lacks the proof is refused all the same."""
    spec = dataclasses.replace(lineage("e3", "e2", "e1"), running=False)
    asked = task(Verb.ACTIVATE, epoch, f"e{epoch}", proof=proof)
    answer = host.answer(asked, journal(role), spec, HERE)
    assert isinstance(answer, Acknowledge)
    assert answer.state == TaskState.READY
    assert answer.note is not None
    assert (answer.note.role, answer.note.epoch, answer.note.epoch_id, answer.note.step.seq) == (Role.ACTIVE, epoch, f"e{epoch}", 5)
    runs = host.answer(asked, journal(role), lineage("e3", "e2", "e1"), HERE)
    assert runs == Act(answer.note, Effect.START)


@pytest.mark.parametrize(("role", "epoch"), [(Role.SEALED, 2), (Role.VERIFIED, 2), (Role.RELEASED, 3), (Role.SEALING, 2)])
def test_a_halted_vm_without_the_proof_is_not_there(role: Role, epoch: int) -> None:
    answer = host.answer(
        task(Verb.ACTIVATE, epoch, f"e{epoch}"), journal(role), dataclasses.replace(lineage("e3", "e2"), running=False), HERE
    )
    assert not isinstance(answer, Acknowledge) or answer.state != TaskState.READY


@pytest.mark.parametrize("verb", POWER)
@pytest.mark.parametrize("change", [{"state": StepState.SUCCEEDED}, {"seq": 6}, {"epoch": 1}], ids=["settled", "another", "older"])
def test_a_start_or_stop_that_the_ledger_does_not_wait_for_changes_nothing(verb: Verb, change: dict[str, Any]) -> None:
    spec = lineage("e2", "e1")
    (step,) = (s for s in spec.steps if (s.verb, s.epoch) == (verb, 2))
    late = dataclasses.replace(spec, steps=(dataclasses.replace(step, **change),))
    assert isinstance(host.answer(task(verb), journal(Role.ACTIVE), spec, HERE), Act)
    refused = host.answer(task(verb), journal(Role.ACTIVE), late, HERE)
    assert isinstance(refused, Refuse)
    assert refused.reason == reasons.STALE_TASK


GATE = [
    pytest.param({}, {}, None, TaskState.RUNNING, id="open"),
    pytest.param({"node_name": "b"}, {}, None, reasons.GATE_SHUT, id="another-node"),
    pytest.param({"node_name": ""}, {}, None, reasons.GATE_SHUT, id="no-node"),
    pytest.param({"host_id": "host-new"}, {}, None, reasons.GATE_SHUT, id="another-host-of-that-name"),
    pytest.param({"running": False}, {}, None, reasons.HALTED, id="wanted-stopped"),
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
    refused = gate.start(spec, mine, "a", HERE, None if epoch is None else task(Verb.START, epoch, "e1"))
    assert (TaskState.RUNNING if refused is None else refused.reason) == expected


def test_without_the_node_guard_the_gate_would_open_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "gate_node", lambda placement, node, host_id: True)
    spec = dataclasses.replace(placement().spec, node_name="b")
    assert gate.start(spec, journal(Role.ACTIVE, 1, "e1"), "a", HERE, None) is None


@pytest.mark.parametrize("role", [Role.INCOMING, Role.VERIFIED, Role.SEALING, Role.SEALED, Role.RELEASED])
def test_an_older_copy_than_the_placement_names_is_not_discarded(role: Role) -> None:
    """A Prepare that was given up unanswered has marked it, and would have been refused for it."""
    named = dataclasses.replace(lineage("e3", "e2", "e1"), copies=(Copy(node="a", host_id=HERE, epoch_id="e2"),))
    asked = task(Verb.DISCARD, 3, "e3")
    refused = host.answer(asked, journal(role, 1, "e1"), named, HERE)
    assert isinstance(refused, Refuse)
    assert refused.reason == reasons.FOREIGN_COPY
    assert "the Placement names a of epoch id e2" in refused.message
    assert isinstance(host.answer(asked, journal(role, 2, "e2"), named, HERE), Act), "what its Prepare has made"
    assert isinstance(host.answer(asked, journal(role, 3, "e3"), named, HERE), Act), "what has acted since"


def test_a_copy_that_no_placement_names_is_not_discarded() -> None:
    unnamed = dataclasses.replace(lineage("e3", "e2", "e1"), copies=(Copy(node="b", host_id="host-b", epoch_id="e1"),))
    refused = host.answer(task(Verb.DISCARD, 3, "e3"), journal(Role.SEALED), unnamed, HERE)
    assert isinstance(refused, Refuse)
    assert refused.reason == reasons.FOREIGN_COPY
