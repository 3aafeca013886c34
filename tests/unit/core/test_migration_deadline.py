"""A decision that does not come: what the Migration says for that case is done, with the same care as a person's wish."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from builders import after, migration
from move_life import Life

from kubeferry.api import reasons
from kubeferry.api.migration import DecisionSource, DecisionValue, MigrationPhase
from kubeferry.api.placement import Outcome
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core import decision


def waiting(on_timeout: str, seconds: int = 3600) -> Life:
    """One that awaits its decision, since noon."""
    life = Life(migration(decisionTimeoutSeconds=seconds, onDecisionTimeout=on_timeout))
    return life.go_on_to()


def spec(life: Life, **changes: Any) -> None:
    """A person patches the Migration."""
    m = life.migrations["move"]
    life.migrations["move"] = dataclasses.replace(m, spec=dataclasses.replace(m.spec, **changes))


def test_the_deadline_is_told_and_nothing_is_done_before_it() -> None:
    life = waiting("Confirm")
    assert life.status().decision_deadline == after(3600)
    assert ", by 2026-01-01 13:00:00 UTC: after that Confirm is done" in life.whole(reasons.AWAITING_DECISION).message
    before = life.spec
    decided = life.step(3599)
    assert life.spec == before
    assert decided.requeue_after == timedelta(seconds=1)


def test_at_the_deadline_it_is_confirmed() -> None:
    life = waiting("Confirm")
    life.step(3600)
    (entry,) = life.spec.settled
    assert entry.decision is not None
    assert (entry.outcome, entry.decision.value, entry.decision.source) == (
        Outcome.CONFIRMED,
        DecisionValue.CONFIRM,
        DecisionSource.TIMEOUT,
    )
    life.answer(Verb.DISCARD)
    assert life.status().phase == MigrationPhase.CONFIRMED
    assert life.status().decision == entry.decision
    assert life.status().decision_deadline is None


def test_at_the_deadline_it_is_reverted() -> None:
    life = waiting("Revert")
    life.step(3600)
    assert life.open() == [(Verb.SEAL, "b")]
    assert life.spec.move is not None
    assert life.spec.move.decision is not None
    assert (life.spec.move.decision.value, life.spec.move.decision.source) == (DecisionValue.REVERT, DecisionSource.TIMEOUT)
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    life.answer(Verb.DISCARD)
    assert life.told(reasons.SUCCEEDED) == ("False", reasons.REVERTED)


def test_a_confirm_for_want_of_a_decision_needs_the_targets_word_too() -> None:
    life = waiting("Confirm")
    life.holds("b", lease=False)
    life.step(3600)
    assert life.spec.settled == ()
    assert life.told(reasons.CONFIRM_BLOCKED) == ("True", reasons.TARGET_SILENT)
    life.holds("b", lease=True)
    life.step()
    assert life.spec.settled[0].outcome == Outcome.CONFIRMED


def test_what_a_person_wishes_goes_before_the_deadlines_word_for_as_long_as_nothing_is_durable() -> None:
    life = waiting("Confirm")
    life.holds("b", role=Role.SEALED)
    life.step(3600)
    assert life.spec.settled == ()
    spec(life, decision=DecisionValue.REVERT)
    life.step()
    assert life.open() == [(Verb.SEAL, "b")]
    assert life.status().decision is not None
    assert life.status().decision.source == DecisionSource.USER


def test_a_deadline_may_be_moved_and_taken_away() -> None:
    life = waiting("Confirm", seconds=60)
    spec(life, decision_timeout_seconds=None, on_decision_timeout=None)
    decided = life.step(10 * 24 * 3600)
    assert (life.spec.settled, life.status().decision_deadline, decided.requeue_after) == ((), None, None)
    spec(life, decision_timeout_seconds=11 * 24 * 3600, on_decision_timeout=DecisionValue.CONFIRM)
    assert life.step().requeue_after == timedelta(days=1)


def test_the_deadline_counts_from_when_the_decision_is_awaited() -> None:
    life = Life(migration(decisionTimeoutSeconds=60, onDecisionTimeout="Confirm"))
    life.step()
    life.go_on_to(Verb.ACTIVATE)
    life.now = 50
    assert life.status().decision_deadline is None
    life.answer(Verb.ACTIVATE)
    assert life.status().decision_deadline == after(110)


@pytest.mark.parametrize("reason", [reasons.INSUFFICIENT_DISK, reasons.DIGEST_MISMATCH])
def test_what_rolls_back_is_not_decided_by_a_deadline(reason: str) -> None:
    life = Life(migration(decisionTimeoutSeconds=1, onDecisionTimeout="Confirm"))
    life.go_on_to(Verb.ACTIVATE)
    life.answer(Verb.ACTIVATE, reason)
    life.step(100)
    assert life.open() == [(Verb.SEAL, "b")]
    assert life.spec.move is not None
    assert life.spec.move.decision is None


def test_a_confirm_is_looked_at_when_the_decision_is_awaited_and_at_no_other_time() -> None:
    life = Life(migration(decision="Confirm"))
    life.step()
    for verb in (Verb.PREPARE, Verb.PREFLIGHT, Verb.SEAL, Verb.COPY):
        life.answer(verb)
        wishes = tuple(life.migrations.values())
        assert not decision.confirm_is_wished(life.spec, wishes, after(0))
    awaiting = Life().go_on_to()
    spec(awaiting, decision=DecisionValue.CONFIRM)
    assert decision.confirm_is_wished(awaiting.spec, tuple(awaiting.migrations.values()), after(0))
    assert not decision.confirm_is_wished(awaiting.spec, (migration("another", decision="Confirm"),), after(0))
    awaiting.wish("Revert")
    assert awaiting.spec.lock is not None
    assert not decision.confirm_is_wished(awaiting.spec, (migration(decision="Confirm"),), after(0))


def test_the_nodes_that_are_read_live_are_those_whose_word_counts_now() -> None:
    life = Life().go_on_to(Verb.SEAL)
    read = [decision.live_reads(life.spec, (), after(0))]
    life.answer(Verb.SEAL)
    read.append(decision.live_reads(life.spec, (), after(0)))
    assert read == [frozenset({"a"}), frozenset()]


def test_a_time_out_that_says_not_what_to_do_does_nothing() -> None:
    """No API server with our kinds takes it; an object of an older version may be so."""
    life = Life().go_on_to()
    spec(life, decision_timeout_seconds=1)
    before = life.spec
    life.step(60)
    assert life.spec == before
