"""The ways back: from every step the VM runs on its source again, and needs the target only where that may have started it."""

import dataclasses
from datetime import timedelta

import pytest
from builders import NOON, after, failed, migration
from move_life import FORWARD, Life, reverting

from kubeferry.api import reasons
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.placement import Direction, Outcome, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import DiscardMode, HostTaskStatus, ProofKind, TaskPhase, TaskProgress, TaskState, Verb
from kubeferry.core import guards, ledger

BEFORE_RELEASED = (Verb.SEAL, Verb.COPY)


def fail(life: Life, verb: Verb, reason: str = reasons.HYPERVISOR_ERROR) -> None:
    """The host fails, whatever is asked again meanwhile."""
    asked = life.asked(verb)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=failed(reason))
    life.step()


def proof(life: Life) -> ProofKind | None:
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    return None if activate.proof is None else activate.proof.kind


def test_a_seal_that_fails_leads_back_without_the_target() -> None:
    life = Life().go_on_to(Verb.SEAL)
    fail(life, Verb.SEAL)
    assert life.spec.move is not None
    assert (life.spec.epoch, life.spec.node_name, life.spec.move.direction) == (3, "a", Direction.BACK)
    assert (life.open(), proof(life)) == ([(Verb.ACTIVATE, "a")], None)
    assert (life.status().phase, life.told(reasons.TARGET_ACTIVE)) == (MigrationPhase.ROLLING_BACK, ("False", reasons.HYPERVISOR_ERROR))
    life.answer(Verb.ACTIVATE)
    (entry,) = life.spec.settled
    assert (life.spec.lock, entry.outcome, entry.reason) == (None, Outcome.FAILED, reasons.HYPERVISOR_ERROR)
    assert [a.node for a in entry.attempts] == ["b"]
    assert (life.status().phase, life.told(reasons.SUCCEEDED)) == (MigrationPhase.FAILED, ("False", reasons.HYPERVISOR_ERROR))
    marked = life.copy_on("b")
    assert marked is not None
    assert (marked.discard, life.open()) == (DiscardMode.TRASH, [(Verb.DISCARD, "b")])
    life.answer(Verb.DISCARD)
    assert [copy.node for copy in life.spec.copies] == ["a"]


@pytest.mark.parametrize(("verb", "seconds"), [(Verb.SEAL, 120), (Verb.COPY, 60), (Verb.ACTIVATE, 60)])
def test_what_does_not_end_in_its_time_leads_back(verb: Verb, seconds: int) -> None:
    life = Life().go_on_to(verb)
    assert life.step().requeue_after == timedelta(seconds=seconds)
    life.step(seconds)
    assert life.spec.move is not None
    assert (life.spec.move.direction, life.spec.move.attempts[-1].reason) == (Direction.BACK, reasons.DEADLINE_EXCEEDED)
    assert life.open() == [(Verb.SEAL, "b") if verb == Verb.ACTIVATE else (Verb.ACTIVATE, "a")]


def test_a_copy_that_breaks_is_begun_three_times_and_later_each_time() -> None:
    life = Life().go_on_to(Verb.COPY)
    seqs = [life.asked(Verb.COPY).spec.seq]
    for wait in (5, 10):
        fail(life, Verb.COPY, reasons.TRANSFER_BROKEN)
        assert life.open() == []
        assert life.step(wait - 1).requeue_after == timedelta(seconds=1)
        life.step(1)
        seqs.append(life.asked(Verb.COPY).spec.seq)
    assert len(set(seqs)) == 3
    assert life.spec.move is not None
    assert (life.spec.epoch, life.spec.move.copy_tries) == (2, 2)
    fail(life, Verb.COPY, reasons.TRANSFER_BROKEN)
    assert life.open() == [(Verb.ACTIVATE, "a")]


def test_a_full_disk_leads_back_at_once() -> None:
    life = Life().go_on_to(Verb.COPY)
    fail(life, Verb.COPY, reasons.INSUFFICIENT_DISK)
    assert life.open() == [(Verb.ACTIVATE, "a")]


