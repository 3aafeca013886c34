"""A VM's life: placed, created, started."""

import dataclasses

import pytest
from builders import NOON, UID, decided, failed, host, observed, placement, succeeded, task, vm
from vm_life import Cluster

from kubeferry.api import reasons
from kubeferry.api.meta import Status, condition
from kubeferry.api.placement import StepState
from kubeferry.api.role import Role
from kubeferry.api.task import HostTaskStatus, TaskPhase, TaskState, Verb
from kubeferry.core.observed import CreatePlacement, ReplacePlacement, VmDecision


def test_a_vm_is_protected_before_anything_else_is_written() -> None:
    decision = decided(observed(vm=vm(protected=False), hosts=(host(),)), NOON, "e1")
    assert decision == VmDecision(protect=True)


def test_the_first_placement_names_node_epoch_copy_and_the_create_that_is_asked() -> None:
    decision = decided(observed(vm=vm(), hosts=(host(),)), NOON, "e1")
    assert isinstance(decision.placement, CreatePlacement)
    spec = decision.placement.spec
    assert (spec.node_name, spec.host_id, spec.epoch, spec.lineage, spec.running) == ("a", "host-a", 1, ("e1",), True)
    assert [(s.seq, s.verb, s.node, s.host_id, s.epoch, s.state) for s in spec.steps] == [
        (1, Verb.CREATE, "a", "host-a", 1, StepState.PENDING)
    ]
    assert [(c.node, c.host_id, c.epoch_id, c.discard) for c in spec.copies] == [("a", "host-a", "e1", None)]
    assert decision.tasks == ()


def test_what_runs_has_the_canonical_machine_type_and_the_vms_uid() -> None:
    spec = placement().spec
    assert (spec.domain.machine_type, spec.domain.uuid, spec.domain.memory) == ("pc-q35-7.2", UID, 512 << 20)


def test_a_task_that_vanished_before_its_outcome_was_recorded_is_asked_again_by_the_same_name() -> None:
    cluster = Cluster()
    cluster.step()
    ((name, first),) = cluster.tasks.items()
    cluster.tasks.clear()
    cluster.step()
    assert cluster.tasks == {name: first}


def test_the_outcome_stands_in_the_ledger_before_the_task_is_forgotten() -> None:
    stored = placement()
    (create,) = decided(observed(vm=vm(), placement=stored, hosts=(host(),)), NOON, "x").tasks
    decision = decided(observed(vm=vm(), placement=stored, tasks=(task(create, succeeded(TaskState.CREATED)),), hosts=(host(),)), NOON, "x")
    assert isinstance(decision.placement, ReplacePlacement)
    assert decision.placement.spec.steps[0].state == StepState.SUCCEEDED
    assert decision.forget == ()


@pytest.mark.parametrize("verb", ["Create", "Start"])
def test_a_refused_task_is_asked_again_later_and_ever_later(verb: str) -> None:
    cluster = Cluster()
    cluster.step()
    if verb == "Start":
        cluster.answer(succeeded(TaskState.CREATED))
        cluster.step()
    now, waits = 0.0, []
    for _ in range(9):
        cluster.answer(failed(reasons.PATH_NOT_ALLOWED))
        wait = cluster.step(now).requeue_after
        assert wait is not None
        assert cluster.tasks == {}
        waits.append(wait.total_seconds())
        cluster.step(now + wait.total_seconds() - 0.001)
        assert cluster.tasks == {}
        now += wait.total_seconds()
        cluster.step(now)
        assert [t.spec.verb for t in cluster.tasks.values()] == [verb]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_the_ledger_stays_bounded_however_often_a_host_refuses() -> None:
    cluster = Cluster()
    for again in range(40):
        cluster.step(again * 301)
        cluster.answer(failed(reasons.INSUFFICIENT_MEMORY))
        cluster.step(again * 301 + 0.5)
    assert cluster.placement is not None
    assert len(cluster.placement.spec.steps) <= 9


