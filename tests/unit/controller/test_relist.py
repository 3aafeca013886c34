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


async def relisted(relister: Relister, told: set[str] | None = None) -> set[str]:
    """List everything once; the keys that it tells, also into `told`."""
    told = set() if told is None else told
    async for keys in relister.relist():
        told |= keys
    return told


async def made(server: FakeServer, ref: Ref = VM) -> str:
    body = await server.create(ref, vm_body(name=ref.name))
    return str(body["metadata"]["uid"])


async def test_the_first_list_fills_the_store_and_wakes_every_vm(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    assert await relisted(relister) == {uid}
    assert store.vm(uid) is not None


async def test_migrations_and_nodes_are_listed_too_and_a_migration_wakes_its_vm(
    relister: Relister, server: FakeServer, store: Store
) -> None:
    uid = await made(server)
    await relisted(relister)
    move = Ref(endpoint(Migration), "web-0-move", "shop")
    await server.create(move, migration_body())
    await server.create(Ref(endpoint(Node), "n1"), node_body())
    assert await relisted(relister) == {uid}
    assert [m.metadata.name for m in store.migrations("shop", "web-0")] == ["web-0-move"]
    assert [node.metadata.name for node in store.nodes()] == ["n1"]
    server.objects.clear()
    assert await relisted(relister) == {uid, "shop/web-0"}, "the VM went first: its Migration belongs to its name then"
    assert (store.migrations("shop", "web-0"), store.nodes()) == ((), ())


async def test_a_list_without_news_wakes_nobody(relister: Relister, server: FakeServer) -> None:
    await made(server)
    await relisted(relister)
    assert await relisted(relister) == frozenset()


async def test_what_went_unseen_is_held_no_longer_and_wakes_its_vm(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    await relisted(relister)
    del server.objects[VM]
    assert await relisted(relister) == {uid}
    assert store.vm(uid) is None


async def test_a_vm_made_anew_unseen_takes_the_place_of_the_old_one(relister: Relister, server: FakeServer, store: Store) -> None:
    old = await made(server)
    await relisted(relister)
    del server.objects[VM]
    new = await made(server)
    assert await relisted(relister) == {old, new}
    assert (store.vm(old), store.vm(new) is not None) == (None, True)


async def test_what_came_while_the_list_was_read_is_no_ghost(relister: Relister, server: FakeServer, store: Store) -> None:
    await relisted(relister)
    other = Ref(endpoint(VirtualMachine), "web-1", "shop")
    body = await server.create(other, vm_body("web-1"))
    del server.objects[other]  # the list below is older than the object
    server.before["list VirtualMachine *"] = [lambda: store.put(VirtualMachine, body)]
    await relisted(relister)
    assert store.vm(body["metadata"]["uid"]) is not None


async def test_an_object_that_can_not_be_read_does_not_hide_the_others(
    relister: Relister, server: FakeServer, store: Store, logs: list[EventDict]
) -> None:
    await made(server)
    server.objects[VM]["spec"] = {}
    other = await made(server, Ref(endpoint(VirtualMachine), "web-1", "shop"))
    assert await relisted(relister) == {other}
    assert len(store.unreadable) == 1
    del server.objects[VM]
    await relisted(relister)
    assert store.unreadable == {}


async def test_a_list_that_breaks_off_removes_nothing(relister: Relister, server: FakeServer, store: Store, cluster: Cluster) -> None:
    uid = await made(server)
    await cluster.create(ComputeNode, Meta(name="n1"))
    await relisted(relister)
    server.before["list VirtualMachine *"] = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await relisted(relister)
    assert store.vm(uid) is not None


async def test_after_a_restore_of_etcd_versions_lower_than_what_watching_saw_count(
    relister: Relister, server: FakeServer, store: Store
) -> None:
    """Its revision has passed that of the last list since."""
    uid = await made(server)
    await relisted(relister)
    backup = dict(server.objects[VM])
    store.put(VirtualMachine, backup | {"metadata": backup["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}})
    server._version = 500
    assert await relisted(relister) == {uid}
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {}
    assert await relisted(relister) == frozenset()


async def test_what_came_newer_while_the_list_was_read_stays(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    await relisted(relister)
    newer = dict(server.objects[VM])
    newer |= {"metadata": newer["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}}
    server.before["list VirtualMachine *"] = [lambda: store.put(VirtualMachine, newer)]
    await relisted(relister)
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {"a": "new"}


async def test_after_a_restore_of_etcd_lower_versions_count(relister: Relister, server: FakeServer, store: Store) -> None:
    uid = await made(server)
    backup = dict(server.objects[VM])
    server.objects[VM] = backup | {"metadata": backup["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}}
    server._version = 900
    await relisted(relister)
    server.objects[VM], server._version = backup, 1
    assert await relisted(relister) == {uid}
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {}


async def test_what_came_before_a_list_broke_off_is_told_all_the_same(relister: Relister, server: FakeServer) -> None:
    """Neither the next list nor an event of watching has news of it."""
    uid = await made(server)
    server.before["list Migration *"] = [Unavailable("away")]
    told: set[str] = set()
    with pytest.raises(Unavailable):
        await relisted(relister, told)
    assert told == {uid}
    assert await relisted(relister) == frozenset()


async def test_after_a_restore_that_raised_the_revision_of_etcd_what_it_holds_counts(
    relister: Relister, server: FakeServer, store: Store
) -> None:
    """As `etcdutl snapshot restore --bump-revision` does: objects are of lower versions than what was seen, the list is not."""
    uid = await made(server)
    backup = dict(server.objects[VM])
    server.objects[VM] = backup | {"metadata": backup["metadata"] | {"resourceVersion": "900", "labels": {"a": "new"}}}
    server._version = 900
    await relisted(relister)
    server.objects[VM], server._version = backup, 1_000_000
    assert await relisted(relister) == {uid}
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {}


async def test_after_a_restore_of_etcd_another_content_of_the_same_version_is_news(
    relister: Relister, server: FakeServer, store: Store
) -> None:
    """The versions since the backup are given once more."""
    uid = await made(server)
    lost = dict(server.objects[VM])
    store.put(VirtualMachine, lost | {"metadata": lost["metadata"] | {"labels": {"of": "a lost history"}}})
    assert await relisted(relister) == {uid}
    vm = store.vm(uid)
    assert vm is not None
    assert vm.metadata.labels == {}
