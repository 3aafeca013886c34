"""A VM that is to go: sealed everywhere, then discarded everywhere, then let go; and nothing of that unless it is meant."""

import dataclasses
from datetime import timedelta

import pytest
from builders import NOON, vm
from move_life import FORWARD, Life, reverting

from kubeferry.api import reasons
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.placement import LockKind, Outcome
from kubeferry.api.task import DiscardMode, TaskState, Verb
from kubeferry.core import deletion, guards
from kubeferry.core.observed import ReplacePlacement
from kubeferry.core.trouble import UNANSWERED_AFTER
from kubeferry.core.vm import step


def deleting(life: Life) -> Life:
    """The VM is deleted, and the controller's CRDs are sound."""
    life.deletable = True
    life.vm = dataclasses.replace(life.vm, metadata=dataclasses.replace(life.vm.metadata, deletion_timestamp=NOON))
    life.step()
    return life


def end(life: Life, verb: Verb, node: str, state: TaskState) -> None:
    (asked,) = (t for t in life.tasks.values() if (t.spec.verb, t.spec.node) == (verb, node))
    others = {name: t for name, t in life.tasks.items() if name != asked.metadata.name}
    life.tasks = {asked.metadata.name: asked}
    held = life.step
    life.step = lambda seconds=0: life.decide()  # type: ignore[method-assign]
    life.end(verb, state)
    life.step = held  # type: ignore[method-assign]
    life.tasks |= others
    life.step()


def test_a_vm_at_rest_is_sealed_discarded_and_let_go() -> None:
    life = Life()
    life.migrations.clear()
    life.step()
    deleting(life)
    assert life.spec.lock is not None
    assert (life.spec.lock.kind, life.spec.node_name, life.spec.host_id, life.spec.epoch) == (LockKind.DELETION, "", "", 2)
    assert life.open() == [(Verb.SEAL, "a")]
    seal = life.asked(Verb.SEAL).spec.seal
    assert seal is not None
    assert seal.shutdown_timeout_seconds == life.vm.spec.template.spec.termination_grace_period_seconds
    assert life.vm.status is not None
    assert (life.vm.status.printable_status, life.vm.status.node_name) == ("Terminating", "a")
    assert life.of_vm(reasons.READY) == ("False", reasons.DELETING)
    assert life.of_vm(reasons.NEEDS_ATTENTION)[0] == "False"
    life.end(Verb.SEAL, TaskState.SEALED)
    assert life.open() == [(Verb.DISCARD, "a")]
    assert [copy.discard for copy in life.spec.copies] == [DiscardMode.TRASH]
    life.answer(Verb.DISCARD)
    assert life.spec.copies == ()
    decision = life.decide()
    assert (decision.release, decision.remove_placement) == (True, False)
    gone = dataclasses.replace(life.seen(), vm=None)
    assert step(gone, NOON, "e9").remove_placement


@pytest.mark.parametrize("until", [*FORWARD, None])
def test_it_takes_the_lock_from_a_migration_at_any_step(until: Verb | None) -> None:
    life = deleting(Life().go_on_to(until))
    assert life.spec.lock is not None
    assert (life.spec.lock.kind, life.spec.move, life.spec.node_name) == (LockKind.DELETION, None, "")
    assert sorted(life.open()) == [(Verb.SEAL, "a"), (Verb.SEAL, "b")]
    assert (life.status().phase, life.told(reasons.SUCCEEDED)) == (MigrationPhase.FAILED, ("False", reasons.VM_DELETED))


def test_the_end_of_the_migration_is_durable_before_it_is_told() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.deletable, life.vm = True, vm(deleted=True)
    decision = life.decide()
    assert decision.placement is not None
    (entry,) = decision.placement.spec.settled
    assert (entry.outcome, entry.reason, decision.migrations) == (Outcome.FAILED, reasons.VM_DELETED, ())


def test_it_takes_the_lock_from_one_that_goes_back() -> None:
    life = deleting(reverting())
    assert sorted(life.open()) == [(Verb.SEAL, "a"), (Verb.SEAL, "b")]


def test_nothing_is_discarded_before_every_copy_is_sealed() -> None:
    life = deleting(Life().go_on_to())
    end(life, Verb.SEAL, "a", TaskState.SEALED)
    assert life.open() == [(Verb.SEAL, "b")]
    end(life, Verb.SEAL, "b", TaskState.SEALED)
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.DISCARD, "b")]


