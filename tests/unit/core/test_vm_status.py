"""What is told of a VM: what was seen, and nothing else."""

import dataclasses
from datetime import timedelta

import pytest
from builders import NOON, after, decided, failed, host, observed, placement, succeeded, vm
from vm_life import Cluster

from kubeferry.api import reasons
from kubeferry.api.meta import Status, condition
from kubeferry.api.placement import StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import HostTaskStatus, TaskPhase, TaskState, Verb
from kubeferry.api.virtualmachine import PrintableStatus
from kubeferry.core.observed import Host


def test_a_vm_is_created_then_started_then_told_running() -> None:
    cluster = Cluster()
    cluster.step()
    assert cluster.answer(succeeded(TaskState.CREATED)).spec.verb == Verb.CREATE
    cluster.step()
    assert cluster.condition(reasons.VOLUMES_READY) == (Status.TRUE, reasons.CREATED)
    assert cluster.condition(reasons.READY) == (Status.FALSE, reasons.STARTING)
    assert cluster.answer(succeeded(TaskState.RUNNING)).spec.verb == Verb.START
    cluster.host = host(role=Role.ACTIVE)
    cluster.step()
    assert cluster.tasks == {}
    assert cluster.vm.status is not None
    assert (cluster.vm.status.printable_status, cluster.vm.status.ready, cluster.vm.status.node_name) == (
        PrintableStatus.RUNNING,
        True,
        "a",
    )
    assert cluster.placement is not None
    assert [(s.seq, s.verb, s.state) for s in cluster.placement.spec.steps] == [
        (1, Verb.CREATE, StepState.SUCCEEDED),
        (2, Verb.START, StepState.SUCCEEDED),
    ]


def test_what_a_human_must_mend_stays_told_while_it_is_asked_again() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(failed(reasons.JOURNALS_LOST))
    cluster.step()
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.JOURNALS_LOST)
    cluster.step(5)
    assert [t.spec.verb for t in cluster.tasks.values()] == [Verb.CREATE]
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.JOURNALS_LOST)
    assert cluster.condition(reasons.VOLUMES_READY) == (Status.FALSE, reasons.JOURNALS_LOST)
    cluster.answer(succeeded(TaskState.CREATED))
    cluster.step(6)
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.FALSE, reasons.AS_EXPECTED)


def test_a_refusal_is_told_with_its_reason_where_an_operator_looks_first() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(failed(reasons.PATH_NOT_ALLOWED))
    cluster.step()
    assert cluster.vm.status is not None
    assert cluster.vm.status.printable_status == PrintableStatus.ERROR
    assert cluster.condition(reasons.VOLUMES_READY) == (Status.FALSE, reasons.PATH_NOT_ALLOWED)
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.PATH_NOT_ALLOWED)


@pytest.mark.parametrize(
    ("made", "hosts", "reason", "printed"),
    [
        pytest.param(vm(), (), reasons.NODE_UNKNOWN, PrintableStatus.UNSCHEDULABLE, id="no-such-node"),
        pytest.param(vm(), (host("b"),), reasons.NODE_UNKNOWN, PrintableStatus.UNSCHEDULABLE, id="another-node"),
        pytest.param(vm(), (host(lease=False),), reasons.NODE_NOT_READY, PrintableStatus.UNSCHEDULABLE, id="silent"),
        pytest.param(vm(), (host(lease=None),), reasons.NODE_NOT_READY, PrintableStatus.UNSCHEDULABLE, id="not-known-to-live-yet"),
        pytest.param(vm(), (host(ready=False),), reasons.NODE_NOT_READY, PrintableStatus.UNSCHEDULABLE, id="not-ready"),
        pytest.param(vm(nodes=("a", "b")), (host("a"), host("b")), reasons.INVALID_SPEC, PrintableStatus.ERROR, id="two-nodes"),
    ],
)
def test_a_vm_that_cannot_be_placed_says_why_and_nothing_is_written(
    made: object, hosts: tuple[Host, ...], reason: str, printed: str
) -> None:
    decision = decided(observed(vm=made, hosts=hosts), NOON, "e1")
    assert (decision.placement, decision.tasks, decision.protect) == (None, (), False)
    assert decision.requeue_after is not None
    assert decision.status is not None
    assert decision.status.printable_status == printed
    told = condition(decision.status.conditions, reasons.SCHEDULED)
    assert told is not None
    assert (told.status, told.reason) == (Status.FALSE, reason)


def test_disks_and_volumes_that_do_not_match_are_told_by_name() -> None:
    made = vm()
    volumes = (dataclasses.replace(made.spec.template.spec.volumes[0], name="other"),)
    template = dataclasses.replace(made.spec.template, spec=dataclasses.replace(made.spec.template.spec, volumes=volumes))
    made = dataclasses.replace(made, spec=dataclasses.replace(made.spec, template=template))
    decision = decided(observed(vm=made, hosts=(host(),)), NOON, "e1")
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.SCHEDULED)
    assert told is not None
    assert told.reason == reasons.INVALID_SPEC
    assert "root" in told.message
    assert "other" in told.message


