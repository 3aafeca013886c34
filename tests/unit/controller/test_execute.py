"""Writes: in their order, each conditional, each remembered."""

import copy
import dataclasses
from datetime import timedelta
from unittest import mock

import pytest
from fake_cluster import FakeServer
from samples import first_spec, vm_body
from structlog.typing import EventDict

from kubeferry.api.meta import Meta
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Placement, Resources
from kubeferry.api.task import CopyParameters, HostTask, HostTaskSpec, HostTaskStatus, TaskPhase, Verb
from kubeferry.api.virtualmachine import PrintableStatus, VirtualMachine, VirtualMachineStatus
from kubeferry.controller.execute import Executor
from kubeferry.controller.herald import Herald
from kubeferry.controller.store import Store
from kubeferry.core import ledger
from kubeferry.core.observed import CreatePlacement, NewTask, Observed, ReplacePlacement, Stranger, VmDecision
from kubeferry.kube.client import Cluster, endpoint, owner_reference
from kubeferry.kube.errors import Conflict, Unavailable
from kubeferry.kube.server import Ref

VM = Ref(endpoint(VirtualMachine), "web-0", "shop")
STATUS = VirtualMachineStatus(printable_status=PrintableStatus.PROVISIONING, node_name="n1")


@pytest.fixture
def woken() -> set[str]:
    """The keys that the executor put into the work queue."""
    return set()


@pytest.fixture
def executor(cluster: Cluster, store: Store, herald: Herald, woken: set[str]) -> Executor:
    return Executor(cluster, store, herald, woken.update)


@pytest.fixture
async def vm(server: FakeServer, cluster: Cluster, store: Store) -> VirtualMachine:
    """Protected, as everything after the first write finds it; the requests that made it so are forgotten."""
    made = load(VirtualMachine, await server.create(VM, vm_body()))
    protected = await cluster.patch_finalizers(VirtualMachine, made.metadata, [FINALIZER])
    store.remember(protected)
    server.requests.clear()
    return protected


@pytest.fixture
async def placement(vm: VirtualMachine, server: FakeServer, cluster: Cluster) -> Placement:
    made = await cluster.create(Placement, Meta(name=vm.metadata.uid, finalizers=(FINALIZER,)), spec=first_spec(vm))
    server.requests.clear()
    return made


@pytest.fixture
def task(placement: Placement) -> NewTask:
    (missing,) = ledger.missing(placement, ())
    return missing


def observed(vm: VirtualMachine | None = None, placement: Placement | None = None, tasks: tuple[HostTask, ...] = ()) -> Observed:
    return Observed(vm=vm, placement=placement, tasks=tasks, hosts=())


async def test_protecting_puts_our_finalizer_behind_those_of_others_and_decides_anew(
    executor: Executor, server: FakeServer, cluster: Cluster, store: Store
) -> None:
    made = load(VirtualMachine, await server.create(VM, vm_body()))
    others = await cluster.patch_finalizers(VirtualMachine, made.metadata, ["other/one"])
    assert await executor.execute(observed(others), VmDecision(protect=True, status=STATUS))
    held = store.vm(others.metadata.uid)
    assert held is not None
    assert held.metadata.finalizers == ("other/one", FINALIZER)
    assert held.status is None, "nothing else is written before"


async def test_a_protect_that_met_another_write_reads_the_vm_and_decides_anew(executor: Executor, server: FakeServer, store: Store) -> None:
    seen = load(VirtualMachine, await server.create(VM, vm_body()))
    store.remember(seen)
    labelled = server.objects[VM] | {"metadata": server.objects[VM]["metadata"] | {"labels": {"by": "a person"}}}
    await server.replace(VM, labelled)
    assert await executor.execute(observed(seen), VmDecision(protect=True))
    held = store.vm(seen.metadata.uid)
    assert held is not None
    assert (held.metadata.labels, held.metadata.finalizers) == ({"by": "a person"}, ())


async def test_a_placement_is_created_with_our_finalizer_and_comes_alone(
    executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store
) -> None:
    uid = vm.metadata.uid
    assert await executor.execute(observed(vm), VmDecision(placement=CreatePlacement(first_spec(vm)), status=STATUS))
    assert server.requests == [f"create Placement {uid}"]
    metadata = server.objects[Ref(endpoint(Placement), uid)]["metadata"]
    assert metadata["finalizers"] == [FINALIZER]
    assert store.concerned("n1") == {uid}


async def test_a_placement_that_another_created_wins_and_it_is_decided_anew(
    executor: Executor, server: FakeServer, vm: VirtualMachine, placement: Placement
) -> None:
    other = dataclasses.replace(placement.spec, lineage=("epoch-other",))
    assert await executor.execute(observed(vm), VmDecision(placement=CreatePlacement(other)))
    stored = server.objects[Ref(endpoint(Placement), placement.metadata.name)]
    assert stored["spec"]["lineage"] == ["epoch-1"]