def test_a_machine_type_that_the_node_lacks_is_refused_before_placement() -> None:
    made = vm(domain={**_domain(), "machine": {"type": "microvm"}})
    decision = decided(observed(vm=made, hosts=(host(),)), NOON, "e1")
    assert decision.placement is None
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.SCHEDULED)
    assert told is not None
    assert told.reason == reasons.MACHINE_TYPE_UNAVAILABLE


def _domain() -> dict[str, object]:
    from builders import vm_body

    body: dict[str, object] = vm_body()["spec"]["template"]["spec"]["domain"]
    return body


@pytest.mark.parametrize("role", [Role.ACTIVE, Role.SEALED, Role.RELEASED, Role.INCOMING, Role.VERIFIED])
def test_a_copy_without_a_placement_is_never_placed_anew(role: Role) -> None:
    decision = decided(observed(vm=vm(), hosts=(host(), host("b", role=role))), NOON, "e9")
    assert decision.placement is None
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.NEEDS_ATTENTION)
    assert told is not None
    assert (told.status, told.reason) == (Status.TRUE, reasons.PLACEMENT_LOST)
    assert "b (" in told.message


def test_a_vm_that_had_a_node_and_lost_its_placement_is_never_placed_anew() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.placement = None
    cluster.step()
    assert cluster.placement is None
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.PLACEMENT_LOST)


def test_a_vm_that_was_never_placed_is_let_go_when_deleted() -> None:
    assert decided(observed(vm=vm(deleted=True), hosts=(host(),)), NOON, "e1") == VmDecision(release=True)


def test_a_vm_that_is_deleted_before_it_was_asked_to_start_is_not_started_any_more() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.vm = vm(deleted=True)
    cluster.answer(succeeded(TaskState.CREATED))
    cluster.step()
    assert cluster.placement is not None
    assert not cluster.placement.spec.running
    assert [(s.verb, s.state) for s in cluster.placement.spec.steps] == [(Verb.CREATE, StepState.SUCCEEDED)]


def test_at_a_later_epoch_nothing_is_created_or_started_anew() -> None:
    later = placement(epoch=2, lineage=("e2", "e1"), steps=(), node_name="b", host_id="host-b")
    decision = decided(observed(vm=vm(), placement=later, hosts=(host("b", role=Role.ACTIVE),)), NOON, "x")
    assert (decision.placement, decision.tasks) == (None, ())
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.VOLUMES_READY)
    assert told is not None
    assert told.status == Status.TRUE


def test_a_refused_task_is_asked_again_of_the_node_that_refused_it() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(failed(reasons.INSUFFICIENT_DISK))
    cluster.step()
    assert cluster.placement is not None
    cluster.placement = placement(cluster.placement.spec, node_name="b", host_id="host-b")
    cluster.step(5)
    (again,) = cluster.tasks.values()
    assert (again.spec.node, again.spec.host_id) == ("a", "host-a")


def test_a_copy_that_is_gone_does_not_keep_a_vm_from_being_placed() -> None:
    decision = decided(observed(vm=vm(), hosts=(host(), host("b", role=Role.GONE))), NOON, "e1")
    assert isinstance(decision.placement, CreatePlacement)


def test_the_absence_of_the_vm_object_changes_nothing() -> None:
    assert decided(observed(placement=placement(), hosts=(host(role=Role.ACTIVE),)), NOON, "e1") == VmDecision()


def test_two_volumes_of_one_name_are_refused() -> None:
    made = vm()
    spec = dataclasses.replace(made.spec.template.spec, volumes=made.spec.template.spec.volumes * 2)
    made = dataclasses.replace(made, spec=dataclasses.replace(made.spec, template=dataclasses.replace(made.spec.template, spec=spec)))
    decision = decided(observed(vm=made, hosts=(host(),)), NOON, "e1")
    assert decision.placement is None


def test_a_superseded_task_counts_as_not_done() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(HostTaskStatus(phase=TaskPhase.SUPERSEDED))
    assert cluster.step().requeue_after is not None