@pytest.mark.parametrize(
    ("node", "status", "reason"),
    [
        pytest.param(host(role=Role.ACTIVE), Status.TRUE, reasons.RUNNING, id="seen-running"),
        pytest.param(host(role=Role.ACTIVE, state=RunState.STOPPED), Status.FALSE, reasons.STOPPED, id="powered-off"),
        pytest.param(host(role=Role.ACTIVE, state=RunState.UNKNOWN), Status.UNKNOWN, reasons.HYPERVISOR_UNREACHABLE, id="libvirt-away"),
        pytest.param(host(role=Role.SEALED), Status.FALSE, reasons.STOPPED, id="a-role-that-does-not-run"),
        pytest.param(host(role=Role.ACTIVE, lease=False), Status.UNKNOWN, reasons.NODE_SILENT, id="silence-is-no-proof"),
        pytest.param(host(role=Role.ACTIVE, host_id="host-new"), Status.UNKNOWN, reasons.HOST_REPLACED, id="replaced"),
    ],
)
def test_ready_tells_what_was_seen_and_nothing_else(node: Host, status: Status, reason: str) -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(succeeded(TaskState.CREATED))
    cluster.step()
    cluster.answer(succeeded(TaskState.RUNNING))
    cluster.host = node
    cluster.step()
    assert cluster.condition(reasons.READY) == (status, reason)


def test_nothing_is_told_of_a_node_that_a_fresh_controller_does_not_know_to_live() -> None:
    decision = decided(observed(vm=vm(), placement=placement(), hosts=(host(lease=None),)), NOON, "e1")
    assert decision.status is None


def test_a_condition_keeps_its_transition_time_while_its_status_stays() -> None:
    cluster = Cluster()
    cluster.step(0)
    cluster.answer(failed(reasons.INSUFFICIENT_DISK))
    cluster.step(3)
    assert cluster.vm.status is not None
    told = condition(cluster.vm.status.conditions, reasons.READY)
    assert told is not None
    assert told.last_transition_time == NOON
    told = condition(cluster.vm.status.conditions, reasons.NEEDS_ATTENTION)
    assert told is not None
    assert told.last_transition_time == NOON + timedelta(seconds=3)


def test_a_placed_vm_that_is_deleted_runs_on_and_says_so() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(succeeded(TaskState.CREATED))
    cluster.step()
    cluster.vm = dataclasses.replace(vm(deleted=True), status=cluster.vm.status)
    cluster.host = host(role=Role.ACTIVE)
    decision = cluster.step()
    assert not decision.release
    assert cluster.placement is not None
    assert cluster.placement.spec.running
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.CRD_TERMINATING)
    assert decision.status is not None
    assert decision.status.printable_status == PrintableStatus.TERMINATING


def test_what_is_told_of_a_task_ends_with_what_it_told_of() -> None:
    cluster = Cluster()
    cluster.step()
    (task,) = cluster.tasks.values()
    cluster.tasks[task.metadata.name] = dataclasses.replace(task, metadata=dataclasses.replace(task.metadata, creation_timestamp=NOON))
    told = []
    for seconds, status in (
        (119, None),
        (120, None),
        (121, HostTaskStatus(phase=TaskPhase.RUNNING, started_at=after(121))),
        (3721, HostTaskStatus(phase=TaskPhase.RUNNING, started_at=after(121))),
        (3722, succeeded(TaskState.CREATED)),
    ):
        if status is not None:
            cluster.answer(status)
        cluster.step(seconds)
        told.append(cluster.condition(reasons.NEEDS_ATTENTION))
    as_expected = (Status.FALSE, reasons.AS_EXPECTED)
    unanswered, unfinished = (Status.TRUE, reasons.TASK_UNANSWERED), (Status.TRUE, reasons.TASK_UNFINISHED)
    assert told == [as_expected, unanswered, as_expected, unfinished, as_expected]


def test_a_stranger_under_a_tasks_name_is_told_and_nothing_is_asked() -> None:
    cluster = Cluster()
    cluster.step()
    ((name, asked),) = cluster.tasks.items()
    cluster.tasks[name] = dataclasses.replace(asked, spec=dataclasses.replace(asked.spec, node="b"))
    decision = cluster.step(1)
    assert (decision.tasks, decision.forget) == ((), ())
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.TASK_MISMATCH)


def test_a_copy_that_its_host_does_not_tell_of_is_unknown_and_not_stopped() -> None:
    cluster = Cluster()
    for state in (TaskState.CREATED, TaskState.RUNNING):
        cluster.step()
        cluster.answer(succeeded(state))
    cluster.step()
    assert cluster.condition(reasons.READY) == ("Unknown", reasons.COPY_UNTOLD)


def test_a_lost_placement_leaves_no_condition_that_claims_to_know() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.placement = None
    cluster.step()
    for kind in (reasons.SCHEDULED, reasons.VOLUMES_READY, reasons.READY):
        assert cluster.condition(kind) == (Status.UNKNOWN, reasons.PLACEMENT_LOST)


def test_a_waiting_vm_keeps_what_it_was_told_while_a_new_controller_learns_whether_its_node_lives() -> None:
    first = decided(observed(vm=vm(), hosts=()), NOON, "e1")
    told = dataclasses.replace(vm(), status=first.status)
    decision = decided(observed(vm=told, hosts=(host(lease=None),)), NOON, "e1")
    assert decision.status is None
    assert decision.requeue_after is not None


def test_what_may_go_well_by_itself_needs_no_human() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(failed(reasons.HYPERVISOR_UNREACHABLE, retryable=True))
    cluster.step()
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.FALSE, reasons.AS_EXPECTED)
    assert cluster.condition(reasons.VOLUMES_READY) == (Status.FALSE, reasons.HYPERVISOR_UNREACHABLE)