async def test_a_placement_is_replaced_at_the_version_that_was_read(
    executor: Executor, server: FakeServer, vm: VirtualMachine, placement: Placement
) -> None:
    wanted = dataclasses.replace(placement.spec, seq=7)
    assert await executor.execute(
        observed(vm, placement), VmDecision(placement=ReplacePlacement(wanted, placement.metadata.resource_version))
    )
    stored = server.objects[Ref(endpoint(Placement), placement.metadata.name)]
    assert (stored["spec"]["seq"], stored["metadata"]["finalizers"]) == (7, [FINALIZER])


async def test_a_placement_written_meanwhile_is_not_overwritten_and_it_is_decided_anew(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, placement: Placement
) -> None:
    await cluster.replace(Placement, placement.metadata, dataclasses.replace(placement.spec, seq=3))
    assert await executor.execute(
        observed(vm, placement),
        VmDecision(placement=ReplacePlacement(dataclasses.replace(placement.spec, seq=7), placement.metadata.resource_version)),
    )
    assert server.objects[Ref(endpoint(Placement), placement.metadata.name)]["spec"]["seq"] == 3


async def test_tasks_come_before_what_is_forgotten_and_that_before_the_status(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask
) -> None:
    old = await cluster.create(HostTask, Meta(name="t-old"), spec=task.spec)
    server.requests.clear()
    decision = VmDecision(tasks=(task,), forget=("t-old",), status=STATUS, release=True)
    assert not await executor.execute(observed(vm, placement, (old,)), dataclasses.replace(decision, release=False))
    assert server.requests == [f"create HostTask {task.name}", "delete HostTask t-old", "patch status of VirtualMachine shop/web-0"]


async def test_a_task_is_owned_by_the_placement_and_remembered(
    executor: Executor, server: FakeServer, vm: VirtualMachine, placement: Placement, task: NewTask, store: Store
) -> None:
    await executor.execute(observed(vm, placement), VmDecision(tasks=(task,)))
    (owner,) = server.objects[Ref(endpoint(HostTask), task.name)]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (
        "Placement",
        placement.metadata.uid,
        True,
        False,
    )
    assert [t.spec for t in store.tasks(vm.metadata.uid)] == [task.spec]


async def test_the_same_task_that_is_there_already_counts_as_created(
    executor: Executor, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask, store: Store
) -> None:
    await cluster.create(HostTask, Meta(name=task.name), spec=task.spec)
    assert not await executor.execute(observed(vm, placement), VmDecision(tasks=(task,)))
    assert [t.metadata.name for t in store.tasks(vm.metadata.uid)] == [task.name]


async def test_another_task_of_that_name_is_given_back_before_anything_is_told_and_logged_with_what_was_expected(
    executor: Executor,
    server: FakeServer,
    cluster: Cluster,
    vm: VirtualMachine,
    placement: Placement,
    task: NewTask,
    logs: list[EventDict],
) -> None:
    other = dataclasses.replace(task.spec, node="n9")
    await cluster.create(HostTask, Meta(name=task.name), spec=other)
    assert await executor.execute(observed(vm, placement), VmDecision(tasks=(task,), status=STATUS)) == Stranger(task, other)
    assert "status" not in server.objects[VM]
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["task"], line["found"], line["expected"]) == (task.name, other, task.spec)


async def test_a_task_of_that_name_that_cannot_be_read_is_given_back_and_logged_with_what_the_model_refuses(
    executor: Executor,
    server: FakeServer,
    cluster: Cluster,
    vm: VirtualMachine,
    placement: Placement,
    task: NewTask,
    logs: list[EventDict],
) -> None:
    await cluster.create(HostTask, Meta(name=task.name), spec=task.spec)
    server.objects[Ref(endpoint(HostTask), task.name)]["spec"]["verb"] = "Sing"
    assert await executor.execute(observed(vm, placement), VmDecision(tasks=(task,), status=STATUS)) == Stranger(task, None)
    assert "status" not in server.objects[VM]
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert "Sing" in line["error"]


async def test_a_task_that_went_while_it_was_looked_at_is_asked_anew(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask
) -> None:
    await cluster.create(HostTask, Meta(name=task.name), spec=task.spec)
    server.before[f"get HostTask {task.name}"] = [lambda: server.objects.pop(Ref(endpoint(HostTask), task.name))]
    assert await executor.execute(observed(vm, placement), VmDecision(tasks=(task,)))


