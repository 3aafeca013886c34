"""A migration that waits, is confirmed or is reverted."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from builders import NOON, after, failed, host, migration
from move_life import Life, discarding, reverting

from kubeferry.api import reasons
from kubeferry.api.migration import DecisionValue, MigrationPhase
from kubeferry.api.placement import Copy, Direction, Outcome, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import DiscardMode, ProofKind, Verb
from kubeferry.core import forward, guards, project_migration
from kubeferry.core import migration as migration_core


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
    monkeypatch.setattr(guards, guard, lambda *_: True)
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


def test_the_trouble_of_a_discard_is_told_where_it_was_asked_for_and_not_that_of_the_next_migration() -> None:
    life = discarding()
    life.answer(Verb.DISCARD, reasons.STORAGE_ERROR)
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    life.target = None
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_MEMORY)
    assert life.told(reasons.SUCCEEDED, "next") == ("False", reasons.INSUFFICIENT_MEMORY)
    assert life.told(reasons.NEEDS_ATTENTION) == ("False", reasons.AS_EXPECTED), "its discard is asked again"


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


def test_a_host_that_falls_silent_on_the_way_back_is_told_after_two_minutes() -> None:
    life, verb, node = reverting(), Verb.SEAL, "b"
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


def test_the_status_and_each_condition_tell_of_which_generation_they_are() -> None:
    """`kubectl wait` waits for a condition that tells of an older one."""
    life = Life().go_on_to()
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    told = life.status()
    assert {told.observed_generation, *(c.observed_generation for c in told.conditions)} == {2}
    life.wish("Confirm")  # a generation more, of one that has ended
    told = life.status()
    assert {told.observed_generation, *(c.observed_generation for c in told.conditions)} == {3}


def test_a_confirm_waits_for_a_target_whose_computenode_is_gone() -> None:
    life = Life().go_on_to()
    del life.hosts["b"]
    before = life.spec
    life.wish("Confirm")
    assert life.spec == before
    found = forward.confirm_obstacle(life.spec, life.seen())
    assert found is not None
    assert found.reason == reasons.TARGET_SILENT


def test_the_outcome_of_a_migration_that_is_gone_is_forgotten_once_that_is_known() -> None:
    life = Life().go_on_to(Verb.PREFLIGHT)
    life.wish("Revert")
    del life.migrations["move"]
    life.gone = frozenset({"uid-move"})
    life.step()
    assert [s.migration_uid for s in life.spec.settled] == ["uid-move"], "its discard is not acknowledged yet"
    life.gone = frozenset()
    life.answer(Verb.DISCARD)
    assert [s.migration_uid for s in life.spec.settled] == ["uid-move"], "that it was not read does not say that it is gone"
    assert migration_core.unaccounted(life.spec, ()) == {"uid-move"}
    life.gone = frozenset({"uid-move"})
    life.step()
    assert life.spec.settled == ()
