"""A VM that is halted and started: in its life, in a migration, and while one awaits its decision."""

import dataclasses

import pytest
from builders import failed, host, succeeded, vm
from move_life import Life, running
from vm_life import Cluster

from kubeferry.api import reasons
from kubeferry.api.meta import Status
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import TaskState, Verb
from kubeferry.api.virtualmachine import PrintableStatus, RunStrategy

HALTED, ALWAYS = RunStrategy.HALTED, RunStrategy.ALWAYS


def test_a_vm_that_is_halted_from_the_start_is_made_and_not_started() -> None:
    cluster = Cluster()
    cluster.want(HALTED)
    cluster.step()
    assert printable(cluster) == PrintableStatus.PROVISIONING
    cluster.answer(succeeded(TaskState.CREATED))
    cluster.host = host(role=Role.ACTIVE, state=RunState.STOPPED)
    cluster.step()
    assert cluster.placement is not None
    assert (cluster.placement.spec.running, cluster.tasks) == (False, {})
    assert cluster.condition(reasons.READY) == (Status.FALSE, reasons.HALTED)
    assert cluster.condition(reasons.VOLUMES_READY) == (Status.TRUE, reasons.CREATED)
    assert printable(cluster) == PrintableStatus.STOPPED


def printable(cluster: Cluster) -> PrintableStatus:
    assert cluster.vm.status is not None
    return cluster.vm.status.printable_status


def started() -> Cluster:
    cluster = Cluster()
    cluster.step()
    cluster.answer(succeeded(TaskState.CREATED))
    cluster.step()
    cluster.answer(succeeded(TaskState.RUNNING))
    cluster.host = host(role=Role.ACTIVE)
    cluster.step()
    assert printable(cluster) == PrintableStatus.RUNNING
    return cluster


def test_a_vm_that_is_halted_is_asked_to_stop_with_its_grace_and_once() -> None:
    cluster = started()
    cluster.want(HALTED)
    cluster.step()
    ((task),) = cluster.tasks.values()
    assert (task.spec.verb, task.spec.node, task.spec.epoch) == (Verb.STOP, "a", 1)
    assert task.spec.stop is not None
    assert task.spec.stop.shutdown_timeout_seconds == vm().spec.template.spec.termination_grace_period_seconds
    assert printable(cluster) == PrintableStatus.STOPPING
    cluster.answer(succeeded(TaskState.STOPPED))
    cluster.host = host(role=Role.ACTIVE, state=RunState.STOPPED)
    cluster.step()
    assert (cluster.tasks, printable(cluster)) == ({}, PrintableStatus.STOPPED)


def test_the_right_to_start_it_is_taken_in_the_write_that_asks_for_the_stop() -> None:
    """A host that is asked to stop would start it again at once: the gate must be shut before."""
    cluster = started()
    cluster.want(HALTED)
    before = cluster.placement
    assert before is not None
    cluster.step()
    assert cluster.placement is not None
    assert (cluster.placement.spec.running, cluster.placement.spec.steps[-1].verb) == (False, Verb.STOP)
    assert before.spec.running


def test_a_vm_that_is_to_run_again_is_started() -> None:
    cluster = started()
    for strategy, verb, state in ((HALTED, Verb.STOP, TaskState.STOPPED), (ALWAYS, Verb.START, TaskState.RUNNING)):
        cluster.want(strategy)
        cluster.step()
        assert [t.spec.verb for t in cluster.tasks.values()] == [verb]
        cluster.answer(succeeded(state))
        cluster.step()
    assert cluster.placement is not None
    assert (cluster.placement.spec.running, cluster.tasks) == (True, {})


def test_a_stop_that_fails_is_asked_again() -> None:
    cluster = started()
    cluster.want(HALTED)
    cluster.step()
    cluster.answer(failed(reasons.HYPERVISOR_ERROR))
    assert cluster.step().requeue_after is not None
    assert cluster.tasks == {}
    cluster.step(seconds=60)
    assert [t.spec.verb for t in cluster.tasks.values()] == [Verb.STOP]


def test_a_mind_that_is_changed_before_the_stop_has_ended_is_followed() -> None:
    cluster = started()
    cluster.want(HALTED)
    cluster.step()
    cluster.want(ALWAYS)
    cluster.step()
    assert [(t.spec.seq, t.spec.verb) for t in cluster.tasks.values()] == [(3, Verb.STOP), (4, Verb.START)]
    assert cluster.placement is not None
    assert cluster.placement.spec.running