async def test_a_task_to_forget_that_is_gone_is_forgotten(
    executor: Executor, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask, store: Store
) -> None:
    old = await cluster.create(HostTask, Meta(name=task.name), spec=task.spec)
    store.remember(old)
    await cluster.delete(HostTask, old.metadata)
    assert not await executor.execute(observed(vm, placement, (old,)), VmDecision(forget=(task.name,)))
    assert store.tasks(vm.metadata.uid) == ()


COPY = CopyParameters(target="n2", target_host_id="host-n2")


def copying(task: NewTask, limit: int | None) -> HostTaskSpec:
    block = dataclasses.replace(COPY, bandwidth_limit=limit)
    return dataclasses.replace(task.spec, verb=Verb.COPY, create=None, copy=block)


async def test_a_task_gets_another_limit_and_keeps_its_owner(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask, store: Store
) -> None:
    owners = [owner_reference(Placement, placement.metadata)]
    made = await cluster.create(HostTask, Meta(name=task.name), spec=copying(task, 5), owners=owners)
    faster = dataclasses.replace(made, spec=copying(task, None))
    assert not await executor.execute(observed(vm, placement, (made,)), VmDecision(adjusted=(faster,)))
    stored = server.objects[Ref(endpoint(HostTask), task.name)]
    assert (load(HostTask, stored).spec, stored["metadata"]["ownerReferences"]) == (copying(task, None), owners)
    (held,) = store.tasks(vm.metadata.uid)
    assert held.spec == copying(task, None)


@pytest.mark.parametrize("gone", [True, False])
async def test_a_task_that_was_written_meanwhile_keeps_its_limit_until_it_is_read_again(
    gone: bool, executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask
) -> None:
    made = await cluster.create(HostTask, Meta(name=task.name), spec=copying(task, 5))
    if gone:
        await cluster.delete(HostTask, made.metadata)
    else:
        await cluster.patch_status(HostTask, made.metadata, HostTaskStatus(phase=TaskPhase.RUNNING))
    faster = dataclasses.replace(made, spec=copying(task, None))
    assert not await executor.execute(observed(vm, placement, (made,)), VmDecision(adjusted=(faster,)))
    if not gone:
        assert (await cluster.get(HostTask, task.name)).spec == copying(task, 5)


async def test_a_task_that_asks_the_same_at_another_speed_is_no_stranger(
    executor: Executor, cluster: Cluster, vm: VirtualMachine, placement: Placement, task: NewTask
) -> None:
    await cluster.create(HostTask, Meta(name=task.name), spec=copying(task, 5))
    wanted = NewTask(task.name, copying(task, 7))
    assert await executor.execute(observed(vm, placement), VmDecision(tasks=(wanted,))) is False


async def test_a_status_is_written_only_if_it_differs(executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store) -> None:
    assert not await executor.execute(observed(vm), VmDecision(status=STATUS))
    told = store.vm(vm.metadata.uid)
    assert told is not None
    assert told.status == STATUS
    server.requests.clear()
    assert not await executor.execute(observed(told), VmDecision(status=STATUS))
    assert server.requests == []


async def test_a_status_decided_of_an_older_spec_is_not_written(
    executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store
) -> None:
    newer = server.objects[VM] | {"spec": vm_body(node="n2")["spec"]}
    await server.replace(VM, newer)
    assert await executor.execute(observed(vm), VmDecision(status=STATUS))
    assert "status" not in server.objects[VM]
    held = store.vm(vm.metadata.uid)
    assert held is not None
    assert held.metadata.generation == 2


async def test_an_event_follows_a_status_that_was_written_and_none_that_was_not(
    server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine
) -> None:
    herald = mock.create_autospec(Herald, instance=True)
    executor = Executor(cluster, store, herald, lambda _: None)
    server.before[f"patch status of {VM}"] = [Unavailable("no answer"), Conflict("HTTP 409: it was written")]
    with pytest.raises(Unavailable):
        await executor.execute(observed(vm), VmDecision(status=STATUS))
    assert await executor.execute(observed(vm), VmDecision(status=STATUS))
    assert herald.told.mock_calls == []
    herald.told.side_effect = lambda *_: server.requests.append("told")
    await executor.execute(observed(vm), VmDecision(status=STATUS))
    herald.told.assert_called_once_with(vm, STATUS)
    assert server.requests[-2:] == [f"patch status of {VM}", "told"]


async def test_the_status_of_a_vm_is_not_told_of_another_of_its_name(
    executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store
) -> None:
    del server.objects[VM]
    await server.create(VM, vm_body())
    assert await executor.execute(observed(vm), VmDecision(status=STATUS))
    assert "status" not in server.objects[VM]
    assert store.vm(vm.metadata.uid) is None


async def test_a_vm_that_is_gone_is_held_no_longer(executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store) -> None:
    del server.objects[VM]
    assert await executor.execute(observed(vm), VmDecision(status=STATUS))
    assert store.vm(vm.metadata.uid) is None


