"""Reads: the Placement consistently, the rest from what was seen."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from builders import NOON
from fake_cluster import FakeServer
from samples import first_spec, node_status, vm_body

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Meta, Status, with_condition
from kubeferry.api.migration import Migration, MigrationPhase, MigrationSpec, MigrationStatus
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Direction, Lock, LockKind, Move, Outcome, Placement, Settled
from kubeferry.api.task import DiscardMode, HostTask, Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.gather import Gatherer
from kubeferry.controller.store import Store
from kubeferry.core import ledger
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.errors import Unavailable
from kubeferry.kube.leases import LeaseWatch
from kubeferry.kube.server import Ref

MOVE = load(MigrationSpec, {"virtualMachine": {"name": "web-0"}})
VM = Ref(endpoint(VirtualMachine), "web-0", "shop")


@pytest.fixture
def leases() -> LeaseWatch:
    return LeaseWatch()


@pytest.fixture
def gatherer(cluster: Cluster, store: Store, leases: LeaseWatch) -> Gatherer:
    return Gatherer(cluster, store, leases, lambda: 200.0)


@pytest.fixture
async def vm(server: FakeServer, cluster: Cluster) -> VirtualMachine:
    made = load(VirtualMachine, await server.create(VM, vm_body()))
    return await cluster.patch_finalizers(VirtualMachine, made.metadata, [FINALIZER])


@pytest.fixture
async def placement(vm: VirtualMachine, cluster: Cluster, server: FakeServer) -> Placement:
    placement = await cluster.create(Placement, Meta(name=vm.metadata.uid), spec=first_spec(vm))
    server.requests.clear()
    return placement


async def test_a_vm_that_was_seen_is_not_read_but_its_placement_always_is(
    gatherer: Gatherer, server: FakeServer, store: Store, vm: VirtualMachine, placement: Placement
) -> None:
    store.remember(vm)
    for _ in range(2):
        observed = await gatherer.gather(vm.metadata.uid, datetime.now(UTC))
    assert (observed.vm, observed.placement) == (vm, placement)
    assert server.requests == [f"get Placement {vm.metadata.uid}"] * 2


async def test_without_a_placement_there_is_none(gatherer: Gatherer, store: Store, vm: VirtualMachine) -> None:
    store.remember(vm)
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).placement is None


async def test_a_vm_without_a_placement_is_read_live_so_that_no_late_news_of_its_deletion_places_it(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine
) -> None:
    store.remember(vm)
    await cluster.delete(VirtualMachine, vm.metadata)
    seen = (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).vm
    assert seen is not None
    assert seen.metadata.deletion_timestamp is not None
    await cluster.patch_finalizers(VirtualMachine, seen.metadata, [])
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).vm is None
    await server.create(VM, vm_body())
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).vm is None, "another VM of that name is another VM"


async def test_a_placement_that_can_not_be_read_ends_the_pass(
    gatherer: Gatherer, server: FakeServer, store: Store, vm: VirtualMachine
) -> None:
    store.remember(vm)
    server.before[f"get Placement {vm.metadata.uid}"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await gatherer.gather(vm.metadata.uid, datetime.now(UTC))


async def test_a_vm_that_a_placement_names_but_nobody_saw_is_read_live(
    gatherer: Gatherer, vm: VirtualMachine, placement: Placement
) -> None:
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).vm == vm


async def test_another_vm_of_that_name_is_not_the_one_that_a_placement_names(
    gatherer: Gatherer, server: FakeServer, vm: VirtualMachine, placement: Placement
) -> None:
    del server.objects[VM]
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).vm is None
    await server.create(VM, vm_body())
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).vm is None


async def test_tasks_are_those_of_the_vm(gatherer: Gatherer, cluster: Cluster, store: Store, placement: Placement) -> None:
    (missing,) = ledger.missing(placement, ())
    task = await cluster.create(HostTask, Meta(name=missing.name), spec=missing.spec)
    store.remember(task)
    assert (await gatherer.gather(placement.metadata.name, datetime.now(UTC))).tasks == (task,)
    assert (await gatherer.gather("another", datetime.now(UTC))).tasks == ()


async def test_a_host_is_a_node_that_told_of_itself_with_the_freshness_of_its_lease(
    gatherer: Gatherer, cluster: Cluster, store: Store, leases: LeaseWatch
) -> None:
    for name in ("n1", "n2", "mute"):
        store.remember(await cluster.create(ComputeNode, Meta(name=name)))
    for name in ("n1", "n2"):
        store.remember(await cluster.apply_status(ComputeNode, name, load(ComputeNodeStatus, node_status(host=f"h-{name}"))))
    leases.saw({"n1": "a", "n2": "a"}, 150.0)
    leases.saw({"n1": "a", "n2": "b"}, 180.0)
    hosts = (await gatherer.gather("vm-1", datetime.now(UTC))).hosts
    assert [(host.name, host.status.host_id, host.lease_fresh) for host in hosts] == [("n1", "h-n1", False), ("n2", "h-n2", True)]


async def test_the_migration_that_holds_the_lock_is_looked_for_where_watching_has_not_seen_it(
    gatherer: Gatherer, cluster: Cluster, placement: Placement
) -> None:
    held = await cluster.create(Migration, Meta(name="unseen", namespace="shop"), spec=MOVE)
    lock = Lock(kind=LockKind.MIGRATION, namespace="shop", name="unseen", uid=held.metadata.uid)
    await cluster.replace(Placement, placement.metadata, dataclasses.replace(placement.spec, lock=lock))
    assert (await gatherer.gather(placement.metadata.name, datetime.now(UTC))).migrations == (held,)
    await cluster.delete(Migration, held.metadata)
    await cluster.create(Migration, Meta(name="unseen", namespace="shop"), spec=MOVE)
    assert (await gatherer.gather(placement.metadata.name, datetime.now(UTC))).migrations == (), "another one of that name holds nothing"


async def test_the_host_whose_seal_is_awaited_is_read_live(
    gatherer: Gatherer, cluster: Cluster, store: Store, placement: Placement
) -> None:
    store.remember(await cluster.create(ComputeNode, Meta(name="n2")))
    await cluster.apply_status(ComputeNode, "n2", load(ComputeNodeStatus, node_status(host="h-n2")))
    sealing = ledger.ask(placement.spec, Verb.SEAL, "n2", "h-n2", NOON, grace=0)
    await cluster.replace(Placement, placement.metadata, sealing)
    observed = await gatherer.gather(placement.metadata.name, datetime.now(UTC))
    assert observed.live == {"n2"}
    assert [host.name for host in observed.hosts] == ["n2"]


async def test_what_was_read_live_counts_although_a_higher_version_was_seen_before_etcd_was_restored(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, store: Store, placement: Placement
) -> None:
    made = await cluster.create(ComputeNode, Meta(name="n2"))
    now = await cluster.apply_status(ComputeNode, "n2", load(ComputeNodeStatus, node_status(host="h-n2")))
    later = dataclasses.replace(made.metadata, resource_version="900")
    store.remember(dataclasses.replace(now, metadata=later, status=load(ComputeNodeStatus, node_status(host="of-a-lost-history"))))
    await cluster.replace(Placement, placement.metadata, ledger.ask(placement.spec, Verb.SEAL, "n2", "h-n2", NOON, grace=0))
    (host,) = (await gatherer.gather(placement.metadata.name, datetime.now(UTC))).hosts
    assert host.status.host_id == "h-n2"
    del server.objects[Ref(endpoint(ComputeNode), "n2")]
    assert (await gatherer.gather(placement.metadata.name, datetime.now(UTC))).hosts == ()


async def test_a_live_read_swallows_no_news_of_the_hosts_other_vms(
    gatherer: Gatherer, cluster: Cluster, store: Store, placement: Placement
) -> None:
    store.remember(await cluster.create(ComputeNode, Meta(name="n2")))
    body = vm_body("web-1", node="n2")
    store.put(VirtualMachine, body | {"metadata": body["metadata"] | {"uid": "another", "resourceVersion": "1"}})
    told = await cluster.apply_status(ComputeNode, "n2", load(ComputeNodeStatus, node_status(host="h-n2")))
    await cluster.replace(Placement, placement.metadata, ledger.ask(placement.spec, Verb.SEAL, "n2", "h-n2", NOON, grace=0))
    await gatherer.gather(placement.metadata.name, datetime.now(UTC))
    assert "another" in store.remember(told)


async def test_a_fence_is_gathered_by_the_boot_that_it_names(
    gatherer: Gatherer, store: Store, vm: VirtualMachine, placement: Placement
) -> None:
    store.remember(vm)
    for name, spec in (("n1", {"fence": {"bootId": "boot-of-h1", "reason": "off"}}), ("n2", {})):
        body = {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": spec, "status": node_status()}
        store.put(ComputeNode, body)
    hosts = (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).hosts
    assert {host.name: host.fence for host in hosts} == {"n1": "boot-of-h1", "n2": None}


async def test_for_a_confirm_that_its_deadline_asks_for_the_target_is_read_live(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine, placement: Placement
) -> None:
    ref = Ref(endpoint(Migration), "move", "shop")
    terms = {"virtualMachine": {"name": "web-0"}, "decisionTimeoutSeconds": 60, "onDecisionTimeout": "Confirm"}
    migration = load(Migration, await server.create(ref, {"metadata": {"name": "move", "namespace": "shop"}, "spec": terms}))
    store.remember(vm)
    store.remember(migration)
    move = Move(
        direction=Direction.FORWARD,
        source="n2",
        target="n1",
        domain=placement.spec.domain,
        bytes=1,
        shutdown_timeout_seconds=60,
        awaiting_since=datetime.now(UTC) - timedelta(seconds=50),
    )
    lock = Lock(kind=LockKind.MIGRATION, namespace="shop", name="move", uid=migration.metadata.uid)
    held = await cluster.replace(Placement, placement.metadata, dataclasses.replace(placement.spec, lock=lock, move=move))
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).live == frozenset()
    late = dataclasses.replace(move, awaiting_since=datetime.now(UTC) - timedelta(seconds=70))
    await cluster.replace(Placement, held.metadata, dataclasses.replace(held.spec, move=late))
    assert (await gatherer.gather(vm.metadata.uid, datetime.now(UTC))).live == {"n1"}


async def test_of_outcomes_whose_migration_was_not_seen_a_list_that_is_asked_now_tells_which_is_gone(
    gatherer: Gatherer, server: FakeServer, cluster: Cluster, store: Store, vm: VirtualMachine, placement: Placement
) -> None:
    store.remember(vm)
    unseen = await cluster.create(Migration, Meta(name="unseen", namespace="shop"), spec=MOVE)
    broken = await cluster.create(Migration, Meta(name="broken", namespace="shop"), spec=MOVE)
    server.objects[Ref(endpoint(Migration), "broken", "shop")]["spec"] = {}
    seen = await cluster.create(Migration, Meta(name="seen", namespace="shop"), spec=MOVE)
    store.remember(seen)
    uids = (unseen.metadata.uid, broken.metadata.uid, seen.metadata.uid, "uid-gone", "uid-discarding")
    entries = tuple(Settled(migration_uid=uid, outcome=Outcome.FAILED, reason="Cancelled", time=NOON) for uid in uids)
    marked = dataclasses.replace(placement.spec.copies[0], discard=DiscardMode.TRASH, migration_uid="uid-discarding")
    spec = dataclasses.replace(placement.spec, settled=entries, copies=(marked,))
    stored = await cluster.replace(Placement, placement.metadata, spec)
    assert (await gatherer.gather(vm.metadata.uid, NOON)).gone == {"uid-gone"}
    server.requests.clear()
    known = dataclasses.replace(spec, settled=tuple(e for e in entries if e.migration_uid in (seen.metadata.uid, "uid-discarding")))
    await cluster.replace(Placement, stored.metadata, known)
    assert (await gatherer.gather(vm.metadata.uid, NOON)).gone == frozenset()
    assert not [request for request in server.requests if request.startswith("list")], "there is nothing to be known"


@pytest.mark.parametrize("known", ["holds the lock", "has an outcome"])
async def test_what_was_seen_as_finished_before_etcd_was_restored_is_read_anew(
    gatherer: Gatherer, cluster: Cluster, store: Store, vm: VirtualMachine, placement: Placement, known: str
) -> None:
    """Its outcome would be forgotten, and it would begin once more; or it would be taken back although nobody asks for that."""
    store.remember(vm)
    there = await cluster.create(Migration, Meta(name="move", namespace="shop"), spec=MOVE)
    ended = with_condition((), reasons.FINISHED, Status.TRUE, reasons.CONFIRMED, "", 1, NOON)
    status = MigrationStatus(phase=MigrationPhase.CONFIRMED, conditions=ended)
    store.remember(dataclasses.replace(there, metadata=dataclasses.replace(there.metadata, resource_version="900"), status=status))
    lock = Lock(kind=LockKind.MIGRATION, namespace="shop", name="move", uid=there.metadata.uid)
    entry = Settled(migration_uid=there.metadata.uid, outcome=Outcome.FAILED, reason="Cancelled", time=NOON)
    changes: dict[str, Any] = {"lock": lock} if known == "holds the lock" else {"settled": (entry,)}
    await cluster.replace(Placement, placement.metadata, dataclasses.replace(placement.spec, **changes))
    assert (await gatherer.gather(vm.metadata.uid, NOON)).migrations == (there,)


async def test_the_kinds_are_read_when_a_vm_is_to_go_and_not_before(
    gatherer: Gatherer,
    server: FakeServer,
    store: Store,
    cluster: Cluster,
    vm: VirtualMachine,
    placement: Placement,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def kinds_stay(_: Cluster) -> bool:
        asked.append(1)
        return True

    monkeypatch.setattr(Cluster, "kinds_stay", kinds_stay)
    store.remember(vm)
    assert not (await gatherer.gather(vm.metadata.uid, NOON)).deletable
    assert asked == []
    await cluster.delete(VirtualMachine, vm.metadata)
    store.remember(await cluster.get(VirtualMachine, "web-0", "shop"))
    assert (await gatherer.gather(vm.metadata.uid, NOON)).deletable
    meta = vm.metadata
    lock = Lock(kind=LockKind.DELETION, namespace=meta.namespace, name=meta.name, uid=meta.uid)
    await cluster.replace(Placement, placement.metadata, dataclasses.replace(placement.spec, lock=lock))
    assert not (await gatherer.gather(vm.metadata.uid, NOON)).deletable, "it holds the lock: it was found out before"
    assert asked == [1]


async def test_a_vm_without_a_placement_is_told_of_who_has_an_address_that_it_asks_for_and_a_placed_one_is_not(
    gatherer: Gatherer, cluster: Cluster, server: FakeServer, store: Store
) -> None:
    asked = {"name": "default", "macAddress": "02:00:00:00:00:01"}
    vms = []
    for name in ("web-0", "web-1"):
        body = vm_body(name)
        template = body["spec"]["template"]["spec"]
        template["domain"]["devices"]["interfaces"] = [asked, {"name": "other"}]
        template["networks"] = [{"name": "default", "user": {}}, {"name": "other", "user": {}}]
        made = load(VirtualMachine, await server.create(Ref(endpoint(VirtualMachine), name, "shop"), body))
        vms.append(await cluster.patch_finalizers(VirtualMachine, made.metadata, [FINALIZER]))
        store.remember(vms[-1])
    first, second = vms
    assert (await gatherer.gather(first.metadata.uid, NOON)).mac_users == {}
    store.remember(await cluster.create(Placement, Meta(name=first.metadata.uid), spec=first_spec(first)))
    assert (await gatherer.gather(first.metadata.uid, NOON)).mac_users == {}
    assert (await gatherer.gather(second.metadata.uid, NOON)).mac_users == {"02:00:00:00:00:01": "shop/web-0"}
