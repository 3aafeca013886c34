"""Migrations that have not begun: what they wait for, until when, and how they end without having touched anything."""

import dataclasses
from typing import Any

import pytest
from builders import UID, after, host, migration, vm
from move_life import Life, running

from kubeferry.api import reasons
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import Verb
from kubeferry.core import outlook, project_migration
from kubeferry.core.migration import LOOK_AGAIN

DAY = 24 * 3600


def ended(life: Life, name: str = "move") -> tuple[str, tuple[str, str]]:
    """The phase, and status and reason of Succeeded, of one that has ended; else an error."""
    assert life.told(reasons.FINISHED, name)[0] == "True"
    return life.status(name).phase, life.told(reasons.SUCCEEDED, name)


PRECONDITIONS: list[Any] = [
    pytest.param({"virtualMachine": {"name": "web-0", "uid": "another"}}, "another", id="uid"),
    pytest.param({"sourceNode": "c"}, "the VM is on a, expected was c", id="source"),
]


@pytest.mark.parametrize(("spec", "said"), PRECONDITIONS)
def test_a_precondition_that_does_not_hold_ends_it_with_nothing_touched(spec: dict[str, Any], said: str) -> None:
    life = Life(migration(**spec))
    before = life.spec
    life.step()
    assert ended(life) == ("Failed", ("False", reasons.PRECONDITION_FAILED))
    assert said in life.whole(reasons.SUCCEEDED).message
    assert life.spec == before
    assert life.places == []


def test_preconditions_that_hold_stand_in_nobodys_way() -> None:
    life = Life(migration(virtualMachine={"name": "web-0", "uid": UID}, sourceNode="a", targetNode="b"))
    life.step()
    assert life.open() == [(Verb.PREPARE, "b")]


def test_a_precondition_is_looked_at_when_its_turn_has_come() -> None:
    """The one before it may bring the VM to where it must be."""
    life = Life(migration("first"), migration("second", created=1, sourceNode="b"))
    life.step()
    assert life.told(reasons.SCHEDULED, "second") == ("False", reasons.BLOCKED_BY_MIGRATION)
    life.go_on_to()
    life.wish("Confirm", "first")
    life.answer(Verb.DISCARD)
    assert ended(life, "first")[0] == "Confirmed"
    assert life.told(reasons.FINISHED, "second")[0] == "False"
    assert life.places[-1].source == "b"


def test_a_vm_that_is_at_the_target_already_is_a_success_also_while_it_is_being_started() -> None:
    life = Life(migration(targetNode="a"))
    life.holds("a", state=RunState.STOPPED)
    before = life.spec
    life.step()
    assert ended(life) == ("Confirmed", ("True", reasons.ALREADY_AT_TARGET))
    assert life.told(reasons.CONFIRMED) == ("True", reasons.ALREADY_AT_TARGET)
    assert life.spec == before
    assert life.places == []


def test_a_target_that_nobody_knows_is_told_by_name_with_those_that_are_known() -> None:
    life = Life(migration(targetNode="z"))
    life.step()
    assert ended(life) == ("Failed", ("False", reasons.NODE_UNKNOWN))
    assert "no hypervisor is called z; known: a, b, c" in life.whole(reasons.SUCCEEDED).message


def test_a_target_that_nobody_knows_may_come_until_the_start_deadline() -> None:
    life = Life(migration(targetNode="z", startDeadlineSeconds=60))
    life.target = None
    life.step()
    assert life.told(reasons.SCHEDULED) == ("False", reasons.NO_FEASIBLE_NODE)
    assert life.status().phase == MigrationPhase.PENDING


def test_with_a_start_deadline_a_node_is_waited_for_and_taken_when_there_is_one() -> None:
    life = Life(migration(startDeadlineSeconds=3600))
    life.target = None
    decision = life.step()
    assert (life.status().phase, life.told(reasons.SCHEDULED)) == (MigrationPhase.PENDING, ("False", reasons.NO_FEASIBLE_NODE))
    assert "3 NodeNotReady" in life.whole(reasons.SCHEDULED).message
    assert life.status().scheduling is not None
    assert decision.requeue_after == outlook.PASS_AGAIN
    life.target = "b"
    life.step(3000)
    assert life.open() == [(Verb.PREPARE, "b")]