async def test_a_confirmed_resize_is_merged_into_the_spec_and_nothing_else_is_told_then(
    executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store
) -> None:
    before = copy.deepcopy(server.objects[VM])
    assert await executor.execute(observed(vm), VmDecision(resize=Resources(cpu=4, memory=1 << 30), status=STATUS))
    expected = copy.deepcopy(before["spec"])
    expected["template"]["spec"]["domain"] |= {"cpu": {"cores": 4}, "memory": {"guest": "1Gi"}}
    assert (server.objects[VM]["spec"], "status" in server.objects[VM]) == (expected, False)
    held = store.vm(vm.metadata.uid)
    assert held is not None
    assert held.spec.template.spec.domain.cpu.cores == 4


async def test_a_spec_that_was_written_meanwhile_is_not_resized(
    executor: Executor, server: FakeServer, vm: VirtualMachine, store: Store
) -> None:
    server.objects[VM]["spec"]["template"]["spec"]["domain"]["cpu"] = {"cores": 3}
    server.objects[VM]["metadata"]["resourceVersion"] = "999"
    assert await executor.execute(observed(vm), VmDecision(resize=Resources(cpu=4, memory=1 << 30)))
    assert server.objects[VM]["spec"]["template"]["spec"]["domain"]["cpu"] == {"cores": 3}
    held = store.vm(vm.metadata.uid)
    assert held is not None
    assert held.spec.template.spec.domain.cpu.cores == 3, "and the next decision sees that"


async def test_that_a_vm_was_deleted_is_told_once_it_was_let_go(
    server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine
) -> None:
    herald = mock.create_autospec(Herald, instance=True)
    executor = Executor(cluster, store, herald, lambda _: None)
    server.before[f"patch {VM}"] = [Conflict("HTTP 409: it was written")]
    assert await executor.execute(observed(vm), VmDecision(release=True))
    assert herald.deleted.mock_calls == []
    await executor.execute(observed(vm), VmDecision(release=True))
    herald.deleted.assert_called_once_with(vm)


async def test_releasing_the_last_finalizer_of_a_deleted_vm_lets_it_go(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, store: Store
) -> None:
    await cluster.delete(VirtualMachine, vm.metadata)
    deleted = await cluster.get(VirtualMachine, "web-0", "shop")
    store.remember(deleted)
    assert not await executor.execute(observed(deleted), VmDecision(release=True))
    assert VM not in server.objects
    assert store.vm(vm.metadata.uid) is None


async def test_releasing_keeps_the_finalizers_of_others(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine
) -> None:
    both = await cluster.patch_finalizers(VirtualMachine, vm.metadata, [FINALIZER, "other/one"])
    await executor.execute(observed(both), VmDecision(release=True))
    assert server.objects[VM]["metadata"]["finalizers"] == ["other/one"]


async def test_nothing_follows_a_write_that_failed(
    executor: Executor, server: FakeServer, vm: VirtualMachine, placement: Placement, task: NewTask
) -> None:
    server.before[f"create HostTask {task.name}"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await executor.execute(observed(vm, placement), VmDecision(tasks=(task,), status=STATUS, requeue_after=timedelta(1)))
    assert "status" not in server.objects[VM]


async def test_writes_are_logged_with_what_they_say(
    executor: Executor, vm: VirtualMachine, placement: Placement, task: NewTask, logs: list[EventDict]
) -> None:
    await executor.execute(observed(vm, placement), VmDecision(tasks=(task,)))
    (line,) = [line for line in logs if line["event"] == "task created"]
    assert (line["task"], line["node"], line["verb"], line["seq"]) == (task.name, "n1", "Create", 1)


async def test_the_vm_that_was_let_go_is_looked_at_once_more_for_what_is_left_of_it(
    executor: Executor, server: FakeServer, cluster: Cluster, vm: VirtualMachine, woken: set[str]
) -> None:
    """Its Placement is removed after it, and no event of its end is news."""
    await cluster.delete(VirtualMachine, vm.metadata)
    leaving = load(VirtualMachine, server.objects[VM])
    assert not await executor.execute(observed(leaving), VmDecision(release=True))
    assert VM not in server.objects
    assert woken == {vm.metadata.uid}


async def test_a_vm_that_was_found_made_anew_under_its_name_is_looked_at(
    executor: Executor, server: FakeServer, store: Store, vm: VirtualMachine, woken: set[str]
) -> None:
    """The event of its making is no news any more."""
    del server.objects[VM]
    anew = await server.create(VM, vm_body())
    assert await executor.execute(observed(vm), VmDecision(status=STATUS))
    assert store.put(VirtualMachine, anew) == frozenset()
    assert anew["metadata"]["uid"] in woken