def test_a_start_that_came_too_late_is_no_matter_for_a_human() -> None:
    cluster = started()
    for strategy in (HALTED, ALWAYS, HALTED):
        cluster.want(strategy)
        cluster.step()
    refusal = failed(reasons.HALTED)
    start = next(t for t in cluster.tasks.values() if t.spec.verb == Verb.START)
    error = dataclasses.replace(refusal.error, retryable=True) if refusal.error else None
    cluster.tasks[start.metadata.name] = dataclasses.replace(start, status=dataclasses.replace(refusal, error=error))
    cluster.step()
    assert cluster.condition(reasons.NEEDS_ATTENTION)[0] == Status.FALSE


def halted() -> Life:
    """A VM that is halted on host a, and its Migration."""
    life = Life(spec=dataclasses.replace(running(), running=False))
    life.vm = dataclasses.replace(life.vm, spec=dataclasses.replace(life.vm.spec, run_strategy=HALTED))
    life.holds("a", state=RunState.STOPPED)
    return life


def runs(spec: PlacementSpec) -> tuple[str, bool]:
    return spec.node_name, spec.running


def test_a_halted_vm_moves_and_stays_halted() -> None:
    life = halted().go_on_to()
    assert (life.status().phase, runs(life.spec)) == (MigrationPhase.AWAITING_DECISION, ("b", False))
    assert life.status().downtime is None, "nobody was kept from it"
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    assert (life.told(reasons.SUCCEEDED)[0], runs(life.spec), life.open()) == ("True", ("b", False), [])
    assert life.of_vm(reasons.READY) == ("False", reasons.HALTED)


def test_a_confirm_waits_until_a_vm_that_is_to_run_by_now_was_seen_running() -> None:
    life = halted().go_on_to()
    life.want(ALWAYS)
    life.wish("Confirm")
    assert life.told(reasons.CONFIRM_BLOCKED) == ("True", reasons.TARGET_NOT_ACTIVE)
    assert life.spec.lock is not None
    life.answer(Verb.START)
    assert (life.spec.lock, life.open()) == (None, [(Verb.DISCARD, "a")])


def test_of_a_halted_vm_that_its_host_does_not_tell_of_nothing_is_known() -> None:
    life = halted()
    life.migrations.clear()
    life.hosts["a"] = host("a")
    life.step()
    assert life.of_vm(reasons.READY) == ("Unknown", reasons.COPY_UNTOLD)


def test_a_halted_vm_goes_back_and_stays_halted() -> None:
    life = halted().go_on_to()
    life.wish("Revert")
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    life.answer(Verb.DISCARD)
    assert (life.told(reasons.REVERTED)[0], runs(life.spec), life.open()) == ("True", ("a", False), [])
    assert life.status().downtime is None


def test_a_vm_that_still_runs_although_it_is_to_be_halted_is_waited_for() -> None:
    life = halted()
    life.holds("a", state=RunState.RUNNING)
    life.step()
    assert life.told(reasons.SCHEDULED) == ("False", reasons.VM_NOT_READY)
    assert life.spec.lock is None


@pytest.mark.parametrize("verb", [Verb.PREPARE, Verb.SEAL, Verb.COPY, Verb.ACTIVATE])
def test_a_change_of_mind_in_a_migration_waits_for_the_target(verb: Verb) -> None:
    life = Life().go_on_to(verb)
    life.want(HALTED)
    assert (life.spec.running, life.open()[0][0], len(life.open())) == (True, verb, 1)
    left = (Verb.PREPARE, Verb.PREFLIGHT, Verb.SEAL, Verb.COPY, Verb.ACTIVATE)
    for each in left[left.index(verb) :]:
        life.answer(each)
    assert (runs(life.spec), life.open()) == (("b", False), [(Verb.STOP, "b")])
    life.answer(Verb.STOP)
    life.wish("Confirm")
    assert life.open() == [(Verb.DISCARD, "a")]


def test_a_vm_that_was_halted_at_the_target_is_halted_at_the_source_after_a_revert() -> None:
    life = Life().go_on_to()
    life.want(HALTED)
    life.answer(Verb.STOP)
    life.wish("Revert")
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    life.answer(Verb.DISCARD)
    assert (runs(life.spec), life.open()) == (("a", False), [])
    life.want(ALWAYS)
    assert life.open() == [(Verb.START, "a")]
