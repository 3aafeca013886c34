"""A migration on its way: what is asked of which host, and who may start the VM when."""

import dataclasses
from typing import Any

import pytest
from builders import after, migration
from move_life import DIGEST, FORWARD, Life

from kubeferry.api import reasons
from kubeferry.api.migration import Migration, MigrationPhase
from kubeferry.api.names import FINALIZER
from kubeferry.api.task import ProofKind, TaskProgress, Verb
from kubeferry.core.observed import ReplacePlacement


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
    life.progress(Verb.COPY, TaskProgress(bytes_total=5 << 20, bytes_done=1 << 20))
    transfer = life.status().transfer
    assert transfer is not None
    assert (transfer.bytes_done, transfer.bytes_total, transfer.digest) == (1 << 20, 5 << 20, None)
    life.answer(Verb.COPY)
    life.answer(Verb.ACTIVATE)
    life.wish("Revert")
    transfer = life.status().transfer
    assert transfer is not None
    assert (transfer.bytes_done, transfer.bytes_total, transfer.digest) == (5 << 20, 5 << 20, DIGEST)


def orphaned(until: Verb) -> Life:
    """One whose Migration vanished before that was done, and after its target was asked to start the VM."""
    life = Life()
    life.go_on_to(Verb.ACTIVATE)
    del life.migrations["move"]
    if until == Verb.ACTIVATE:
        life.answer(Verb.ACTIVATE)
    return life


def test_a_lock_whose_migration_vanished_stands_and_says_so() -> None:
    life = orphaned(Verb.ACTIVATE)
    assert life.spec.lock is not None
    assert life.spec.node_name == "b"
    assert life.open() == []
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.MIGRATION_GONE)


def test_a_migration_that_vanished_before_its_target_was_asked_to_start_the_vm_is_rolled_back() -> None:
    """The target holds a verified copy, and may start it no more once it is sealed: nobody needs to decide."""
    life = Life()
    life.go_on_to(Verb.COPY)
    del life.migrations["move"]
    life.answer(Verb.COPY)
    assert (life.spec.node_name, life.open()) == ("", [(Verb.SEAL, "b")])
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    assert (life.spec.lock, life.spec.node_name) == (None, "a")


def heir(name: str = "move", **spec: Any) -> Migration:
    made = migration(name, created=100, **spec)
    return dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, uid="uid-heir"))


@pytest.mark.parametrize(("wish", "phase"), [("Confirm", "Confirmed"), ("Revert", "Reverted")])
@pytest.mark.parametrize("target", [None, "b"])
def test_a_new_migration_of_its_name_takes_the_lock_over_and_is_decided(wish: str, phase: str, target: str | None) -> None:
    life = orphaned(Verb.ACTIVATE)
    life.migrations["move"] = heir(targetNode=target)
    life.step()
    assert life.spec.lock is not None
    assert (life.spec.lock.uid, life.migrations["move"].metadata.finalizers) == ("uid-heir", (FINALIZER,))
    assert life.status().phase == "AwaitingDecision"
    life.wish(wish)
    for verb in [Verb.DISCARD] if wish == "Confirm" else [Verb.SEAL, Verb.ACTIVATE, Verb.DISCARD]:
        life.answer(verb)
    assert life.status().phase == phase
    assert (life.spec.node_name, life.spec.lock) == ("b" if wish == "Confirm" else "a", None)


def test_its_time_to_be_decided_begins_when_it_is_created() -> None:
    """It asks for an hour: that the VM has waited for two is no reason to discard its source now."""
    life = Life().go_on_to()
    del life.migrations["move"]
    life.step(7200)
    made = heir(decisionTimeoutSeconds=3600, onDecisionTimeout="Confirm")
    meta = dataclasses.replace(made.metadata, creation_timestamp=after(7200))
    life.migrations["move"] = dataclasses.replace(made, metadata=meta)
    life.step()
    assert (life.status().phase, life.status().decision_deadline) == ("AwaitingDecision", after(7200 + 3600))
    life.step(3600)
    assert life.status().phase == "Confirming"


def test_it_also_takes_over_what_is_not_done_yet() -> None:
    life = orphaned(Verb.COPY)
    life.migrations["move"] = heir()
    life.step()
    life.answer(Verb.ACTIVATE)
    assert life.status().phase == "AwaitingDecision"


@pytest.mark.parametrize(
    "other",
    [
        heir(targetNode="c"),
        heir(sourceNode="c"),
        heir(virtualMachine={"name": "web-0", "uid": "another"}),
        heir("another"),
        dataclasses.replace(heir(), metadata=dataclasses.replace(heir().metadata, deletion_timestamp=after(200))),
    ],
    ids=["another target", "another source", "another VM", "another name", "being deleted"],
)
def test_one_that_asks_for_something_else_takes_nothing_over(other: Migration) -> None:
    life = orphaned(Verb.ACTIVATE)
    before = life.spec
    life.migrations[other.metadata.name] = other
    life.step()
    assert life.spec == before
    assert life.of_vm(reasons.NEEDS_ATTENTION) == ("True", reasons.MIGRATION_GONE)
