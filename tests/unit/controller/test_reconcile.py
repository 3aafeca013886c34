"""One pass: what becomes of a decision's `requeue_after`, and of a stranger that it met."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from fake_cluster import FakeServer
from samples import first_spec, node_status, vm_body

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode
from kubeferry.api.meta import Condition, Meta, condition
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.controller.reconcile import AT_ONCE, Reconciler
from kubeferry.controller.store import Store
from kubeferry.core import ledger, vm
from kubeferry.core.observed import Observed, VmDecision
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.leases import LeaseWatch
from kubeferry.kube.server import Ref

SOON = timedelta(seconds=10)


@pytest.mark.parametrize(
    ("decision", "again"),
    [(VmDecision(), None), (VmDecision(requeue_after=SOON), SOON), (VmDecision(protect=True, requeue_after=SOON), AT_ONCE)],
    ids=["nothing to do", "look again later", "the ground changed"],
)
async def test_when_a_vm_is_looked_at_again(
    server: FakeServer, cluster: Cluster, store: Store, decision: VmDecision, again: timedelta | None
) -> None:
    vm = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), "web-0", "shop"), vm_body()))
    store.remember(vm)
    ids: list[str] = []

    def step(observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
        assert observed.vm == vm
        assert now.tzinfo is UTC
        ids.append(fresh_id)
        return decision

    reconciler = Reconciler(Gatherer(cluster, store, LeaseWatch(), lambda: 0.0), step, Executor(cluster, store))
    assert await reconciler.reconcile(vm.metadata.uid) == again
    assert ids
    assert ids != [""]


@pytest.fixture
async def placement(server: FakeServer, cluster: Cluster, store: Store) -> Placement:
    """Of a VM on a living node: its Create was written down, and is to be asked."""
    body = vm_body()
    made = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), "web-0", "shop"), body))
    made = await cluster.patch_finalizers(VirtualMachine, made.metadata, [FINALIZER])
    store.remember(made)
    await cluster.create(ComputeNode, Meta(name="n1"))
    store.put(ComputeNode, server.objects[Ref(endpoint(ComputeNode), "n1")] | {"status": node_status()})
    return await cluster.create(Placement, Meta(name=made.metadata.uid, finalizers=(FINALIZER,)), spec=first_spec(made))


@pytest.fixture
def reconciler(cluster: Cluster, store: Store) -> Reconciler:
    leases = LeaseWatch()
    for beat in range(2):
        leases.saw({"n1": str(beat)}, beat)
    return Reconciler(Gatherer(cluster, store, leases, lambda: 1.0), vm.step, Executor(cluster, store))


def attention(server: FakeServer) -> Condition:
    made = load(VirtualMachine, server.objects[Ref(endpoint(VirtualMachine), "web-0", "shop")])
    told = condition(made.status.conditions, reasons.NEEDS_ATTENTION) if made.status is not None else None
    assert told is not None
    return told


@pytest.mark.parametrize("readable", [True, False], ids=["of another placement", "that cannot be read"])
async def test_a_stranger_that_bears_a_tasks_name_is_told_until_it_is_gone(
    server: FakeServer, cluster: Cluster, reconciler: Reconciler, placement: Placement, readable: bool
) -> None:
    (task,) = ledger.missing(placement, ())
    uid, ref = placement.metadata.name, Ref(endpoint(HostTask), task.name)
    other = dataclasses.replace(task.spec, placement=dataclasses.replace(task.spec.placement, name="uid-of-another"))
    stranger = await cluster.create(HostTask, Meta(name=task.name), spec=other)
    if not readable:
        server.objects[ref]["spec"]["verb"] = "Sing"

    for _ in range(2):
        assert await reconciler.reconcile(uid) == timedelta(minutes=1)
        assert (attention(server).status, attention(server).reason) == ("True", reasons.TASK_MISMATCH)
    assert ("uid-of-another" if readable else "can't be read") in attention(server).message
    assert server.requests.count("patch status of VirtualMachine shop/web-0") == 1, "what stands there already is not written again"

    await cluster.delete(HostTask, stranger.metadata)
    await reconciler.reconcile(uid)
    assert load(HostTask, server.objects[ref]).spec == task.spec
    assert (attention(server).status, attention(server).reason) == ("False", reasons.AS_EXPECTED)
