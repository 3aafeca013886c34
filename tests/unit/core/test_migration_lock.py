"""How a migration takes the VM's lock, and what keeps it from it."""

import dataclasses
from typing import Any

import pytest
from builders import NOON, host, migration, placement, vm
from move_life import Life

from kubeferry.api import reasons
from kubeferry.api.domain import DomainInterface
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.names import FINALIZER
from kubeferry.api.network import BridgeNetwork, LibvirtNetwork, NetworkSource, UserNetwork
from kubeferry.api.placement import Direction, LockKind, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import Verb
from kubeferry.core.migration import LOOK_AGAIN
from kubeferry.core.outlook import VM_READY_WITHIN


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


def test_the_pass_is_asked_for_a_node_with_the_vms_hardware_networks_and_labels_and_the_migrations_labels() -> None:
    life = Life(migration(addedNodeSelector={"disk": "ssd", "zone": "b"}))
    sources = (
        NetworkSource(bridge=BridgeNetwork(name="br0")),
        NetworkSource(libvirt=LibvirtNetwork(name="default")),
        NetworkSource(user=UserNetwork()),
    )
    cards = tuple(DomainInterface(name=f"n{i}", mac=f"02:00:00:00:00:0{i}", network=source) for i, source in enumerate(sources))
    life.vm = vm(nodeSelector={"zone": "a", "gpu": ""})
    life.placement = placement(dataclasses.replace(life.spec, domain=dataclasses.replace(life.spec.domain, interfaces=cards)))
    life.target = None
    life.step()
    place = life.places[-1]
    assert (place.architecture, place.machine_type) == ("amd64", "pc-q35-7.2")
    assert (place.bridges, place.networks) == (frozenset({"br0"}), frozenset({"default"}))
    assert place.labels == {("disk", "ssd"), ("zone", "b"), ("zone", "a"), ("gpu", "")}


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
    assert decision.requeue_after == (LOOK_AGAIN if reason == reasons.AGENTS_NOT_SEEN_YET else VM_READY_WITHIN)
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


@pytest.mark.parametrize("until", [None, Verb.PREPARE, Verb.COPY], ids=["before-the-lock", "before-the-seal", "in-the-copy"])
def test_one_that_is_deleted_goes_at_once_only_if_the_vm_is_not_off_for_it(until: Verb | None) -> None:
    life = Life()
    if until is None:
        life.holds("a", state=RunState.STOPPED)
        life._meta("move", finalizers=(FINALIZER,))
    else:
        life.go_on_to(until)
    life._meta("move", deletion_timestamp=NOON)
    life.step()
    assert life.migrations["move"].metadata.finalizers == ((FINALIZER,) if until == Verb.COPY else ())


def test_one_that_awaits_its_decision_and_is_deleted_is_still_decided_and_goes_once_that_is_durable() -> None:
    life = Life()
    life.go_on_to()
    life._meta("move", deletion_timestamp=NOON)
    life.step()
    assert life.migrations["move"].metadata.finalizers == (FINALIZER,)
    life.wish("Confirm")
    assert [s.migration_uid for s in life.spec.settled] == ["uid-move"]
    assert life.migrations["move"].metadata.finalizers == ()
