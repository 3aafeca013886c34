"""Targets that come to nothing before the VM was stopped: each costs an attempt, and the next node is taken."""

import dataclasses
from datetime import timedelta

import pytest
from builders import after, host, migration
from move_life import FORWARD, REPORT, Life, discarding

from kubeferry.api import reasons
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.placement import Outcome
from kubeferry.api.role import Role
from kubeferry.api.task import DiscardMode, HostTaskStatus, TaskPhase, Verb
from kubeferry.core.host import Refuse, answer
from kubeferry.core.journal import Journal, JournalStep
from kubeferry.core.limits import Limits
from kubeferry.core.observed import VmDecision
from kubeferry.core.vm import step

BEFORE_SEAL = (Verb.PREPARE, Verb.PREFLIGHT)


@pytest.mark.parametrize("verb", BEFORE_SEAL)
def test_a_node_that_refuses_costs_an_attempt_and_the_next_one_is_taken(verb: Verb) -> None:
    life = Life()
    life.go_on_to(verb)
    life.target = "c"
    life.answer(verb, reasons.STORAGE_ERROR)
    assert life.open() == [(Verb.PREPARE, "c"), (Verb.DISCARD, "b")]
    assert (life.spec.epoch, life.spec.node_name) == (3, "a")
    assert life.spec.move is not None
    (attempt,) = life.spec.move.attempts
    assert (attempt.node, attempt.reason, attempt.time) == ("b", reasons.STORAGE_ERROR, after(0))
    assert f"{verb} on {'b' if verb == Verb.PREPARE else 'a'}" in attempt.message
    marked = life.copy_on("b")
    assert marked is not None
    assert (marked.discard, marked.migration_uid) == (DiscardMode.TRASH, "uid-move")
    assert life.copy_on("c") is not None
    assert life.places[-1].attempted == {"b"}
    assert life.places[-1].bytes == life.spec.move.bytes
    assert life.status().attempts == life.spec.move.attempts
    for each in FORWARD:
        life.answer(each)
    assert life.status().phase == MigrationPhase.AWAITING_DECISION
    assert life.spec.node_name == "c"


def test_the_given_up_copy_is_discarded_while_the_next_target_is_filled() -> None:
    life = Life()
    life.go_on_to(Verb.PREFLIGHT)
    life.target = "c"
    life.answer(Verb.PREFLIGHT, reasons.SSH_UNREACHABLE)
    life.answer(Verb.DISCARD)
    assert [copy.node for copy in life.spec.copies] == ["a", "c"]
    assert life.open() == [(Verb.PREPARE, "c")]


@pytest.mark.parametrize(("verb", "seconds"), [(Verb.PREPARE, 30), (Verb.PREFLIGHT, 60)])
def test_a_silent_host_is_waited_for_no_longer_than_its_time(verb: Verb, seconds: int) -> None:
    life = Life()
    life.go_on_to(verb)
    assert life.step().requeue_after == timedelta(seconds=seconds)
    life.target = "c"
    life.step(seconds - 1)
    assert life.open()[0] == (verb, "b" if verb == Verb.PREPARE else "a")
    life.step(1)
    assert life.spec.move is not None
    assert [a.reason for a in life.spec.move.attempts] == [reasons.DEADLINE_EXCEEDED]
    assert life.open()[0] == (Verb.PREPARE, "c")


def test_a_superseded_task_of_this_epoch_is_a_failure_too() -> None:
    life = Life()
    life.go_on_to(Verb.PREFLIGHT)
    asked = life.asked(Verb.PREFLIGHT)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=HostTaskStatus(phase=TaskPhase.SUPERSEDED))
    life.target = None
    life.step()
    assert life.told(reasons.SUCCEEDED) == ("False", reasons.INTERNAL_ERROR)


def test_the_source_may_be_chosen_and_refuses_and_its_copy_is_never_marked() -> None:
    life = Life()
    life.target = "a"
    life.step()
    assert life.open() == [(Verb.PREPARE, "a")]
    assert [copy.node for copy in life.spec.copies] == ["a"], "the source's copy is none of this attempt's"
    life.target = "b"
    life.answer(Verb.PREPARE, reasons.UNABLE_TO_MIGRATE_TO_SELF)
    assert [(copy.node, copy.discard) for copy in life.spec.copies] == [("a", None), ("b", None)]
    assert life.places[-1].attempted == {"a"}
    for each in FORWARD:
        life.answer(each)
    life.wish("Confirm")
    assert life.status().phase == MigrationPhase.CONFIRMING
    assert [a.reason for a in life.status().attempts] == [reasons.UNABLE_TO_MIGRATE_TO_SELF]


def test_the_source_as_the_only_target_fails_as_in_nova() -> None:
    life = Life()
    life.target = "a"
    life.step()
    life.target = None
    life.answer(Verb.PREPARE, reasons.UNABLE_TO_MIGRATE_TO_SELF)
    assert life.told(reasons.SUCCEEDED) == ("False", reasons.UNABLE_TO_MIGRATE_TO_SELF)
    assert [(copy.node, copy.discard) for copy in life.spec.copies] == [("a", None)]
    assert life.open() == []