def test_a_copy_that_comes_on_is_waited_for_and_one_that_does_not_is_not() -> None:
    life = Life().go_on_to(Verb.COPY)
    for seconds, done in ((10, 1), (50, 2), (50, 3)):
        life.now += seconds
        life.progress(Verb.COPY, TaskProgress(bytes_total=9, bytes_done=done))
        assert life.open() == [(Verb.COPY, "a")]
    assert life.step(59).requeue_after == timedelta(seconds=1)
    life.step(1)
    assert life.open() == [(Verb.ACTIVATE, "a")]


def test_signs_of_life_keep_a_copy_alive_and_are_noted_every_five_seconds() -> None:
    life = Life().go_on_to(Verb.COPY)
    noted = []
    for signs in range(10):
        asked = life.asked(Verb.COPY)
        progress = TaskProgress(bytes_total=9, bytes_done=9, signs=signs)
        status = HostTaskStatus(phase=TaskPhase.RUNNING, started_at=NOON, progress=progress)
        life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=status)
        life.step(2)
        step = ledger.last(life.spec, Verb.COPY)
        assert step is not None
        noted.append(step.moved_at)
    assert noted == [after(s) for s in (2, 2, 2, 8, 8, 8, 14, 14, 14, 20)]


def test_after_the_source_was_released_no_host_may_start_the_vm_until_the_target_is_sealed() -> None:
    life = Life().go_on_to(Verb.ACTIVATE)
    fail(life, Verb.ACTIVATE)
    assert (life.spec.epoch, life.spec.node_name, life.spec.host_id) == (3, "", "")
    assert life.open() == [(Verb.SEAL, "b")]
    life.answer(Verb.SEAL)
    assert (life.spec.node_name, life.open(), proof(life)) == ("a", [(Verb.ACTIVATE, "a")], ProofKind.SEALED)
    life.answer(Verb.ACTIVATE)
    assert (life.status().phase, life.told(reasons.SUCCEEDED)) == (MigrationPhase.FAILED, ("False", reasons.HYPERVISOR_ERROR))


def test_a_source_that_says_released_after_all_is_gone_back_to_by_way_of_the_target() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.wish("Revert")
    assert (life.open(), life.spec.node_name) == ([(Verb.ACTIVATE, "a")], "a")
    life.end(Verb.ACTIVATE, TaskState.RELEASED)
    assert (life.open(), life.spec.node_name, life.spec.epoch) == ([(Verb.SEAL, "b")], "", 3)
    life.answer(Verb.SEAL)
    assert (life.open(), life.spec.node_name, proof(life)) == ([(Verb.ACTIVATE, "a")], "a", ProofKind.SEALED)
    life.answer(Verb.ACTIVATE)
    assert (life.status().phase, life.told(reasons.SUCCEEDED)) == (MigrationPhase.REVERTED, ("False", reasons.CANCELLED))


@pytest.mark.parametrize("until", BEFORE_RELEASED)
def test_a_revert_before_the_switch_over_cancels_and_needs_no_target(until: Verb) -> None:
    life = Life().go_on_to(until)
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], lease_fresh=False)
    life.wish("Revert")
    assert (life.open(), life.status().phase) == ([(Verb.ACTIVATE, "a")], MigrationPhase.REVERTING)
    life.answer(Verb.ACTIVATE)
    assert (life.status().phase, life.told(reasons.SUCCEEDED)) == (MigrationPhase.REVERTED, ("False", reasons.CANCELLED))
    assert life.spec.lock is None


def test_a_revert_after_the_switch_over_seals_the_target_first() -> None:
    life = Life().go_on_to(Verb.ACTIVATE)
    life.wish("Revert")
    assert (life.open(), life.spec.node_name) == ([(Verb.SEAL, "b")], "")


def test_deleting_an_active_migration_takes_it_back_and_then_lets_it_go() -> None:
    life = Life().go_on_to(Verb.COPY)
    life._meta("move", deletion_timestamp=NOON)
    life.step()
    assert life.open() == [(Verb.ACTIVATE, "a")]
    assert life.migrations["move"].metadata.finalizers
    life.answer(Verb.ACTIVATE)
    assert life.spec.settled[0].reason == reasons.CANCELLED
    assert not life.migrations["move"].metadata.finalizers


