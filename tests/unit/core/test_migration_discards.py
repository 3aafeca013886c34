"""Copies that are to go, and Migrations without a VM."""

import dataclasses

import pytest
from builders import NOON, after, host, migration
from move_life import Life, discarding, running

from kubeferry.api import reasons
from kubeferry.api.meta import Status, condition
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.task import Verb
from kubeferry.core import project_migration, trouble
from kubeferry.core.trouble import UNANSWERED_AFTER
from kubeferry.core.vm import step


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


def test_what_is_wrong_with_the_next_migration_is_not_told_of_the_one_whose_copy_still_goes() -> None:
    life = Life(migration("first"), migration("second", created=1))
    life.go_on_to()
    life.target = "c"
    life.wish("Confirm", "first")
    assert life.spec.lock is not None
    assert life.spec.lock.name == "second"
    told = project_migration.told(
        life.migrations["first"], life.spec, life.seen(), trouble.Trouble(reasons.NODE_SILENT, "c is silent"), NOON
    )
    assert told is not None
    found = condition(told.conditions, reasons.NEEDS_ATTENTION)
    assert found is not None
    assert found.status == Status.FALSE


def test_a_discard_that_is_asked_is_waited_for() -> None:
    life = discarding()
    assert life.open() == [(Verb.DISCARD, "a")]
    assert life.step().requeue_after == UNANSWERED_AFTER  # when a human is told, and not before


@pytest.mark.parametrize("given_up", ["too late", "reverted", "gone"])
def test_a_copy_that_no_prepare_of_ours_has_made_is_named_no_longer(given_up: str) -> None:
    """A Prepare that was given up unanswered may have made one or not: its host knows."""
    life = Life()
    life.step()
    life.target = None
    if given_up == "too late":
        life.step(30)
    elif given_up == "reverted":
        life.wish("Revert")
    else:
        del life.migrations["move"]
        life.step()
    assert life.open() == [(Verb.DISCARD, "b")]
    life.answer(Verb.DISCARD, reasons.FOREIGN_COPY)
    assert [copy.node for copy in life.spec.copies] == ["a"]
    life.step(86400)
    assert life.open() == []
    assert life.of_vm(reasons.NEEDS_ATTENTION)[0] == "False", "the inventory of its host tells of it"
