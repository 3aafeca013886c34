"""One pass: what becomes of a decision's `requeue_after`, and of a stranger that it met."""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from fake_cluster import FakeServer
from pass_values import PLACE
from prometheus_client import CollectorRegistry
from samples import first_spec, node_status, vm_body
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode
from kubeferry.api.meta import Condition, Meta, condition
from kubeferry.api.migration import Migration
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Lock, LockKind, Placement
from kubeferry.api.scheduling import Scheduling
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.controller.herald import Herald
from kubeferry.controller.metrics import Metrics
from kubeferry.controller.reconcile import AT_ONCE, Reconciler, Step
from kubeferry.controller.store import Store
from kubeferry.core import ledger, vm
from kubeferry.core.observed import Choice, Observed, Place, VmDecision
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.errors import Conflict
from kubeferry.kube.leases import LeaseWatch
from kubeferry.kube.server import Ref

REPORT = Scheduling(evaluated=0, feasible=0)


class Chooser:
    """A scheduling pass that answers with the same node, and tells how many passes run at a time."""

    def __init__(self, node: str | None) -> None:
        self.node = node
        self.asked: list[Place] = []

    def place(self, place: Place) -> Choice:
        self.asked.append(place)
        return Choice(place.migration_uid, self.node, "why", REPORT)


def made_of(cluster: Cluster, store: Store, leases: LeaseWatch, step: Step, chooser: Chooser | None = None) -> Reconciler:
    return Reconciler(
        Gatherer(cluster, store, leases, lambda: 1.0),
        step,
        Executor(cluster, store, Herald(cluster.server, Metrics(CollectorRegistry())), lambda _: None),
        chooser or Chooser(None),
    )


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

    reconciler = made_of(cluster, store, LeaseWatch(), step)
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
    return made_of(cluster, store, leases, vm.step)


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


async def test_a_node_that_is_asked_for_is_chosen_by_the_pass_and_decided_with(server: FakeServer, cluster: Cluster, store: Store) -> None:
    vm = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), "web-0", "shop"), vm_body()))
    store.remember(vm)
    chosen: list[Choice | None] = []

    def step(observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
        chosen.append(observed.choice)
        return VmDecision(place=PLACE) if observed.choice is None else VmDecision(requeue_after=SOON)

    chooser = Chooser("n2")
    assert await made_of(cluster, store, LeaseWatch(), step, chooser).reconcile(vm.metadata.uid) == SOON
    assert chosen == [None, Choice(PLACE.migration_uid, "n2", "why", REPORT)]
    assert chooser.asked == [PLACE]


async def test_a_pass_waits_until_the_one_before_has_written(server: FakeServer, cluster: Cluster, store: Store) -> None:
    uids = []
    for name in ("web-0", "web-1"):
        made = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), name, "shop"), vm_body(name)))
        store.remember(made)
        uids.append(made.metadata.uid)
    order: list[str] = []

    class Noting(Chooser):
        def place(self, place: Place) -> Choice:
            order.append("pass")
            return super().place(place)

    def step(observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
        return VmDecision(place=PLACE) if observed.choice is None else VmDecision(protect=True)

    reconciler = made_of(cluster, store, LeaseWatch(), step, Noting("n2"))
    executor = reconciler._executor
    real = executor.execute

    async def execute(observed: Observed, decision: VmDecision) -> object:
        await asyncio.sleep(0)  # lets the other go as far as it can
        done = await real(observed, decision)
        order.append("written")
        return done

    executor.execute = execute  # type: ignore[method-assign, assignment]
    await asyncio.gather(*(reconciler.reconcile(uid) for uid in uids))
    assert order == ["pass", "written", "pass", "written"]


async def migration(server: FakeServer, cluster: Cluster, store: Store, name: str = "move") -> Migration:
    body = {"apiVersion": "kubeferry.io/v1alpha1", "kind": "Migration", "metadata": {"name": name, "namespace": "shop"}}
    ref = Ref(endpoint(Migration), name, "shop")
    made = load(Migration, await server.create(ref, body | {"spec": {"virtualMachine": {"name": "web-0"}}}))
    store.remember(made)
    return made


async def test_a_migration_whose_vm_is_missing_is_told_so(server: FakeServer, cluster: Cluster, store: Store) -> None:
    await migration(server, cluster, store)
    reconciler = made_of(cluster, store, LeaseWatch(), vm.step)
    # It was created long ago.
    assert [await reconciler.reconcile("shop/web-0") for _ in range(3)] == [AT_ONCE, None, None]
    assert server.requests.count("patch status of Migration shop/move") == 1
    told = load(Migration, server.objects[Ref(endpoint(Migration), "move", "shop")]).status
    assert told is not None
    scheduled = condition(told.conditions, reasons.SCHEDULED)
    assert scheduled is not None
    assert scheduled.reason == reasons.VM_MISSING


async def test_the_lines_of_a_scheduling_pass_and_of_a_vm_that_is_missing_name_the_migration(
    server: FakeServer, cluster: Cluster, store: Store
) -> None:
    bound: list[dict[str, object]] = []

    class Noting(Chooser):
        def place(self, place: Place) -> Choice:
            bound.append(get_contextvars())
            return super().place(place)

    def step(observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
        return VmDecision(place=dataclasses.replace(PLACE, migration_uid=move.metadata.uid)) if observed.choice is None else VmDecision()

    await migration(server, cluster, store, "before")
    move = await migration(server, cluster, store)
    names = {"vm": "shop/web-0", "migration": "shop/move"}
    server.before["patch status of Migration shop/move"] = [Conflict("HTTP 409: it was written")]
    with capture_logs([merge_contextvars]) as logs:
        for _ in range(3):
            await made_of(cluster, store, LeaseWatch(), step).reconcile("shop/web-0")
    of_move = [line["event"] for line in logs if line.items() >= names.items()]
    assert of_move == ["object was written by another: deciding anew", "event"]
    made = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), "web-0", "shop"), vm_body()))
    store.remember(made)
    await made_of(cluster, store, LeaseWatch(), step, Noting(None)).reconcile(made.metadata.uid)
    assert bound == [{"vm_uid": made.metadata.uid, **names}]
    assert get_contextvars() == {}