@pytest.mark.parametrize("verb", [Verb.SEAL, Verb.ACTIVATE])
def test_on_the_way_back_what_fails_is_asked_again_for_ever_and_a_human_is_told(verb: Verb) -> None:
    life = reverting()
    if verb == Verb.ACTIVATE:
        life.answer(Verb.SEAL)
    first = life.asked(verb).spec
    for wait in (5, 10, 20):
        fail(life, verb, reasons.HYPERVISOR_ERROR)
        assert life.told(reasons.NEEDS_ATTENTION) == ("True", reasons.HYPERVISOR_ERROR)
        assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.HYPERVISOR_ERROR)
        assert life.open() == []
        life.step(wait)
        again = life.asked(verb).spec
        assert dataclasses.replace(again, seq=first.seq) == first
    life.step(86400)
    assert life.open() == [(verb, first.node)]
    life.answer(verb)
    assert life.told(reasons.NEEDS_ATTENTION)[0] == "False"


def test_a_task_that_is_asked_again_is_the_same_whatever_has_happened_since() -> None:
    life = reverting()
    life.answer(Verb.SEAL)
    asked = life.asked(Verb.ACTIVATE)
    del life.tasks[asked.metadata.name]
    steps = tuple(dataclasses.replace(s, state=StepState.PENDING) if s.verb == Verb.SEAL else s for s in life.spec.steps)
    changed = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, steps=steps))
    (again,) = (new for new in ledger.pending(changed) if new.name == asked.metadata.name)
    assert again.spec == asked.spec


def test_a_guest_gets_its_time_at_the_target_too() -> None:
    life = Life(migration(shutdownTimeoutSeconds=7)).go_on_to()
    life.wish("Revert")
    seal = life.asked(Verb.SEAL).spec.seal
    assert seal is not None
    assert seal.shutdown_timeout_seconds == 7


@pytest.mark.parametrize(
    ("guard", "then"),
    [
        pytest.param("seal_before_back", lambda life: (Verb.ACTIVATE, "a") in life.open(), id="the-source-is-started-beside-the-target"),
        pytest.param("back_clears_node", lambda life: life.spec.node_name == "b", id="the-target-may-start-the-vm-again"),
    ],
)
def test_without_its_guard_a_way_back_would_start_two(monkeypatch: pytest.MonkeyPatch, guard: str, then: object) -> None:
    permissive = {"seal_before_back": lambda *_, fenced: True, "back_clears_node": lambda spec: spec}
    monkeypatch.setattr(guards, guard, permissive[guard])
    assert callable(then)
    assert then(reverting())


def test_without_its_guard_a_copy_would_begin_while_the_vm_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "sealed_first", lambda role: True)
    life = Life().go_on_to(Verb.SEAL)
    assert (Verb.COPY, "a") in life.open()


def test_without_its_guard_the_target_would_be_started_before_the_source_gave_up_its_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "activate_needs_release", lambda *, released: True)
    life = Life().go_on_to(Verb.SEAL)
    assert any(s.verb == Verb.ACTIVATE for s in life.spec.steps)


def test_on_the_way_back_a_new_wish_changes_nothing() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.wish("Revert")
    life.wish("Confirm")
    life.answer(Verb.ACTIVATE)
    assert life.status().phase == MigrationPhase.REVERTED


def test_every_step_has_a_way_back() -> None:
    for verb in FORWARD:
        life = Life().go_on_to(verb)
        life.target = None
        fail(life, verb, reasons.INSUFFICIENT_DISK)
        for _ in range(3):
            for back in (Verb.SEAL, Verb.ACTIVATE):
                if any(asked == back for asked, _ in life.open()):
                    life.answer(back)
        assert life.spec.lock is None
        assert life.spec.node_name == "a"
        assert life.hosts["a"].copy_of(life.spec.virtual_machine.uid).role == Role.ACTIVE  # type: ignore[union-attr]
        assert life.told(reasons.SUCCEEDED) == ("False", reasons.INSUFFICIENT_DISK)