def test_a_fence_stands_for_the_seal_of_a_dead_host() -> None:
    life = deleting(Life().go_on_to())
    end(life, Verb.SEAL, "a", TaskState.SEALED)
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], lease_fresh=False, fence="boot-b-1")
    life.step()
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.SEAL, "b")]


def test_a_seal_that_fails_is_asked_again_and_told() -> None:
    life = deleting(Life())
    life.answer(Verb.SEAL, reasons.HYPERVISOR_ERROR)
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.HYPERVISOR_ERROR)
    life.step(5)
    assert life.open() == [(Verb.SEAL, "a")]


def test_unless_the_crds_were_read_nothing_is_deleted() -> None:
    life = Life()
    life.vm = vm(deleted=True)
    before = life.spec
    life.step()
    assert (life.spec, life.of_vm(reasons.NEEDS_ATTENTION)) == (before, ("True", reasons.CRD_TERMINATING))
    assert not life.decide().release


def test_a_vm_that_is_gone_leaves_its_placement_alone_if_its_deletion_was_never_done() -> None:
    life = Life()
    assert not step(dataclasses.replace(life.seen(), vm=None), NOON, "e9").remove_placement
    deleting(life)
    assert not step(dataclasses.replace(life.seen(), vm=None), NOON, "e9").remove_placement


def test_without_its_guard_the_first_copy_would_be_discarded_while_the_second_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    life = deleting(Life().go_on_to())
    monkeypatch.setattr(guards, "delete_seals", lambda *_: True)
    end(life, Verb.SEAL, "a", TaskState.SEALED)
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.SEAL, "b")]


def test_without_its_guard_a_host_that_comes_back_could_start_what_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "delete_clears_node", lambda spec: spec)
    assert deleting(Life()).spec.node_name == "a"


def test_a_placement_is_written_over_the_version_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life()
    life.deletable, life.vm = True, vm(deleted=True)
    decision = life.decide()
    assert isinstance(decision.placement, ReplacePlacement)
    assert decision.placement.resource_version == life.placement.metadata.resource_version != ""
    monkeypatch.setattr(guards, "cas", lambda read: "")
    decision = life.decide()
    assert isinstance(decision.placement, ReplacePlacement)
    assert decision.placement.resource_version == "", "whatever another has written would be lost"


def test_a_vm_that_nobody_deletes_is_not_deleted_although_it_could_be() -> None:
    life = Life()
    life.deletable = True
    life.go_on_to()
    assert life.spec.lock is not None
    assert life.spec.lock.kind == LockKind.MIGRATION


def test_a_placement_without_copies_is_done_with_only_if_a_deletion_holds_it() -> None:
    bare = dataclasses.replace(Life().spec, copies=())
    assert not deletion.done(bare)


def test_a_seal_that_fails_is_asked_again_after_a_while_and_one_that_is_asked_is_waited_for() -> None:
    life = Life()
    life.migrations.clear()
    deleting(life)
    assert life.step().requeue_after == UNANSWERED_AFTER  # when a human is told, and not before
    life.answer(Verb.SEAL, reasons.HYPERVISOR_ERROR)
    assert life.open() == []
    wait = life.step().requeue_after
    assert wait is not None
    assert timedelta() < wait <= timedelta(seconds=5)
    life.step(wait.total_seconds())
    assert life.open() == [(Verb.SEAL, "a")]


def test_a_copy_that_is_only_to_be_forgotten_is_not_put_into_the_trash_by_the_deletion() -> None:
    life = Life()
    life.migrations.clear()
    shared = tuple(dataclasses.replace(copy, discard=DiscardMode.FORGET) for copy in life.spec.copies)
    life.placement = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, copies=shared))
    deleting(life)
    life.end(Verb.SEAL, TaskState.SEALED)
    assert [copy.discard for copy in life.spec.copies] == [DiscardMode.FORGET]


def test_a_copy_that_was_to_go_before_is_not_discarded_until_every_copy_is_sealed() -> None:
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    deleting(life)
    assert {copy.node: copy.discard is not None for copy in life.spec.copies} == {"a": True, "b": False}
    end(life, Verb.SEAL, "a", TaskState.SEALED)
    assert life.open() == [(Verb.SEAL, "b")]
    end(life, Verb.SEAL, "b", TaskState.SEALED)
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.DISCARD, "b")]
