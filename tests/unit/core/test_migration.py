"""A migration, from the lock to its end: what is asked of which host, and who may start the VM when."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from builders import NOON, after, failed, host, migration, placement, vm
from move_life import DIGEST, FORWARD, Life, running

from kubeferry.api import reasons
from kubeferry.api.migration import DecisionValue, MigrationPhase
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Copy, Direction, LockKind, Outcome, PlacementSpec, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import DiscardMode, DiskResult, HostTaskStatus, ProofKind, TaskPhase, TaskResult, TaskState, Verb
from kubeferry.core import guards, ledger, project_migration
from kubeferry.core.observed import Choice, ReplacePlacement
from kubeferry.core.vm import step

# Taking the lock


def test_the_lock_is_taken_in_one_write_with_epoch_move_copy_and_prepare() -> None:
    life = Life()
    life.step()
    spec = life.spec
    assert (spec.epoch, spec.lineage, spec.node_name, spec.host_id) == (2, ("e2", "e1"), "a", "host-a")
    assert spec.lock is not None
    assert (spec.lock.kind, spec.lock.name, spec.lock.uid) == (LockKind.MIGRATION, "move", "uid-move")
    assert spec.move is not None
    assert (spec.move.direction, spec.move.source, spec.move.target) == (Direction.FORWARD, "a", "b")
    assert (spec.move.bytes, spec.move.shutdown_timeout_seconds, spec.move.domain) == (64 << 20, 60, spec.domain)
    assert [(c.node, c.host_id, c.epoch_id, c.discard) for c in spec.copies] == [("a", "host-a", "e1", None), ("b", "host-b", "e2", None)]
    assert [(s.verb, s.node, s.epoch, s.state) for s in spec.steps] == [(Verb.PREPARE, "b", 2, StepState.PENDING)]
    assert life.open() == [(Verb.PREPARE, "b")]


def test_a_migration_is_protected_before_it_takes_the_lock() -> None:
    life = Life()
    decision = life.decide()
    assert decision.protect_migration == life.migrations["move"]
    assert decision.placement is None
    life.step()
    assert life.migrations["move"].metadata.finalizers == (FINALIZER,)


def test_the_pass_is_asked_with_what_it_needs_to_know() -> None:
    life = Life(migration(targetNode="c"))
    life.hosts["c"] = host("c", role=Role.SEALED)
    life.target = None
    life.step()
    (place,) = {(p.source, p.target, p.holders, p.memory) for p in life.places}
    assert place == ("a", "c", frozenset({"c"}), 512 << 20)


def test_a_copy_that_is_gone_is_in_nobodys_way() -> None:
    life = Life()
    life.hosts["c"] = host("c", role=Role.GONE)
    life.step()
    assert {p.holders for p in life.places} == {frozenset()}


def test_the_migrations_own_shutdown_timeout_goes_before_the_vms() -> None:
    life = Life(migration(shutdownTimeoutSeconds=0))
    life.go_on_to(Verb.SEAL)
    seal = life.asked(Verb.SEAL).spec.seal
    assert seal is not None
    assert seal.shutdown_timeout_seconds == 0


def test_without_a_feasible_node_it_fails_at_once_and_nothing_was_touched() -> None:
    life = Life()
    life.target = None
    before = life.spec
    life.step()
    assert life.spec == before
    assert life.open() == []
    assert life.status().phase == MigrationPhase.FAILED
    assert [life.told(k) for k in (reasons.SCHEDULED, reasons.FINISHED, reasons.SUCCEEDED)] == [
        ("False", reasons.NO_FEASIBLE_NODE),
        ("True", reasons.NO_FEASIBLE_NODE),
        ("False", reasons.NO_FEASIBLE_NODE),
    ]
    assert "3 NodeNotReady" in life.whole(reasons.FINISHED).message
    assert life.migrations["move"].metadata.finalizers == ()
    life.target = "b"
    life.step(60)
    assert life.spec == before


OBSTACLES: list[Any] = [
    pytest.param("a", {"state": RunState.STOPPED}, reasons.VM_NOT_READY, id="vm-stopped"),
    pytest.param("a", {"role": Role.INCOMING}, reasons.VM_NOT_READY, id="no-active-copy"),
    pytest.param("a", {"allocated": None}, reasons.VM_NOT_READY, id="size-untold"),
    pytest.param("a", {"lease": False}, reasons.VM_NOT_READY, id="source-silent"),
    pytest.param("a", {"host_id": "host-new"}, reasons.VM_NOT_READY, id="source-replaced"),
    pytest.param("a", {"lease": None}, reasons.AGENTS_NOT_SEEN_YET, id="agents-not-seen-yet"),
]


@pytest.mark.parametrize(("node", "changes", "reason"), OBSTACLES)
def test_a_migration_waits_for_a_vm_that_is_not_ready_and_goes_on_when_it_is(node: str, changes: dict[str, Any], reason: str) -> None:
    life = Life()
    well = life.hosts[node]
    life.holds(node, **changes)
    before = life.spec
    decision = life.step()
    assert life.spec == before
    assert life.told(reasons.SCHEDULED) == ("False", reason)
    assert (life.status().phase, life.told(reasons.FINISHED)[0]) == (MigrationPhase.PENDING, "False")
    assert (decision.requeue_after is not None) == (reason == reasons.AGENTS_NOT_SEEN_YET)
    life.hosts[node] = well
    life.step()
    assert life.open() == [(Verb.PREPARE, "b")]


def test_a_vm_whose_disks_are_being_made_is_waited_for() -> None:
    life = Life(spec=placement().spec)
    life.step()
    assert life.open() == [(Verb.CREATE, "a")]
    assert life.told(reasons.SCHEDULED) == ("False", reasons.VM_NOT_READY)
    assert "Create of a" in life.whole(reasons.SCHEDULED).message


def test_a_vm_that_is_being_deleted_is_not_moved() -> None:
    life = Life()
    life.vm = vm(deleted=True)
    before = life.spec
    life.step()
    assert life.spec == before


def test_every_condition_is_told_at_the_first_visit() -> None:
    life = Life()
    life.holds("a", state=RunState.STOPPED)
    life.step()
    told = {c.type: c.status.value for c in life.status().conditions}
    assert told == {
        "Scheduled": "False",
        "Prepared": "False",
        "SourceSealed": "False",
        "DisksCopied": "False",
        "TargetActive": "False",
        "AwaitingDecision": "False",
        "ConfirmBlocked": "False",
        "Confirmed": "False",
        "Reverted": "False",
        "NeedsAttention": "False",
        "Finished": "False",
        "Succeeded": "Unknown",
    }


def test_a_second_migration_waits_for_the_first_and_goes_next() -> None:
    life = Life(migration(), migration("later", created=1))
    life.go_on_to()
    assert life.told(reasons.SCHEDULED, "later") == ("False", reasons.BLOCKED_BY_MIGRATION)
    assert "shop/move" in life.whole(reasons.SCHEDULED, "later").message
    life.target = "c"
    life.wish("Confirm")
    assert life.spec.lock is not None
    assert life.spec.lock.name == "later"
    assert life.spec.epoch == 3


def test_of_two_that_wait_the_older_is_first() -> None:
    life = Life(migration("z", created=0), migration("a", created=1))
    life.holds("a", state=RunState.STOPPED)
    life.step()
    assert life.told(reasons.SCHEDULED, "a") == ("False", reasons.BLOCKED_BY_MIGRATION)
    assert life.told(reasons.SCHEDULED, "z") == ("False", reasons.VM_NOT_READY)


def test_a_migration_that_is_deleted_while_it_waits_does_nothing() -> None:
    life = Life(migration(deleted=True))
    before = life.spec
    life.step()
    assert life.spec == before
    assert life.migrations["move"].status is None


@pytest.mark.parametrize("until", [None, Verb.PREPARE, Verb.COPY], ids=["before-the-lock", "with-the-lock", "in-the-copy"])
def test_one_that_is_deleted_goes_at_once_only_if_it_never_held_the_lock(until: Verb | None) -> None:
    life = Life()
    if until is None:
        life.holds("a", state=RunState.STOPPED)
        life._meta("move", finalizers=(FINALIZER,))
    else:
        life.go_on_to(until)
    life._meta("move", deletion_timestamp=NOON)
    life.step()
    assert life.migrations["move"].metadata.finalizers == (() if until is None else (FINALIZER,))


def test_one_that_awaits_its_decision_and_is_deleted_is_still_decided_and_goes_once_that_is_durable() -> None:
    life = Life()
    life.go_on_to()
    life._meta("move", deletion_timestamp=NOON)
    life.step()
    assert life.migrations["move"].metadata.finalizers == (FINALIZER,)
    life.wish("Confirm")
    assert [s.migration_uid for s in life.spec.settled] == ["uid-move"]
    assert life.migrations["move"].metadata.finalizers == ()


# Forward


def test_hosts_are_asked_in_order_one_after_the_other() -> None:
    life = Life()
    life.step()
    for verb, node in zip(FORWARD, ("b", "a", "a", "a", "b"), strict=True):
        assert life.open() == [(verb, node)]
        life.answer(verb)
    assert life.open() == []


def test_the_right_to_start_moves_with_the_activate_and_no_sooner() -> None:
    life = Life()
    life.step()
    for verb in FORWARD[:-1]:
        assert (life.spec.node_name, life.spec.host_id) == ("a", "host-a")
        life.answer(verb)
    assert (life.spec.node_name, life.spec.host_id) == ("b", "host-b")


def test_nodename_is_stored_before_the_activate_is_created() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    copy = life.asked(Verb.COPY)
    life.tasks[copy.metadata.name] = dataclasses.replace(copy, status=life._done(copy))
    decision = life.decide()
    assert isinstance(decision.placement, ReplacePlacement)
    assert (decision.placement.spec.node_name, decision.tasks) == ("b", ())


def test_tasks_tell_their_hosts_what_they_need_to_know() -> None:
    life = Life()
    life.step()
    prepare = life.asked(Verb.PREPARE).spec.prepare
    assert prepare is not None
    assert (prepare.source, prepare.bytes, prepare.domain) == ("a", 64 << 20, life.spec.domain)
    life.answer(Verb.PREPARE)
    preflight = life.asked(Verb.PREFLIGHT).spec.preflight
    assert preflight is not None
    assert (preflight.target, preflight.target_host_id) == ("b", "host-b")
    life.answer(Verb.PREFLIGHT)
    life.answer(Verb.SEAL)
    copy = life.asked(Verb.COPY).spec
    assert copy.copy is not None
    assert (copy.copy.target, copy.copy.target_host_id) == ("b", "host-b")
    life.answer(Verb.COPY)
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    assert activate.proof is not None
    assert (activate.proof.kind, activate.proof.node, activate.proof.host_id) == (ProofKind.RELEASED, "a", "host-a")
    assert (activate.proof.epoch, activate.proof.seq) == (2, copy.seq)


def test_phases_and_conditions_follow_the_steps() -> None:
    life = Life()
    life.step()
    phases = []
    for verb in FORWARD:
        phases.append(life.status().phase.value)
        life.answer(verb)
    phases.append(life.status().phase.value)
    assert phases == ["Preparing", "Preparing", "Sealing", "Copying", "Activating", "AwaitingDecision"]
    for kind in (reasons.SCHEDULED, reasons.PREPARED, reasons.SOURCE_SEALED, reasons.DISKS_COPIED, reasons.TARGET_ACTIVE):
        assert life.told(kind)[0] == "True"
    assert life.told(reasons.AWAITING_DECISION) == ("True", reasons.NOT_DECIDED)
    assert (life.status().source_node, life.status().target_node, life.status().epoch) == ("a", "b", 2)


def test_the_vms_status_tells_that_it_moves() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    assert life.vm.status is not None
    assert life.vm.status.migration is not None
    assert (life.vm.status.migration.name, life.vm.status.migration.phase) == ("move", MigrationPhase.COPYING)
    assert life.vm.status.printable_status == "Migrating"
    assert life.of_vm(reasons.READY) == ("False", reasons.MIGRATING)
    life.answer(Verb.COPY)
    life.answer(Verb.ACTIVATE)
    assert life.vm.status.printable_status == "Running"
    assert (life.vm.status.node_name, life.of_vm(reasons.READY)) == ("b", ("True", reasons.RUNNING))


def test_how_far_the_copy_is_is_told_while_it_runs_and_after_it() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    life.progress(Verb.COPY, 1 << 20, 5 << 20)
    transfer = life.status().transfer
    assert transfer is not None
    assert (transfer.bytes_done, transfer.bytes_total, transfer.digest) == (1 << 20, 5 << 20, None)
    life.answer(Verb.COPY)
    life.answer(Verb.ACTIVATE)
    life.wish("Revert")
    transfer = life.status().transfer
    assert transfer is not None
    assert (transfer.bytes_done, transfer.bytes_total, transfer.digest) == (5 << 20, 5 << 20, DIGEST)


@pytest.mark.parametrize("verb", FORWARD)
def test_a_failure_stops_it_where_it_stands_and_nothing_more_is_asked(verb: Verb) -> None:
    life = Life()
    life.go_on_to(verb)
    life.answer(verb, reasons.STORAGE_ERROR)
    stopped = life.spec
    assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.STORAGE_ERROR)
    assert f"{verb} on" in life.whole(reasons.NEEDS_ATTENTION).message
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.STORAGE_ERROR)
    for wish in ("Confirm", "Revert"):
        life.wish(wish)
        life.step(3600)
    assert life.spec == stopped
    assert life.open() == []
    assert life.told(reasons.FINISHED)[0] == "False"


def test_a_task_that_was_superseded_stops_it_too() -> None:
    life = Life()
    life.go_on_to(Verb.SEAL)
    seal = life.asked(Verb.SEAL)
    life.tasks[seal.metadata.name] = dataclasses.replace(seal, status=HostTaskStatus(phase=TaskPhase.SUPERSEDED))
    life.step()
    assert life.open() == []
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "True"


def test_a_lock_whose_migration_vanished_stands_and_says_so() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    del life.migrations["move"]
    life.answer(Verb.COPY)
    assert life.spec.lock is not None
    assert life.spec.node_name == "a"
    assert life.open() == []
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.MIGRATION_GONE)


# The decision


def test_nothing_happens_until_somebody_decides() -> None:
    life = Life()
    life.go_on_to()
    awaiting = life.spec
    life.step(10 * 24 * 3600)
    assert life.spec == awaiting
    assert life.open() == []


def test_confirm_gives_up_the_lock_and_the_sources_copy_in_one_write() -> None:
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    spec = life.spec
    assert (spec.lock, spec.move, spec.node_name, spec.epoch) == (None, None, "b", 2)
    assert [(c.node, c.discard, c.migration_uid) for c in spec.copies] == [("a", DiscardMode.TRASH, "uid-move"), ("b", None, None)]
    (entry,) = spec.settled
    assert (entry.outcome, entry.decision is not None and entry.decision.value) == (Outcome.CONFIRMED, DecisionValue.CONFIRM)
    assert life.open() == [(Verb.DISCARD, "a")]
    discard = life.asked(Verb.DISCARD).spec.discard
    assert discard is not None
    assert discard.mode == DiscardMode.TRASH
    assert (life.status().phase, life.told(reasons.CONFIRMED)[0]) == (MigrationPhase.CONFIRMING, "False")
    assert life.told(reasons.FINISHED)[0] == "False"


def test_it_is_confirmed_once_the_sources_copy_is_gone_and_forgotten_once_that_was_told() -> None:
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    assert [c.node for c in life.spec.copies] == ["b"]
    assert life.status().phase == MigrationPhase.CONFIRMED
    for kind in (reasons.CONFIRMED, reasons.FINISHED, reasons.SUCCEEDED):
        assert life.told(kind)[0] == "True"
    assert life.status().decision is not None
    assert life.status().finished_at == NOON
    assert life.spec.settled == ()
    assert life.migrations["move"].metadata.finalizers == ()
    assert life.open() == []


def test_a_migration_that_has_ended_never_runs_again() -> None:
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    ended = life.spec
    life.wish("Revert")
    life.step(3600)
    assert life.spec == ended
    assert life.status().phase == MigrationPhase.CONFIRMED
    assert {c.observed_generation for c in life.status().conditions} == {3}


def test_one_that_is_settled_takes_no_lock_although_its_end_was_not_told_yet() -> None:
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    life.migrations["move"] = dataclasses.replace(life.migrations["move"], status=None)
    life.step()
    assert life.spec.lock is None
    assert life.status().phase == MigrationPhase.CONFIRMING


def test_an_early_confirm_waits_and_is_then_carried_out() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    life.wish("Confirm")
    assert life.open() == [(Verb.COPY, "a")]
    life.answer(Verb.COPY)
    life.answer(Verb.ACTIVATE)
    assert life.open() == [(Verb.DISCARD, "a")]
    assert life.told(reasons.TARGET_ACTIVE) == ("True", reasons.DONE)


BLOCKED: list[Any] = [
    pytest.param({"lease": False}, reasons.TARGET_SILENT, id="silent"),
    pytest.param({"role": Role.VERIFIED}, reasons.TARGET_NOT_ACTIVE, id="not-active"),
    pytest.param({"epoch_id": "e1"}, reasons.TARGET_NOT_ACTIVE, id="of-an-older-epoch"),
    pytest.param({"host_id": "host-new"}, reasons.TARGET_NOT_ACTIVE, id="another-host"),
]


@pytest.mark.parametrize(("changes", "reason"), BLOCKED)
def test_confirm_is_blocked_until_the_target_tells_now_that_it_has_the_vm(changes: dict[str, Any], reason: str) -> None:
    life = Life()
    life.go_on_to()
    well = life.hosts["b"]
    life.holds("b", **changes)
    life.wish("Confirm")
    assert life.spec.lock is not None
    assert life.told(reasons.CONFIRM_BLOCKED) == ("True", reason)
    life.hosts["b"] = well
    life.step()
    assert life.spec.lock is None
    assert life.told(reasons.CONFIRM_BLOCKED)[0] == "False"


@pytest.mark.parametrize(("guard", "changes"), [("confirm_fresh", {"lease": False}), ("confirm_fresh", {"epoch_id": "e1"})])
def test_without_its_guard_a_confirm_would_go_by_old_news(monkeypatch: pytest.MonkeyPatch, guard: str, changes: dict[str, Any]) -> None:
    monkeypatch.setattr(guards, guard, lambda spec, target: True)
    life = Life()
    life.go_on_to()
    life.holds("b", **changes)
    life.wish("Confirm")
    assert life.spec.lock is None


def test_confirm_needs_the_word_running_in_the_ledger() -> None:
    life = Life()
    life.go_on_to()
    assert guards.confirm_running(life.spec)
    (step,) = (s for s in life.spec.steps if s.verb == Verb.ACTIVATE)
    for changed in ({"epoch": 1}, {"state": StepState.PENDING}, {"result": None}, {"verb": Verb.START}):
        spec = dataclasses.replace(life.spec, steps=(dataclasses.replace(step, **changed),))
        assert not guards.confirm_running(spec)


def reverting() -> Life:
    life = Life()
    life.go_on_to()
    life.wish("Revert")
    return life


def test_revert_takes_the_right_to_start_from_every_host_before_the_target_is_asked_to_stop() -> None:
    life = reverting()
    spec = life.spec
    assert (spec.node_name, spec.host_id, spec.epoch, spec.lineage) == ("", "", 3, ("e3", "e2", "e1"))
    assert spec.move is not None
    assert (spec.move.direction, spec.move.decision is not None and spec.move.decision.value) == (Direction.BACK, DecisionValue.REVERT)
    assert life.open() == [(Verb.SEAL, "b")]
    assert life.status().phase == MigrationPhase.REVERTING
    assert life.vm.status is not None
    assert (life.vm.status.printable_status, life.vm.status.node_name) == ("Migrating", "a")
    assert life.told(reasons.AWAITING_DECISION) == ("False", reasons.DECIDED)


def test_the_source_is_started_with_the_proof_that_the_target_is_stopped() -> None:
    life = reverting()
    seal = life.asked(Verb.SEAL).spec
    life.answer(Verb.SEAL)
    assert (life.spec.node_name, life.spec.host_id) == ("a", "host-a")
    assert life.open() == [(Verb.ACTIVATE, "a")]
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    assert activate.proof is not None
    assert (activate.proof.kind, activate.proof.node, activate.proof.epoch, activate.proof.seq) == (ProofKind.SEALED, "b", 3, seal.seq)


def test_reverted_is_told_once_the_source_runs_and_the_targets_copy_is_given_up_then() -> None:
    life = reverting()
    life.answer(Verb.SEAL)
    assert [c.discard for c in life.spec.copies] == [None, None]
    life.answer(Verb.ACTIVATE)
    assert [(c.node, c.discard) for c in life.spec.copies] == [("a", None), ("b", DiscardMode.TRASH)]
    assert life.spec.lock is None
    assert life.open() == [(Verb.DISCARD, "b")]
    assert life.status().phase == MigrationPhase.REVERTED
    assert [life.told(k) for k in (reasons.REVERTED, reasons.FINISHED, reasons.SUCCEEDED)] == [
        ("True", reasons.DONE),
        ("True", reasons.REVERTED),
        ("False", reasons.REVERTED),
    ]
    assert [s.migration_uid for s in life.spec.settled] == ["uid-move"]
    life.answer(Verb.DISCARD)
    assert (life.spec.settled, [c.node for c in life.spec.copies]) == ((), ["a"])
    assert life.vm.status is not None
    assert (life.vm.status.printable_status, life.vm.status.node_name, life.vm.status.migration) == ("Running", "a", None)


@pytest.mark.parametrize("verb", [Verb.SEAL, Verb.ACTIVATE])
def test_a_failure_on_the_way_back_stops_it_where_it_stands(verb: Verb) -> None:
    life = reverting()
    if verb == Verb.ACTIVATE:
        life.answer(Verb.SEAL)
    life.answer(verb, reasons.HYPERVISOR_ERROR)
    stopped = life.spec
    life.step(3600)
    assert life.spec == stopped
    assert life.open() == []
    assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.HYPERVISOR_ERROR)


def test_a_decision_that_is_durable_is_final() -> None:
    life = reverting()
    life.wish("Confirm")
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    assert life.status().phase == MigrationPhase.REVERTED


def test_what_has_finished_is_never_told_otherwise_by_an_older_placement() -> None:
    life = Life()
    life.go_on_to(Verb.ACTIVATE)
    older = life.placement
    life.answer(Verb.ACTIVATE)
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    ended = life.status()
    life.placement = older
    assert project_migration.told(life.migrations["move"], older.spec, life.seen(), None, after(9)) == ended


def test_what_follows_from_an_end_is_decided_at_once() -> None:
    life = Life(migration(), migration("later", created=1))
    life.holds("a", state=RunState.STOPPED)
    life.step()
    life.holds("a", state=RunState.RUNNING)
    life.target = None
    life._write(life.decide())  # protected
    decision = life.decide()
    assert [t.status.phase for t in decision.migrations][:1] == [MigrationPhase.FAILED]
    assert decision.requeue_after == timedelta()
    life._write(decision)
    following = life.decide()
    assert following.protect_migration is not None
    assert following.protect_migration.metadata.name == "later"


@pytest.mark.parametrize("until", ["Prepare", "Seal"])
def test_a_revert_before_the_switch_over_is_carried_out_once_the_target_runs(until: str) -> None:
    life = Life()
    life.go_on_to(Verb(until))
    life.wish("Revert")
    assert life.open() == [(Verb(until), "b" if until == "Prepare" else "a")]
    for verb in FORWARD[FORWARD.index(Verb(until)) :]:
        life.answer(verb)
    assert life.open() == [(Verb.SEAL, "b")]
    assert life.spec.node_name == ""


def test_a_revert_before_it_has_begun_ends_it_cancelled_and_nothing_was_touched() -> None:
    life = Life(migration(decision="Revert"), migration("later", created=1))
    before = life.spec
    life.target = None
    life.step()
    assert life.spec == before
    assert life.status().phase == MigrationPhase.REVERTED
    assert [life.told(k) for k in (reasons.FINISHED, reasons.SUCCEEDED)] == [("True", reasons.CANCELLED), ("False", reasons.CANCELLED)]
    assert life.status("later").phase == MigrationPhase.FAILED, "it holds nobody back"


@pytest.mark.parametrize("wish", [None, "Revert", "Confirm"])
def test_one_that_held_another_vm_of_that_name_touches_nothing_of_this_one(wish: str | None) -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    other = Life()  # the VM was made anew under its name
    other.migrations = life.migrations
    before = other.spec
    if wish is not None:
        other.wish(wish)
    other.step()
    assert other.spec == before
    assert other.told(reasons.NEEDS_ATTENTION) == ("True", reasons.PLACEMENT_LOST)
    assert other.told(reasons.FINISHED)[0] == "False"
    assert other.status().phase == MigrationPhase.COPYING
    other.migrations["next"] = migration("next", created=9)
    other.step()
    assert other.spec.lock is not None
    assert other.spec.lock.name == "next"


def test_one_whose_end_was_told_is_not_carried_on_although_the_placement_says_that_it_holds_the_vm() -> None:
    life = Life()
    life.go_on_to(Verb.SEAL)
    ended = project_migration.without_vm(migration(created=-99), NOON)[0]
    life.migrations["move"] = dataclasses.replace(life.migrations["move"], status=ended)
    life.answer(Verb.SEAL)
    assert life.open() == []
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.MIGRATION_GONE)


def test_a_host_that_falls_silent_after_it_has_begun_is_told_as_silent() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    asked = life.asked(Verb.COPY)
    meta = dataclasses.replace(asked.metadata, creation_timestamp=NOON)
    status = HostTaskStatus(phase=TaskPhase.RUNNING, started_at=NOON)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, metadata=meta, status=status)
    life.step(300)
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False"
    life.holds("a", lease=False)
    life.step(1)
    assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.NODE_SILENT)


def test_the_trouble_of_a_discard_is_told_where_it_was_asked_for_and_not_that_of_the_next_migration() -> None:
    life = discarding()
    life.answer(Verb.DISCARD, reasons.STORAGE_ERROR)
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_MEMORY)
    assert life.told(reasons.NEEDS_ATTENTION, "next") == ("True", reasons.INSUFFICIENT_MEMORY)
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False", "its discard is asked again"


def test_a_silent_target_of_the_next_migration_is_not_told_of_the_one_before() -> None:
    life = discarding()
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    asked = life.asked(Verb.PREPARE)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, metadata=dataclasses.replace(asked.metadata, creation_timestamp=NOON))
    life.hosts["c"] = dataclasses.replace(life.hosts["c"], lease_fresh=False)
    life.step(120)
    assert life.told(reasons.NEEDS_ATTENTION, "next") == ("True", reasons.NODE_SILENT)
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False"


def test_of_two_discards_that_fail_each_is_told_where_it_was_asked_for() -> None:
    life = discarding()
    (entry,) = life.spec.settled
    second = Copy(node="c", host_id="host-c", epoch_id="e1", discard=DiscardMode.TRASH, migration_uid="uid-of-another")
    life.placement = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, copies=(*life.spec.copies, second)))
    life.step()
    (asked,) = (t for t in life.tasks.values() if t.spec.node == "c")
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=failed(reasons.STORAGE_ERROR))
    life.step()
    assert entry.migration_uid == "uid-move"
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False"


def test_right_after_its_start_a_controller_does_not_say_that_the_target_is_silent() -> None:
    life = Life()
    life.go_on_to()
    life.holds("b", lease=None)
    life.wish("Confirm")
    assert life.told(reasons.CONFIRM_BLOCKED) == ("True", reasons.AGENTS_NOT_SEEN_YET)


def test_a_host_with_the_identity_of_another_is_no_target() -> None:
    life = Life()
    life.hosts["c"] = host("c", host_id="host-a")
    life.target = None
    life.step()
    assert life.places[-1].holders == {"c"}


SILENT: list[Any] = [
    pytest.param("forward", Verb.PREPARE, "b", id="target-in-prepare"),
    pytest.param("forward", Verb.SEAL, "a", id="source-in-seal"),
    pytest.param("back", Verb.SEAL, "b", id="target-on-the-way-back"),
]


@pytest.mark.parametrize(("direction", "verb", "node"), SILENT)
def test_a_host_that_falls_silent_on_the_way_is_told_after_two_minutes(direction: str, verb: Verb, node: str) -> None:
    life = reverting() if direction == "back" else Life().go_on_to(verb)
    asked = life.asked(verb)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, metadata=dataclasses.replace(asked.metadata, creation_timestamp=NOON))
    life.hosts[node] = dataclasses.replace(life.hosts[node], lease_fresh=False)
    wait = life.step().requeue_after
    assert wait == timedelta(minutes=2)
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False"
    life.step(120)
    assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.NODE_SILENT)
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.NODE_SILENT)
    assert node in life.whole(reasons.NEEDS_ATTENTION).message


# Copies that are to go


def discarding() -> Life:
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    return life


def test_a_discard_that_fails_is_asked_again_later_and_later() -> None:
    life = discarding()
    waits = []
    for _ in range(3):
        life.answer(Verb.DISCARD, reasons.STORAGE_ERROR)
        assert life.open() == []
        wait = life.step().requeue_after
        assert wait is not None
        waits.append(wait.total_seconds())
        life.step(wait.total_seconds())
        assert life.open() == [(Verb.DISCARD, "a")]
        assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.STORAGE_ERROR)
    assert waits == [5, 10, 20]
    assert life.of_vm(reasons.NEEDS_ATTENTION)[0] == "True"


def test_a_discard_that_waits_does_not_hold_the_next_migration_back() -> None:
    life = discarding()
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    assert {p.holders for p in life.places[-1:]} == {frozenset({"a"})}
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.PREPARE, "c")]
    assert life.asked(Verb.DISCARD).spec.epoch == 3
    life.answer(Verb.DISCARD)
    assert [c.node for c in life.spec.copies] == ["b", "c"]


# A Migration without VM


def test_a_vm_that_is_missing_is_waited_for_and_then_told() -> None:
    status, wait = project_migration.without_vm(migration(), after(10))
    assert status is not None
    assert (status.phase, wait is not None and wait.total_seconds()) == (MigrationPhase.PENDING, 20)
    status, wait = project_migration.without_vm(migration(), after(30))
    assert status is not None
    assert (status.phase, wait) == (MigrationPhase.FAILED, None)
    ended = dataclasses.replace(migration(), status=status)
    again, wait = project_migration.without_vm(ended, after(999))
    assert (again, wait) == (status, None)


def test_a_vm_that_vanished_under_a_migration_is_told_and_nothing_is_said_to_be_untouched() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    status, wait = project_migration.without_vm(life.migrations["move"], after(999))
    assert (status is not None and status.phase, wait) == (MigrationPhase.COPYING, None)
    assert status is not None
    told = {c.type: (c.status.value, c.reason) for c in status.conditions}
    assert told[reasons.NEEDS_ATTENTION] == ("True", reasons.VM_MISSING)
    assert told[reasons.FINISHED][0] == "False"
    assert told[reasons.SOURCE_SEALED][0] == "True"


def test_a_placement_that_was_lost_under_a_migration_is_told_and_the_rest_stands() -> None:
    life = Life()
    life.go_on_to(Verb.COPY)
    seen = dataclasses.replace(life.seen(), placement=None)
    decision = step(seen, after(9), "e9")
    (told,) = decision.migrations
    conditions = {c.type: (c.status.value, c.reason) for c in told.status.conditions}
    assert conditions[reasons.NEEDS_ATTENTION] == ("True", reasons.PLACEMENT_LOST)
    assert conditions[reasons.SOURCE_SEALED][0] == "True"
    assert (told.status.phase, decision.release_migrations) == (MigrationPhase.COPYING, ())


def test_what_has_finished_lets_go_of_its_migration_without_a_placement_too() -> None:
    life = discarding()
    life.answer(Verb.DISCARD)
    life._meta("move", finalizers=(FINALIZER,))
    decision = step(dataclasses.replace(life.seen(), placement=None), after(9), "e9")
    assert decision.release_migrations == (life.migrations["move"],)


def test_a_migration_waits_for_a_vm_that_has_no_node_yet() -> None:
    life = Life()
    seen = dataclasses.replace(life.seen(), placement=None, hosts=(host("c"),))
    status = project_migration.told(life.migrations["move"], None, seen, None, NOON)
    assert status is not None
    assert status.phase == MigrationPhase.PENDING


def test_an_id_of_a_long_past_epoch_leaves_the_lineage() -> None:
    spec: PlacementSpec = dataclasses.replace(running(), epoch=64, lineage=tuple(f"e{n}" for n in range(64, 0, -1)))
    life = Life(spec=spec)
    life.holds("a", epoch_id="e64")
    life.step()
    assert (len(life.spec.lineage), life.spec.lineage[0], life.spec.lineage[-1]) == (64, "e65", "e2")


# What stands behind


def test_a_start_that_was_asked_is_waited_for() -> None:
    spec = running()
    (create, start) = spec.steps
    life = Life(spec=dataclasses.replace(spec, steps=(create, dataclasses.replace(start, state=StepState.PENDING))))
    life.step()
    assert life.spec.lock is None
    assert "Start of a" in life.whole(reasons.SCHEDULED).message


def test_the_answer_of_the_pass_to_another_migration_is_not_taken() -> None:
    life = Life()
    life.decide()
    life._write(life.decide())
    decision = step(life.seen(Choice("uid-other", "c", "")), NOON, "e2")
    assert decision.place is not None
    assert decision.placement is None


def test_a_marked_copy_counts_although_its_host_does_not_tell_of_it() -> None:
    life = discarding()
    life.hosts["a"] = host("a")
    life.migrations["next"] = migration("next", created=5)
    life.target = None
    life.step()
    assert life.places[-1].holders == {"a"}


def test_a_discard_that_fails_does_not_stop_the_next_migration() -> None:
    life = discarding()
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    life.answer(Verb.DISCARD, reasons.STORAGE_ERROR)
    life.answer(Verb.PREPARE)
    assert (Verb.PREFLIGHT, "b") in life.open()


def test_a_confirm_waits_for_the_word_running(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life()
    life.go_on_to()
    monkeypatch.setattr(guards, "confirm_running", lambda spec: False)
    life.wish("Confirm")
    assert life.told(reasons.CONFIRM_BLOCKED) == ("True", reasons.TARGET_NOT_ACTIVE)


@pytest.mark.parametrize(("wish", "cores"), [("Confirm", 4), ("Revert", 2)])
def test_the_target_runs_with_the_domain_of_the_move_and_the_vm_keeps_it_only_if_confirmed(wish: str, cores: int) -> None:
    life = Life()
    life.go_on_to(Verb.ACTIVATE)
    move = life.spec.move
    assert move is not None
    larger = dataclasses.replace(move.domain, cpu_cores=4)
    spec = dataclasses.replace(life.spec, move=dataclasses.replace(move, domain=larger))
    life.placement = dataclasses.replace(life.placement, spec=spec)
    life.tasks.clear()
    life.step()
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    assert activate.domain.cpu_cores == 4
    life.answer(Verb.ACTIVATE)
    life.wish(wish)
    if wish == "Revert":
        life.answer(Verb.SEAL)
        activate = life.asked(Verb.ACTIVATE).spec.activate
        assert activate is not None
        assert activate.domain.cpu_cores == 2
        life.answer(Verb.ACTIVATE)
    assert life.spec.domain.cpu_cores == cores


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"state": StepState.PENDING}], ids=["of-an-older-epoch", "not-acknowledged"])
def test_what_was_not_acknowledged_at_this_epoch_proves_nothing(changed: dict[str, Any]) -> None:
    life = Life()
    life.go_on_to(Verb.ACTIVATE)
    steps = tuple(dataclasses.replace(s, **changed) if s.verb == Verb.COPY else s for s in life.spec.steps)
    spec = dataclasses.replace(life.spec, steps=steps)
    made = ledger.task(dataclasses.replace(life.placement, spec=spec), spec.steps[-1]).spec
    assert made.verb == Verb.ACTIVATE
    assert made.activate is not None
    assert made.activate.proof is None


def test_each_of_two_copies_that_are_to_go_is_asked_of_its_own_host() -> None:
    life = discarding()
    second = Copy(node="c", host_id="host-c", epoch_id="e1", discard=DiscardMode.TRASH)
    life.placement = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, copies=(*life.spec.copies, second)))
    life.step()
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.DISCARD, "c")]
    for node in ("a", "c"):
        (asked,) = (t for t in life.tasks.values() if t.spec.node == node)
        life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=life._done(asked))
        life.step()
        assert node not in [c.node for c in life.spec.copies]
    assert life.open() == []


def test_a_preflight_says_nothing_of_the_journals_epoch_and_a_seal_does() -> None:
    life = Life()
    life.go_on_to(Verb.SEAL)
    assert [c.epoch_id for c in life.spec.copies] == ["e1", "e2"]
    life.answer(Verb.SEAL)
    assert [c.epoch_id for c in life.spec.copies] == ["e2", "e2"]


def test_a_seal_may_take_as_long_as_the_guest_gets_and_a_minute() -> None:
    life = Life(migration(shutdownTimeoutSeconds=600))
    life.go_on_to(Verb.SEAL)
    seal = life.asked(Verb.SEAL)
    status = HostTaskStatus(phase=TaskPhase.RUNNING, started_at=NOON)
    life.tasks[seal.metadata.name] = dataclasses.replace(seal, status=status)
    life.step(659)
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False"
    life.step(1)
    assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.TASK_UNFINISHED)


def test_a_vm_that_moved_and_is_to_go_runs_on() -> None:
    life = discarding()
    life.vm = vm(deleted=True)
    life.step()
    assert life.spec.running


def test_a_vm_that_stopped_after_its_move_is_told_as_stopped() -> None:
    life = discarding()
    life.answer(Verb.DISCARD)
    life.holds("b", state=RunState.STOPPED)
    life.step()
    assert life.of_vm(reasons.READY) == ("False", reasons.STOPPED)


def test_what_the_disks_occupied_is_told_on_while_no_host_tells_anew() -> None:
    life = Life()
    (create, start) = life.spec.steps
    result = TaskResult(state=TaskState.RUNNING, disks=(DiskResult(name="root", allocated=7 << 20),))
    steps = (create, dataclasses.replace(start, result=result))
    life.holds("a", state=RunState.STOPPED)
    life.placement = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, steps=steps))
    life.step()
    life.holds("a", state=RunState.RUNNING)
    life.go_on_to(Verb.COPY)
    assert life.vm.status is not None
    assert [v.allocated for v in life.vm.status.volumes] == [7 << 20]


def test_when_it_took_the_lock_is_told_and_stays() -> None:
    life = Life()
    life.step()
    life.now = 100
    life.answer(Verb.PREPARE)
    assert life.status().started_at == NOON