def test_at_its_start_deadline_it_fails_by_what_it_has_waited_for() -> None:
    life = Life(migration(startDeadlineSeconds=3600))
    life.target = None
    life.step()
    assert life.step(3595).requeue_after == after(5) - after(0)
    assert life.told(reasons.FINISHED)[0] == "False"
    life.step(5)
    assert ended(life) == ("Failed", ("False", reasons.NO_FEASIBLE_NODE))


def test_after_its_start_deadline_it_begins_no_more() -> None:
    """The controller was away: nobody expects the VM to be stopped by now."""
    life = Life(migration(startDeadlineSeconds=3600))
    before = life.spec
    life.step(3600)
    assert ended(life) == ("Failed", ("False", reasons.DEADLINE_EXCEEDED))
    assert "2026-01-01 13:00:00 UTC" in life.whole(reasons.SUCCEEDED).message
    assert life.spec == before


def test_a_vm_that_is_not_ready_is_waited_for_five_minutes() -> None:
    life = Life()
    life.holds("a", state=RunState.STOPPED)
    life.step(299)
    assert life.told(reasons.SCHEDULED) == ("False", reasons.VM_NOT_READY)
    life.step(1)
    assert ended(life) == ("Failed", ("False", reasons.VM_NOT_READY))
    assert "a does not tell, so far, that the VM is running there" in life.whole(reasons.SUCCEEDED).message


def test_or_as_long_as_the_start_deadline_says() -> None:
    life = Life(migration(startDeadlineSeconds=3600))
    life.holds("a", state=RunState.STOPPED)
    life.step(3599)
    assert life.told(reasons.FINISHED)[0] == "False"
    life.step(1)
    assert ended(life) == ("Failed", ("False", reasons.VM_NOT_READY))


def test_a_vm_without_a_node_is_waited_for_as_long() -> None:
    def seen(now: float) -> str:
        told = project_migration.told(migration(), None, observed, None, after(now))
        assert told is not None
        return told.phase

    observed = Life().seen()
    assert [seen(299), seen(300)] == ["Pending", "Failed"]


def test_what_waits_behind_another_has_five_minutes_for_the_vm_from_its_turn_on() -> None:
    life = Life(migration("first"), migration("second", created=1))
    life.go_on_to()
    life.step(DAY)
    life.wish("Revert", "first")
    life.hosts["c"] = host("c", lease=None)  # it does not begin at once
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    life.holds("a", state=RunState.STOPPED)
    life.hosts["c"] = host("c")
    life.answer(Verb.DISCARD)
    assert life.told(reasons.SCHEDULED, "second") == ("False", reasons.VM_NOT_READY)
    assert life.told(reasons.FINISHED, "second")[0] == "False"
    life.step(300)
    assert ended(life, "second") == ("Failed", ("False", reasons.VM_NOT_READY))


def test_behind_another_it_waits_for_ever_unless_it_has_a_start_deadline() -> None:
    life = Life(migration("first"), migration("second", created=1), migration("third", created=2, startDeadlineSeconds=60))
    life.go_on_to()
    life.step(59)
    assert life.told(reasons.FINISHED, "third")[0] == "False"
    life.step(10 * DAY)
    assert life.told(reasons.FINISHED, "second")[0] == "False"
    assert ended(life, "third") == ("Failed", ("False", reasons.BLOCKED_BY_MIGRATION))
    assert "holds the VM" in life.whole(reasons.SUCCEEDED, "third").message


def test_one_that_ends_by_its_precondition_lets_the_next_begin() -> None:
    life = Life(migration("first", sourceNode="c"), migration("second", created=1))
    life.step()
    assert ended(life, "first")[0] == "Failed"
    assert life.spec.lock is not None
    assert life.spec.lock.name == "second"


def test_of_one_that_is_being_deleted_nothing_is_told() -> None:
    life = Life(migration(deleted=True, sourceNode="c"))
    life.step()
    assert life.migrations["move"].status is None


