"""Listing finds what went unseen."""

import pytest
from fake_cluster import FakeServer
from samples import migration_body, node_body, vm_body
from structlog.typing import EventDict

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration
from kubeferry.api.node import Node
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.relist import Relister
from kubeferry.controller.store import Store
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.errors import Unavailable
from kubeferry.kube.server import Ref

VM = Ref(endpoint(VirtualMachine), "web-0", "shop")


@pytest.fixture
def relister(cluster: Cluster, store: Store) -> Relister:
    return Relister(cluster, store)


async def made(server: FakeServer, ref: Ref = VM) -> str:
    body = await server.create(ref, vm_body(name=ref.name))
    return str(body["metadata"]["uid"])


async def test_the_first_list_fills_the_store_and_wakes_every_vm(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    assert await relister.relist() == {uid}
    assert store.vm(uid) is not None


async def test_migrations_and_nodes_are_listed_too_and_a_migration_wakes_its_vm(
    relister: Relister, server: FakeServer, store: Store
) -> None:
    uid = await made(server)
    await relister.relist()
    move = Ref(endpoint(Migration), "web-0-move", "shop")
    await server.create(move, migration_body())
    await server.create(Ref(endpoint(Node), "n1"), node_body())
    assert await relister.relist() == {uid}
    assert [m.metadata.name for m in store.migrations("shop", "web-0")] == ["web-0-move"]
    assert [node.metadata.name for node in store.nodes()] == ["n1"]
    server.objects.clear()
    assert await relister.relist() == {uid, "shop/web-0"}, "the VM went first: its Migration belongs to its name then"
    assert (store.migrations("shop", "web-0"), store.nodes()) == ((), ())


async def test_a_list_without_news_wakes_nobody(relister: Relister, server: FakeServer) -> None:
    await made(server)
    await relister.relist()
    assert await relister.relist() == frozenset()


async def test_what_went_unseen_is_held_no_longer_and_wakes_its_vm(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    await relister.relist()
    del server.objects[VM]
    assert await relister.relist() == {uid}
    assert store.vm(uid) is None


async def test_a_vm_made_anew_unseen_takes_the_place_of_the_old_one(relister: Relister, server: FakeServer, store: Store) -> None:
    old = await made(server)
    await relister.relist()
    del server.objects[VM]
    new = await made(server)
    assert await relister.relist() == {old, new}
    assert (store.vm(old), store.vm(new) is not None) == (None, True)


async def test_what_came_while_the_list_was_read_is_no_ghost(relister: Relister, server: FakeServer, store: Store) -> None:
    await relister.relist()
    other = Ref(endpoint(VirtualMachine), "web-1", "shop")
    body = await server.create(other, vm_body("web-1"))
    del server.objects[other]  # the list below is older than the object
    server.before["list VirtualMachine *"] = [lambda: store.put(VirtualMachine, body)]
    await relister.relist()
    assert store.vm(body["metadata"]["uid"]) is not None


async def test_an_object_that_can_not_be_read_does_not_hide_the_others(
    relister: Relister, server: FakeServer, store: Store, logs: list[EventDict]
) -> None:
    await made(server)
    server.objects[VM]["spec"] = {}
    other = await made(server, Ref(endpoint(VirtualMachine), "web-1", "shop"))
    assert await relister.relist() == {other}
    assert len(store.unreadable) == 1
    del server.objects[VM]
    await relister.relist()
    assert store.unreadable == {}


async def test_a_list_that_breaks_off_removes_nothing(relister: Relister, server: FakeServer, store: Store, cluster: Cluster) -> None:
    uid = await made(server)
    await cluster.create(ComputeNode, Meta(name="n1"))
    await relister.relist()
    server.before["list VirtualMachine *"] = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await relister.relist()
    assert store.vm(uid) is not None


async def test_after_a_restore_of_etcd_versions_lower_than_what_watching_saw_count(
    relister: Relister, server: FakeServer, store: Store
) -> None:
    """Its revision has passed that of the last list since."""
    uid = await made(server)
    await relister.relist()
    backup = dict(server.objects[VM])
    store.put(VirtualMachine, backup | {"metadata": backup["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}})
    server._version = 500
    assert await relister.relist() == {uid}
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {}
    assert await relister.relist() == frozenset()


async def test_what_came_newer_while_the_list_was_read_stays(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    await relister.relist()
    newer = dict(server.objects[VM])
    newer |= {"metadata": newer["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}}
    server.before["list VirtualMachine *"] = [lambda: store.put(VirtualMachine, newer)]
    await relister.relist()
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {"a": "new"}


async def test_after_a_restore_of_etcd_lower_versions_count(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    backup = dict(server.objects[VM])
    server.objects[VM] = backup | {"metadata": backup["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}}
    server._version = 900
    await relister.relist()
    server.objects[VM], server._version = backup, 1
    assert await relister.relist() == {uid}
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {}