@pytest.mark.parametrize(
    "reason",
    [
        reasons.REFUSED_BY_ROLE,
        reasons.STALE_EPOCH,
        reasons.FOREIGN_FILES,
        reasons.FOREIGN_DOMAIN,
        reasons.UNABLE_TO_MIGRATE_TO_SELF,
        reasons.HOST_REPLACED,
    ],
)
def test_what_a_host_holds_of_the_vm_already_is_not_discarded_for_an_attempt(reason: str) -> None:
    life = Life()
    life.step()
    life.target = "c"
    life.answer(Verb.PREPARE, reason)
    assert [(copy.node, copy.discard) for copy in life.spec.copies] == [("a", None), ("c", None)]


def test_without_another_node_it_has_failed_with_the_last_reason_and_the_vm_runs_on() -> None:
    life = Life()
    life.go_on_to(Verb.PREFLIGHT)
    before = life.spec
    life.target = None
    life.answer(Verb.PREFLIGHT, reasons.SSH_HOST_KEY_MISMATCH)
    assert (life.spec.lock, life.spec.move, life.spec.node_name, life.spec.epoch) == (None, None, "a", before.epoch + 1)
    (entry,) = life.spec.settled
    assert (entry.outcome, entry.reason) == (Outcome.FAILED, reasons.SSH_HOST_KEY_MISMATCH)
    assert "0 of 3 nodes are feasible" in entry.message
    assert "stays on a" in entry.message
    assert (life.status().phase, life.told(reasons.FINISHED)[0]) == (MigrationPhase.FAILED, "True")
    assert life.status().scheduling == REPORT
    assert life.open() == [(Verb.DISCARD, "b")]
    assert life.of_vm(reasons.READY)[0] == "True"


def test_after_three_attempts_no_other_node_is_asked_for() -> None:
    life = Life()
    life.hosts["d"] = host("d")
    life.step()
    for node in ("c", "d", "e"):
        life.target = node
        life.answer(Verb.PREPARE, reasons.INSUFFICIENT_MEMORY)
    assert life.spec.lock is None
    assert [a.node for a in life.spec.settled[0].attempts] == ["b", "c", "d"]
    assert "the last of 3 attempts" in life.spec.settled[0].message
    assert len(life.places) == 3


def test_how_many_attempts_there_are_is_configured() -> None:
    life = Life()
    life.step()
    asked = life.asked(Verb.PREPARE)
    status = dataclasses.replace(life._done(asked), phase=TaskPhase.FAILED, result=None)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=status)
    decision = step(life.seen(), after(0), "e9", Limits(max_attempts=1))
    assert decision.placement is not None
    assert decision.placement.spec.lock is None


def test_a_prepare_that_comes_late_is_refused_once_its_copy_was_given_up() -> None:
    life = Life()
    life.step()
    late = life.asked(Verb.PREPARE).spec
    life.target = "c"
    life.step(30)
    noted = Journal(uid=late.placement.name, epoch=3, epoch_id="e3", role=Role.GONE, step=JournalStep(seq=9, verb=Verb.DISCARD))
    refused = answer(late, noted, life.spec, "host-b")
    assert isinstance(refused, Refuse)
    assert refused.reason == reasons.STALE_EPOCH


def test_while_it_is_not_known_which_agents_live_no_node_is_rejected_for_it() -> None:
    life = Life()
    life.step()
    life.hosts["c"] = host("c", lease=None)
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_MEMORY)
    assert life.spec.lock is not None
    assert len(life.places) == 1
    life.hosts["c"] = host("c")
    life.target = "c"
    life.step()
    assert life.open()[0] == (Verb.PREPARE, "c")


def test_what_the_pass_found_is_told_before_the_lock_is_taken() -> None:
    life = Life()
    decision = life.decide()
    while decision.placement is None:
        life._write(decision)
        decision = life.decide()
    (told,) = decision.migrations
    assert (told.status.scheduling, told.status.phase) == (REPORT, MigrationPhase.SCHEDULING)
    assert life.spec.lock is None


@pytest.mark.parametrize("until", BEFORE_SEAL)
def test_a_revert_before_the_vm_was_stopped_unlocks_at_once(until: Verb) -> None:
    life = Life()
    life.go_on_to(until)
    life.wish("Revert")
    assert (life.spec.lock, life.spec.epoch, life.spec.node_name) == (None, 3, "a")
    assert (life.spec.settled[0].outcome, life.spec.settled[0].reason) == (Outcome.REVERTED, reasons.CANCELLED)
    assert life.spec.settled[0].decision is not None
    assert (life.status().phase, life.told(reasons.SUCCEEDED)) == (MigrationPhase.REVERTED, ("False", reasons.CANCELLED))
    assert life.open() == [(Verb.DISCARD, "b")]


def test_one_whose_end_another_controller_told_does_not_begin() -> None:
    life = Life()
    life.step()
    other = Life(migration(decision="Revert"))
    other.step()
    life.migrations["move"] = dataclasses.replace(life.migrations["move"], status=other.status())
    life.step()
    assert (life.spec.lock, life.spec.epoch) == (None, 3)
    assert life.told(reasons.SUCCEEDED) == ("False", reasons.CANCELLED)
    assert life.open() == [(Verb.DISCARD, "b")]