@pytest.mark.parametrize(("seconds", "left"), [({}, 30), ({"startDeadlineSeconds": 3600}, 30), ({"startDeadlineSeconds": 10}, 10)])
def test_a_vm_that_is_missing_is_waited_for_thirty_seconds_or_less(seconds: dict[str, int], left: int) -> None:
    assert outlook.missing_until(migration(**seconds), after(5)) == after(left)


def test_what_has_ended_before_it_began_tells_nothing_as_waiting() -> None:
    life = Life(migration(sourceNode="c"))
    life.step()
    assert reasons.WAITING not in {c.reason for c in life.status().conditions}
    assert all(c.message for c in life.status().conditions)


def test_a_wish_to_revert_ends_it_before_it_has_begun() -> None:
    life = Life(migration(decision="Revert", sourceNode="c"))
    life.step()
    assert ended(life) == ("Reverted", ("False", reasons.CANCELLED))


def test_the_outlook_of_the_one_that_may_begin_is_open() -> None:
    life = Life()
    spec: PlacementSpec = running()
    assert outlook.of(migration(), spec, life.seen(), after(0)) is None
    assert list(outlook.waiting(spec, life.seen())) == [life.migrations["move"]]


def test_who_waits_is_neither_who_holds_the_vm_nor_who_has_ended_nor_who_lost_it() -> None:
    def waits(life: Life) -> list[str]:
        return [m.metadata.name for m in outlook.waiting(life.spec, life.seen())]

    life = Life(migration("first"), migration("second", created=1))
    life.go_on_to()
    assert waits(life) == ["second"]
    life.hosts["c"] = host("c", lease=None)  # the second does not begin at once
    life.wish("Confirm", "first")  # it has given up the lock, and is told as confirming
    assert waits(life) == ["second"]
    held = dataclasses.replace(life.status("first"), conditions=())
    lost = Life()
    lost.migrations["move"] = dataclasses.replace(lost.migrations["move"], status=held)
    assert waits(lost) == []


def test_a_vm_that_never_gets_a_node_is_waited_for_until_the_start_deadline() -> None:
    seen = dataclasses.replace(Life().seen(), placement=None)
    for now, expected in ((59, outlook.Wait), (60, outlook.End)):
        assert isinstance(outlook.of(migration(startDeadlineSeconds=60), None, seen, after(now)), expected)


@pytest.mark.parametrize("wish", ["Confirm", "Revert"])
def test_after_an_hour_behind_another_the_five_minutes_begin_however_that_one_was_decided(wish: str) -> None:
    life = Life(migration("first"), migration("second", created=1))
    life.go_on_to()
    life.now = 3600
    life.hosts["c"] = host("c", lease=None)  # it does not begin at once
    life.wish(wish, "first")
    if wish == "Revert":
        life.answer(Verb.SEAL)
        life.answer(Verb.ACTIVATE)
    life.holds(life.spec.node_name, state=RunState.STOPPED)
    life.hosts["c"] = host("c")
    life.step(299)
    assert life.told(reasons.SCHEDULED, "second") == ("False", reasons.VM_NOT_READY)
    assert life.told(reasons.FINISHED, "second")[0] == "False"
    life.step(1)
    assert ended(life, "second") == ("Failed", ("False", reasons.VM_NOT_READY))


def test_they_begin_also_when_the_one_before_came_to_nothing() -> None:
    life = Life(migration("first"), migration("second", created=1))
    life.step()
    life.target = None
    life.holds("a", state=RunState.STOPPED)
    life.now = 25
    life.answer(Verb.PREPARE, reasons.FOREIGN_FILES)  # no copy is left of it, and no step
    assert ended(life, "first")[0] == "Failed"
    life.step(299)
    assert life.told(reasons.FINISHED, "second")[0] == "False"
    life.step(1)
    assert ended(life, "second") == ("Failed", ("False", reasons.VM_NOT_READY))


def test_one_that_has_the_vm_and_has_not_stopped_it_gives_it_up_at_its_start_deadline() -> None:
    life = Life(migration(startDeadlineSeconds=20))
    life.step()
    assert life.step(19).requeue_after == after(1) - after(0)
    assert life.open() == [(Verb.PREPARE, "b")]
    life.step(1)
    assert ended(life) == ("Failed", ("False", reasons.DEADLINE_EXCEEDED))
    assert "was to stop the VM by 2026-01-01 12:00:20 UTC" in life.whole(reasons.SUCCEEDED).message
    assert "The VM was not touched" in life.whole(reasons.SUCCEEDED).message
    assert (life.spec.lock, life.spec.node_name) == (None, "a")
    assert life.open() == [(Verb.DISCARD, "b")]


