"""One pass: what becomes of a decision's `requeue_after`."""

from datetime import UTC, datetime, timedelta

import pytest
from fake_cluster import FakeServer
from samples import vm_body

from kubeferry.api.model import load
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.controller.reconcile import AT_ONCE, Reconciler
from kubeferry.controller.store import Store
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