async def test_a_vm_that_watching_has_not_told_of_yet_is_not_missing(server: FakeServer, cluster: Cluster, store: Store) -> None:
    await migration(server, cluster, store)
    await server.create(Ref(endpoint(VirtualMachine), "web-0", "shop"), vm_body())
    assert await made_of(cluster, store, LeaseWatch(), vm.step).reconcile("shop/web-0") is None
    assert load(Migration, server.objects[Ref(endpoint(Migration), "move", "shop")]).status is None


async def test_what_is_decided_goes_by_the_time_that_was_read_for(
    server: FakeServer, cluster: Cluster, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out that falls due in between asks for a Confirm, whose target was not read for it."""
    times: list[datetime] = []
    gather = Gatherer.gather

    async def noting(self: Gatherer, uid: str, now: datetime) -> Observed:
        times.append(now)
        return await gather(self, uid, now)

    def step(observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
        times.append(now)
        return VmDecision()

    monkeypatch.setattr(Gatherer, "gather", noting)
    made = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), "web-0", "shop"), vm_body()))
    store.remember(made)
    await made_of(cluster, store, LeaseWatch(), step).reconcile(made.metadata.uid)
    read_for, decided_by = times
    assert read_for == decided_by


async def test_that_the_vm_of_a_placement_is_gone_is_a_warning_unless_it_was_let_go(
    server: FakeServer, cluster: Cluster, reconciler: Reconciler, placement: Placement, store: Store
) -> None:
    gone = "the VM of a Placement is gone although it was protected: what is there is left as it is"
    del server.objects[Ref(endpoint(VirtualMachine), "web-0", "shop")]
    store.drop(VirtualMachine, ("shop", "web-0"), placement.metadata.name)
    with capture_logs() as logs:
        await reconciler.reconcile(placement.metadata.name)
    assert gone in [line["event"] for line in logs]
    lock = Lock(kind=LockKind.DELETION, namespace="shop", name="web-0", uid=placement.metadata.name)
    await cluster.replace(Placement, placement.metadata, dataclasses.replace(placement.spec, lock=lock, copies=()))
    with capture_logs() as logs:
        await reconciler.reconcile(placement.metadata.name)
    assert gone not in [line["event"] for line in logs]
    assert Ref(endpoint(Placement), placement.metadata.name) not in server.objects