@pytest.mark.parametrize("until", [Verb.PREPARE, Verb.SEAL, Verb.COPY])
def test_a_migration_that_vanished_is_rolled_back_before_the_source_was_released(until: Verb) -> None:
    life = Life()
    life.go_on_to(until)
    del life.migrations["move"]
    life.step()
    if until != Verb.PREPARE:
        assert life.open() == [(Verb.ACTIVATE, "a")]
        life.answer(Verb.ACTIVATE)
    assert (life.spec.lock, life.spec.node_name) == (None, "a")
    assert (life.spec.settled[0].outcome, life.spec.settled[0].reason) == (Outcome.FAILED, reasons.CANCELLED)


def test_a_choice_that_can_not_be_carried_out_is_none() -> None:
    """A profile without the filter StaleCopy chooses a node whose copy is to go."""
    life = discarding()
    life.migrations["next"] = migration("next", created=5)
    life.target = "a"
    life.step()
    assert life.told(reasons.FINISHED, "next") == ("True", reasons.NO_FEASIBLE_NODE)
    assert "a was chosen, which may still hold a copy of this VM" in life.whole(reasons.SUCCEEDED, "next").message
    assert life.spec.lock is None


def test_a_node_that_was_just_given_up_is_not_taken_again_whatever_the_pass_says() -> None:
    life = Life().go_on_to(Verb.PREFLIGHT)
    life.answer(Verb.PREFLIGHT, reasons.SSH_UNREACHABLE)
    assert life.told(reasons.FINISHED) == ("True", reasons.SSH_UNREACHABLE)
    assert "No other node can be taken: b was chosen" in life.whole(reasons.SUCCEEDED).message


def test_a_host_with_the_identity_of_another_that_has_a_copy_is_not_taken() -> None:
    life = Life()
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], status=dataclasses.replace(life.hosts["b"].status, host_id="host-a"))
    life.step()
    assert life.told(reasons.FINISHED) == ("True", reasons.NO_FEASIBLE_NODE)


@pytest.mark.parametrize(("verb", "seconds"), [(Verb.PREPARE, 30), (Verb.PREFLIGHT, 60), (Verb.ACTIVATE, 60)])
def test_who_asks_sets_an_alarm_for_the_deadline_of_what_is_asked(verb: Verb, seconds: int) -> None:
    """Of a host that does nothing no event tells."""
    decided: list[VmDecision] = []

    class Watched(Life):
        def decide(self) -> VmDecision:
            decided.append(super().decide())
            return decided[-1]

    Watched().go_on_to(verb)
    (asks,) = [each for each in decided if any(new.spec.verb == verb for new in each.tasks)]
    assert asks.requeue_after == timedelta(seconds=seconds)


def test_a_target_that_was_prepared_is_discarded_although_the_source_was_replaced() -> None:
    """The reason is the source's: what it refuses says nothing of what the target holds."""
    life = Life().go_on_to(Verb.PREFLIGHT)
    life.target = "c"
    life.answer(Verb.PREFLIGHT, reasons.HOST_REPLACED)
    assert [(copy.node, copy.discard) for copy in life.spec.copies] == [("a", None), ("b", DiscardMode.TRASH), ("c", None)]


@pytest.mark.parametrize(
    ("until", "ends"),
    [
        (Verb.PREFLIGHT, {reasons.PREPARED: "False", reasons.SOURCE_SEALED: "False", reasons.CONFIRMED: "False"}),
        (Verb.COPY, {reasons.SOURCE_SEALED: "True", reasons.DISKS_COPIED: "False", reasons.TARGET_ACTIVE: "False"}),
    ],
)
def test_at_its_end_nothing_is_told_as_waited_for_or_being_done(until: Verb, ends: dict[str, str]) -> None:
    life = Life().go_on_to(until)
    life.wish("Revert")
    if until == Verb.COPY:
        life.answer(Verb.ACTIVATE)
    assert life.told(reasons.FINISHED) == ("True", reasons.CANCELLED)
    told = {condition.type: condition for condition in life.status().conditions}
    assert [c.type for c in told.values() if c.reason in (reasons.WAITING, reasons.IN_PROGRESS)] == []
    assert {kind: told[kind].status for kind in ends} == ends


def test_a_source_that_was_replaced_is_not_taken_as_a_target_either() -> None:
    """Which of the two copies on that node is meant, nobody could tell any more: every pass would fail."""
    life = Life().go_on_to(Verb.PREFLIGHT)
    life.hosts["a"] = host("a", host_id="host-a-made-anew")
    life.target = "a"
    life.answer(Verb.PREFLIGHT, reasons.HOST_REPLACED)
    assert life.told(reasons.FINISHED) == ("True", reasons.HOST_REPLACED)
    assert "No other node can be taken: a was chosen" in life.whole(reasons.SUCCEEDED).message
    assert [copy.host_id for copy in life.spec.copies if copy.node == "a"] == ["host-a"]
