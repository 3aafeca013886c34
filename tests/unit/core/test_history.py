"""A host that has done what the Placement can't have asked of it: nothing is started, moved or deleted until a human decides."""

import dataclasses

import pytest
from builders import after, host, vm
from move_life import Life, reverting, running

from kubeferry.api import reasons
from kubeferry.api.placement import StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import DiscardMode, Verb
from kubeferry.core import guards, ledger
from kubeferry.core.history import diverged


def halted(life: Life) -> None:
    before, asked = life.spec, life.open()
    life.step(3600)
    assert (life.spec, life.open()) == (before, asked)
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.HISTORY_DIVERGED)


def test_an_epoch_that_is_not_of_this_history_stops_everything() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.hosts["b"] = host("b", role=Role.INCOMING, epoch_id="of-another-life")
    halted(life)
    assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.HISTORY_DIVERGED)
    message = life.whole(reasons.NEEDS_ATTENTION).message
    assert "b did what this Placement" in message
    assert "a holds SEALED" in message
    assert "b holds INCOMING" in message
    life.wish("Revert")
    halted(life)


def test_a_task_that_is_missing_is_not_asked_again_of_a_host_that_went_on_without_us() -> None:
    life = Life().go_on_to(Verb.SEAL)
    del life.tasks[life.asked(Verb.SEAL).metadata.name]
    life.hosts["a"] = host("a", role=Role.SEALED, epoch_id="x")
    life.step()
    assert life.open() == []


def test_a_host_that_refuses_since_histories_differ_stops_everything_and_that_is_written_down() -> None:
    life = Life().go_on_to(Verb.SEAL)
    life.answer(Verb.SEAL, reasons.HISTORY_DIVERGED)
    step = ledger.last(life.spec, Verb.SEAL)
    assert step is not None
    assert (step.state, life.spec.epoch) == (StepState.FAILED, 2)
    halted(life)


def test_no_migration_begins_and_no_vm_is_deleted() -> None:
    life = Life()
    life.hosts["c"] = host("c", role=Role.SEALED, epoch_id="x")
    life.vm, life.deletable = vm(deleted=True), True
    halted(life)
    assert life.spec.lock is None


@pytest.mark.parametrize("role", [Role.NONE, Role.GONE])
def test_where_nothing_is_left_its_history_is_of_no_interest(role: Role) -> None:
    life = Life()
    life.hosts["c"] = host("c", role=role, epoch_id="x")
    life.step()
    assert life.spec.lock is not None


def test_an_epoch_that_a_host_acknowledged_last_is_known_although_the_lineage_has_forgotten_it() -> None:
    life = Life()
    spec = dataclasses.replace(running(), lineage=("e99",), epoch=99)
    life.placement = dataclasses.replace(life.placement, spec=spec)
    assert diverged(spec, life.seen()) is None


def test_an_active_copy_that_nobody_has_asked_for_stops_everything() -> None:
    life = Life().go_on_to(Verb.PREFLIGHT)
    life.hosts["b"] = host("b", role=Role.ACTIVE, epoch_id="e2")
    halted(life)
    life = Life()
    life.hosts["c"] = host("c", role=Role.ACTIVE, epoch_id="e1")
    halted(life)


def test_a_vm_whose_own_host_has_sealed_it_without_being_asked_is_told() -> None:
    life = Life().go_on_to(Verb.PREFLIGHT)
    life.wish("Revert")
    assert life.spec.lock is None
    life.hosts["a"] = host("a", role=Role.RELEASED, epoch_id="e2")
    halted(life)


def test_old_news_of_a_host_is_no_other_history() -> None:
    life = Life().go_on_to()
    old = dict(life.hosts)
    life.wish("Revert")
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    life.hosts |= old
    assert diverged(life.spec, life.seen()) is None


def test_a_copy_that_lost_and_is_active_is_known_if_a_fence_stood_for_its_seal() -> None:
    life = Life().go_on_to()
    life.wish("Confirm")
    copies = tuple(dataclasses.replace(c, discard=DiscardMode.TRASH, epoch_id="e2") if c.node == "a" else c for c in life.spec.copies)
    spec = dataclasses.replace(life.spec, copies=copies, steps=())
    life.hosts["a"] = host("a", role=Role.ACTIVE, epoch_id="e2")
    assert diverged(spec, life.seen()) is not None
    unsealed = tuple(dataclasses.replace(c, unsealed=c.node == "a") for c in copies)
    assert diverged(dataclasses.replace(spec, copies=unsealed), life.seen()) is None


def test_without_its_guard_another_history_would_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life().go_on_to(Verb.SEAL)
    life.hosts["b"] = host("b", role=Role.INCOMING, epoch_id="x")
    monkeypatch.setattr(guards, "lineage", lambda *_: True)
    life.answer(Verb.SEAL)
    assert life.open() == [(Verb.COPY, "a")]
    assert after(0) is not None


def test_a_source_that_has_sealed_the_vm_for_the_migration_that_holds_it_is_no_contradiction() -> None:
    """Its inventory may tell so before its answer stands in the ledger."""
    life = Life().go_on_to(Verb.SEAL)
    life.holds("a", role=Role.SEALED, state=RunState.STOPPED, epoch_id=life.spec.epoch_id)
    assert diverged(life.spec, life.seen()) is None


def test_a_source_that_is_active_after_the_switch_over_is_a_contradiction_whatever_the_target_was_asked() -> None:
    life = Life().go_on_to(Verb.ACTIVATE)
    assert life.open() == [(Verb.ACTIVATE, "b")]
    life.holds("a", role=Role.ACTIVE, epoch_id=life.spec.epoch_id)
    assert diverged(life.spec, life.seen()) is not None


def test_what_a_host_told_before_its_copy_was_discarded_is_no_contradiction() -> None:
    life = reverting()
    for verb in (Verb.SEAL, Verb.ACTIVATE, Verb.DISCARD):
        life.answer(verb)
    assert life.copy_on("b") is None
    life.hosts["b"] = host("b", role=Role.ACTIVE, epoch_id=life.spec.lineage[1])
    assert diverged(life.spec, life.seen()) is None
    life.hosts["b"] = host("b", role=Role.ACTIVE, epoch_id=life.spec.epoch_id)
    assert "b did what this Placement" in str(diverged(life.spec, life.seen()))
