"""A VM's life: placed, created, started."""

import dataclasses
from datetime import timedelta

import pytest
from builders import NOON, UID, after, failed, host, observed, placement, succeeded, task, vm

from kubeferry.api import reasons
from kubeferry.api.meta import Status, condition
from kubeferry.api.placement import Placement, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import HostTask, HostTaskStatus, TaskPhase, TaskState, Verb
from kubeferry.api.virtualmachine import PrintableStatus
from kubeferry.core.observed import CreatePlacement, Host, ReplacePlacement, VmDecision
from kubeferry.core.vm import step


class Cluster:
    """Plays one VM's API objects: stores what a decision writes, as the executor does."""

    def __init__(self, node: Host | None = None) -> None:
        self.vm = vm()
        self.placement: Placement | None = None
        self.tasks: dict[str, HostTask] = {}
        self.host = node or host()

    def step(self, seconds: float = 0) -> VmDecision:
        """Steps, and writes what was decided, until nothing but a status is left."""
        for _ in range(20):
            seen = observed(vm=self.vm, placement=self.placement, tasks=tuple(self.tasks.values()), hosts=(self.host,))
            decision = step(seen, after(seconds), "e1")
            if decision.placement is not None:
                self.placement = placement(decision.placement.spec)
            for new in decision.tasks:
                assert new.name not in self.tasks
                self.tasks[new.name] = task(new)
            for name in decision.forget:
                del self.tasks[name]
            if decision.placement is None and not decision.tasks and not decision.forget:
                if decision.status is not None:
                    self.vm = dataclasses.replace(self.vm, status=decision.status)
                return decision
        raise AssertionError("it never comes to rest")

    def answer(self, status: HostTaskStatus) -> HostTask:
        """The host answers the one task there is."""
        (only,) = self.tasks.values()
        self.tasks[only.metadata.name] = dataclasses.replace(only, status=status)
        return only

    def condition(self, kind: str) -> tuple[Status, str]:
        assert self.vm.status is not None
        told = condition(self.vm.status.conditions, kind)
        assert told is not None
        return told.status, told.reason


def test_a_vm_is_protected_before_anything_else_is_written() -> None:
    decision = step(observed(vm=vm(protected=False), hosts=(host(),)), NOON, "e1")
    assert decision == VmDecision(protect=True)


def test_the_first_placement_names_node_epoch_copy_and_the_create_that_is_asked() -> None:
    decision = step(observed(vm=vm(), hosts=(host(),)), NOON, "e1")
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


def test_a_task_that_vanished_before_its_outcome_was_recorded_is_asked_again_by_the_same_name() -> None:
    cluster = Cluster()
    cluster.step()
    ((name, first),) = cluster.tasks.items()
    cluster.tasks.clear()
    cluster.step()
    assert cluster.tasks == {name: first}


def test_the_outcome_stands_in_the_ledger_before_the_task_is_forgotten() -> None:
    stored = placement()
    (create,) = step(observed(vm=vm(), placement=stored, hosts=(host(),)), NOON, "x").tasks
    decision = step(observed(vm=vm(), placement=stored, tasks=(task(create, succeeded(TaskState.CREATED)),), hosts=(host(),)), NOON, "x")
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
    decision = step(observed(vm=made, hosts=hosts), NOON, "e1")
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
    decision = step(observed(vm=made, hosts=(host(),)), NOON, "e1")
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.SCHEDULED)
    assert told is not None
    assert told.reason == reasons.INVALID_SPEC
    assert "root" in told.message
    assert "other" in told.message


def test_a_machine_type_that_the_node_lacks_is_refused_before_placement() -> None:
    made = vm(domain={**_domain(), "machine": {"type": "microvm"}})
    decision = step(observed(vm=made, hosts=(host(),)), NOON, "e1")
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
    decision = step(observed(vm=vm(), hosts=(host(), host("b", role=role))), NOON, "e9")
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
    decision = step(observed(vm=vm(), placement=placement(), hosts=(host(lease=None),)), NOON, "e1")
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


def test_a_vm_that_was_never_placed_is_let_go_when_deleted() -> None:
    assert step(observed(vm=vm(deleted=True), hosts=(host(),)), NOON, "e1") == VmDecision(release=True)


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
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.DELETION_UNSUPPORTED)
    assert decision.status is not None
    assert decision.status.printable_status == PrintableStatus.TERMINATING


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
    decision = step(observed(vm=vm(), placement=later, hosts=(host("b", role=Role.ACTIVE),)), NOON, "x")
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


def test_a_task_that_no_agent_begins_is_told_after_two_minutes() -> None:
    cluster = Cluster()
    assert cluster.step().requeue_after == timedelta(minutes=2)
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.FALSE, reasons.AS_EXPECTED)
    cluster.step(120)
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.TRUE, reasons.TASK_UNANSWERED)
    cluster.answer(HostTaskStatus(phase=TaskPhase.RUNNING))
    cluster.step(121)
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.FALSE, reasons.AS_EXPECTED)


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


def test_a_copy_that_is_gone_does_not_keep_a_vm_from_being_placed() -> None:
    decision = step(observed(vm=vm(), hosts=(host(), host("b", role=Role.GONE))), NOON, "e1")
    assert isinstance(decision.placement, CreatePlacement)


def test_a_waiting_vm_keeps_what_it_was_told_while_a_new_controller_learns_whether_its_node_lives() -> None:
    first = step(observed(vm=vm(), hosts=()), NOON, "e1")
    told = dataclasses.replace(vm(), status=first.status)
    decision = step(observed(vm=told, hosts=(host(lease=None),)), NOON, "e1")
    assert decision.status is None
    assert decision.requeue_after is not None


def test_the_absence_of_the_vm_object_changes_nothing() -> None:
    assert step(observed(placement=placement(), hosts=(host(role=Role.ACTIVE),)), NOON, "e1") == VmDecision()


def test_what_may_go_well_by_itself_needs_no_human() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(failed(reasons.HYPERVISOR_UNREACHABLE, retryable=True))
    cluster.step()
    assert cluster.condition(reasons.NEEDS_ATTENTION) == (Status.FALSE, reasons.AS_EXPECTED)
    assert cluster.condition(reasons.VOLUMES_READY) == (Status.FALSE, reasons.HYPERVISOR_UNREACHABLE)


def test_two_volumes_of_one_name_are_refused() -> None:
    made = vm()
    spec = dataclasses.replace(made.spec.template.spec, volumes=made.spec.template.spec.volumes * 2)
    made = dataclasses.replace(made, spec=dataclasses.replace(made.spec, template=dataclasses.replace(made.spec.template, spec=spec)))
    decision = step(observed(vm=made, hosts=(host(),)), NOON, "e1")
    assert decision.placement is None


def test_a_superseded_task_counts_as_not_done() -> None:
    cluster = Cluster()
    cluster.step()
    cluster.answer(HostTaskStatus(phase=TaskPhase.SUPERSEDED))
    assert cluster.step().requeue_after is not None