def test_a_controller_that_was_away_over_the_start_deadline_does_not_stop_the_vm() -> None:
    life = Life(migration(startDeadlineSeconds=60))
    life.step(50)
    for verb in (Verb.PREPARE, Verb.PREFLIGHT):
        asked = life.asked(verb)
        life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=life._done(asked))
        if verb == Verb.PREPARE:
            life.step()
    life.step(3600)
    assert ended(life) == ("Failed", ("False", reasons.DEADLINE_EXCEEDED))
    assert (Verb.SEAL, "a") not in life.open()


def test_one_that_has_stopped_the_vm_goes_on_past_its_start_deadline() -> None:
    life = Life(migration(startDeadlineSeconds=60)).go_on_to(Verb.SEAL)
    life.step(60)
    assert life.open() == [(Verb.SEAL, "a")]
    life.answer(Verb.SEAL)
    assert life.open() == [(Verb.COPY, "a")]


def test_at_its_start_deadline_it_does_not_fail_by_what_is_about_to_be_known() -> None:
    """The controller has just begun to watch."""
    life = Life(migration(startDeadlineSeconds=60))
    life.target = None
    life.hosts["c"] = host("c", lease=None)
    assert life.step(61).requeue_after == LOOK_AGAIN
    assert life.told(reasons.SCHEDULED) == ("False", reasons.AGENTS_NOT_SEEN_YET)
    life.hosts["c"] = host("c")
    life.step()
    assert ended(life) == ("Failed", ("False", reasons.NO_FEASIBLE_NODE))


def test_of_a_vm_that_is_being_deleted_nothing_succeeds() -> None:
    life = Life(migration(targetNode="a"))
    life.vm = vm(deleted=True)
    life.step()
    assert life.told(reasons.SCHEDULED) == ("False", reasons.VM_NOT_READY)


def test_while_histories_differ_deadlines_are_kept_and_what_is_deleted_may_go() -> None:
    life = Life(migration(startDeadlineSeconds=60), migration("other", created=1))
    life.target = None
    life.step()
    life.hosts["b"] = host("b", role=Role.INCOMING, epoch_id="of-another-life")
    assert life.step().requeue_after == after(60) - after(0)
    other = life.migrations["other"]
    gone = dataclasses.replace(other.metadata, deletion_timestamp=after(1), finalizers=(FINALIZER,))
    life.migrations["other"] = dataclasses.replace(other, metadata=gone)
    assert [m.metadata.name for m in life.decide().release_migrations] == ["other"]
    life.step(60)
    assert ended(life) == ("Failed", ("False", reasons.HISTORY_DIVERGED))


def test_without_any_hypervisor_no_target_is_known() -> None:
    end = outlook.of(migration(targetNode="b"), running(), dataclasses.replace(Life().seen(), hosts=()), after(0))
    assert isinstance(end, outlook.End)
    assert "known: none" in end.message


def test_a_vm_whose_host_is_silent_is_not_called_at_its_target() -> None:
    """Whether it runs there is not known; when its agent speaks again it is."""
    life = Life(migration(targetNode="a"))
    life.holds("a", lease=False)
    life.step()
    assert life.told(reasons.FINISHED)[0] == "False"
    assert life.told(reasons.SCHEDULED) == ("False", reasons.VM_NOT_READY)
    life.holds("a", lease=True)
    life.step()
    assert ended(life) == ("Confirmed", ("True", reasons.ALREADY_AT_TARGET))


def test_a_vm_whose_placement_was_lost_is_not_called_without_a_node() -> None:
    life = Life()
    life.step()
    seen = dataclasses.replace(life.seen(), placement=None, migrations=(migration("other", created=5),))
    wait = outlook.of(seen.migrations[0], None, seen, after(10))
    assert isinstance(wait, outlook.Wait)
    assert wait.reason == reasons.PLACEMENT_LOST
    assert "the VM was on a, and its Placement is lost" in wait.message
