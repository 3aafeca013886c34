"""Migrations as the controller reads and writes them."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from fake_cluster import FakeServer
from samples import first_spec, migration_body, node_status, vm_body

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Meta, Status, with_condition
from kubeferry.api.migration import Migration, MigrationPhase, MigrationStatus
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Direction, Lock, LockKind, Move, Placement
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.controller.herald import Herald
from kubeferry.controller.reconcile import AT_ONCE, Reconciler
from kubeferry.controller.store import Store
from kubeferry.core import vm as core_vm
from kubeferry.core.observed import Choice, Observed, Place, TellMigration, VmDecision
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.leases import LeaseWatch
from kubeferry.kube.server import Ref

VM = Ref(endpoint(VirtualMachine), "web-0", "shop")
MOVE = Ref(endpoint(Migration), "move", "shop")
READ_MOVE = f"get {MOVE}"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PENDING = MigrationStatus(phase=MigrationPhase.PENDING)
ENDED = MigrationStatus(
    phase=MigrationPhase.CONFIRMED,
    conditions=with_condition((), reasons.FINISHED, Status.TRUE, reasons.CONFIRMED, "", 1, NOON),
)


@pytest.fixture
def gatherer(cluster: Cluster, store: Store) -> Gatherer:
    return Gatherer(cluster, store, LeaseWatch(), lambda: 200.0)


@pytest.fixture
def executor(cluster: Cluster, store: Store, herald: Herald) -> Executor:
    return Executor(cluster, store, herald, lambda _: None)


@pytest.fixture
async def vm(server: FakeServer, cluster: Cluster, store: Store) -> VirtualMachine:
    made = load(VirtualMachine, await server.create(VM, vm_body()))
    made = await cluster.patch_finalizers(VirtualMachine, made.metadata, [FINALIZER])
    store.remember(made)
    return made


@pytest.fixture
async def placement(vm: VirtualMachine, cluster: Cluster) -> Placement:
    return await cluster.create(Placement, Meta(name=vm.metadata.uid), spec=first_spec(vm))


@pytest.fixture
async def move(server: FakeServer, store: Store) -> Migration:
    made = load(Migration, await server.create(MOVE, migration_body("move")))
    store.remember(made)
    return made


async def test_one_that_has_not_finished_is_read_live_after_the_placement(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine, placement: Placement, move: Migration
) -> None:
    ended = await cluster.swap_status(Migration, move.metadata, ENDED)  # another controller told so, and watching is late
    server.requests.clear()
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).migrations == (ended,)
    assert server.requests == [f"get Placement {vm.metadata.uid}", READ_MOVE]
    server.requests.clear()
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).migrations == (ended,)
    assert READ_MOVE not in server.requests, "what has finished, and was seen so, stays finished"


async def test_one_that_is_gone_or_is_another_by_now_is_left_out(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, vm: VirtualMachine, placement: Placement, move: Migration
) -> None:
    await cluster.delete(Migration, move.metadata)
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).migrations == ()
    await server.create(MOVE, migration_body("move"))
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).migrations == ()


async def test_those_of_a_vm_that_watching_has_seen_are_gathered_with_it(
    gatherer: Gatherer, server: FakeServer, vm: VirtualMachine, move: Migration
) -> None:
    server.requests.clear()
    assert await gatherer.without_vm("shop", "web-0") == ()
    assert server.requests == []


async def test_one_that_is_to_take_the_lock_is_protected_first(
    executor: Executor, store: Store, vm: VirtualMachine, move: Migration
) -> None:
    assert await executor.execute(Observed(vm, None, (), ()), VmDecision(protect_migration=move))
    (held,) = store.migrations("shop", "web-0")
    assert held.metadata.finalizers == (FINALIZER,)


async def test_what_is_told_is_remembered_and_then_the_finalizer_goes(
    executor: Executor, cluster: Cluster, store: Store, vm: VirtualMachine, move: Migration
) -> None:
    protected = await cluster.patch_finalizers(Migration, move.metadata, ["other/one", FINALIZER])
    seen = Observed(vm, None, (), (), migrations=(protected,))
    assert not await executor.execute(seen, VmDecision(migrations=(TellMigration(protected, ENDED),)))
    (held,) = store.migrations("shop", "web-0")
    assert held.status == ENDED
    assert not await executor.execute(seen, VmDecision(release_migrations=(held,)))
    (held,) = store.migrations("shop", "web-0")
    assert held.metadata.finalizers == ("other/one",)


@pytest.mark.parametrize("what", ["tell", "release"])
async def test_a_migration_that_was_written_by_another_is_decided_on_anew(
    what: str, executor: Executor, cluster: Cluster, store: Store, vm: VirtualMachine, move: Migration
) -> None:
    other = await cluster.patch_finalizers(Migration, move.metadata, ["other/one"])
    decision = VmDecision(migrations=(TellMigration(move, PENDING),)) if what == "tell" else VmDecision(release_migrations=(move,))
    assert await executor.execute(Observed(vm, None, (), (), migrations=(move,)), decision)
    assert store.migrations("shop", "web-0") == (other,)


async def test_one_that_goes_with_its_last_finalizer_is_held_no_longer(
    executor: Executor, cluster: Cluster, store: Store, vm: VirtualMachine, move: Migration
) -> None:
    protected = await cluster.patch_finalizers(Migration, move.metadata, [FINALIZER])
    await cluster.delete(Migration, protected.metadata)
    deleted = await cluster.get(Migration, "move", "shop")
    assert not await executor.execute(Observed(vm, None, (), ()), VmDecision(release_migrations=(deleted,)))
    assert store.migrations("shop", "web-0") == ()


class NoPass:
    def place(self, place: Place) -> Choice:
        raise AssertionError("no pass is run for a VM that is not there")


async def test_a_migration_whose_vm_may_still_come_is_told_and_looked_at_again_when_its_time_is_over(
    gatherer: Gatherer, executor: Executor, server: FakeServer, cluster: Cluster, store: Store
) -> None:
    await server.create(MOVE, migration_body("move"))
    server.objects[MOVE]["metadata"]["creationTimestamp"] = datetime.now(UTC).isoformat()
    store.remember(await cluster.get(Migration, "move", "shop"))
    reconciler = Reconciler(gatherer, core_vm.step, executor, NoPass())
    assert await reconciler.reconcile("shop/web-0") == AT_ONCE
    (told,) = store.migrations("shop", "web-0")
    assert told.status is not None
    assert told.status.phase == MigrationPhase.PENDING
    again = await reconciler.reconcile("shop/web-0")
    assert again is not None
    assert timedelta() < again <= timedelta(seconds=30)


async def test_a_migration_without_vm_that_was_written_by_another_is_decided_on_anew(
    gatherer: Gatherer, executor: Executor, cluster: Cluster, store: Store, move: Migration
) -> None:
    other = await cluster.patch_finalizers(Migration, move.metadata, ["other/one"])
    assert await Reconciler(gatherer, core_vm.step, executor, NoPass()).reconcile("shop/web-0") == AT_ONCE
    assert store.migrations("shop", "web-0") == (other,)


async def test_a_confirm_goes_by_what_the_target_tells_now(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine, placement: Placement
) -> None:
    body = migration_body("move") | {"spec": {"virtualMachine": {"name": "web-0"}, "decision": "Confirm"}}
    wished = load(Migration, await server.create(MOVE, body))
    store.remember(wished)
    await cluster.create(ComputeNode, Meta(name="n1"))
    store.remember(await cluster.apply_status(ComputeNode, "n1", load(ComputeNodeStatus, node_status())))
    newest = await cluster.apply_status(ComputeNode, "n1", load(ComputeNodeStatus, node_status("h2")))  # watching is late
    lock = Lock(kind=LockKind.MIGRATION, namespace="shop", name="move", uid=wished.metadata.uid)

    async def seen(move: Move) -> list[str]:
        stored = await cluster.get(Placement, placement.metadata.name)
        await cluster.replace(Placement, stored.metadata, dataclasses.replace(placement.spec, lock=lock, move=move))
        return [h.status.host_id for h in (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).hosts]

    awaiting = Move(
        direction=Direction.FORWARD,
        source="n0",
        target="n1",
        domain=placement.spec.domain,
        bytes=1,
        shutdown_timeout_seconds=0,
        awaiting_since=NOON,
    )
    assert await seen(dataclasses.replace(awaiting, awaiting_since=None)) == ["h1"], "it is not asked of before"
    assert await seen(awaiting) == ["h2"]
    await cluster.delete(ComputeNode, newest.metadata)
    assert await seen(awaiting) == [], "one that is gone tells nothing"


async def test_one_that_has_finished_is_let_go_although_its_vm_is_gone(
    gatherer: Gatherer, executor: Executor, cluster: Cluster, store: Store, move: Migration
) -> None:
    ended = await cluster.swap_status(Migration, move.metadata, ENDED)
    store.remember(await cluster.patch_finalizers(Migration, ended.metadata, [FINALIZER]))
    reconciler = Reconciler(gatherer, core_vm.step, executor, NoPass())
    while await reconciler.reconcile("shop/web-0") == AT_ONCE:
        pass
    assert (await cluster.get(Migration, "move", "shop")).metadata.finalizers == ()


async def test_one_that_had_begun_is_let_go_when_it_is_deleted_and_its_vm_is_gone(
    gatherer: Gatherer, executor: Executor, cluster: Cluster, server: FakeServer, store: Store, move: Migration
) -> None:
    began = dataclasses.replace(ENDED, phase=MigrationPhase.COPYING, conditions=(), epoch=2)
    stored = await cluster.swap_status(Migration, move.metadata, began)
    held = await cluster.patch_finalizers(Migration, stored.metadata, [FINALIZER])
    store.remember(held)
    reconciler = Reconciler(gatherer, core_vm.step, executor, NoPass())
    while await reconciler.reconcile("shop/web-0") == AT_ONCE:
        pass
    assert (await cluster.get(Migration, "move", "shop")).metadata.finalizers == (FINALIZER,)
    await cluster.delete(Migration, held.metadata)
    store.remember(await cluster.get(Migration, "move", "shop"))
    while await reconciler.reconcile("shop/web-0") == AT_ONCE:
        pass
    assert MOVE not in server.objects
