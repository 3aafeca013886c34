"""Lives of the Store by chance: late watches, lists beside writes of others and of our own, restored etcds. No VM misses news of it."""

import copy
import itertools
import random
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from fake_cluster import FakeServer
from prometheus_client import CollectorRegistry
from samples import migration_body, vm_body

from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration, MigrationPhase, MigrationStatus
from kubeferry.api.names import FINALIZER
from kubeferry.api.virtualmachine import PrintableStatus, VirtualMachine, VirtualMachineStatus
from kubeferry.controller.execute import Executor
from kubeferry.controller.herald import Herald
from kubeferry.controller.metrics import Metrics
from kubeferry.controller.relist import Relister
from kubeferry.controller.store import Keys, Store
from kubeferry.core.observed import Observed, TellMigration, VmDecision
from kubeferry.kube.client import Cluster, Stored, endpoint
from kubeferry.kube.errors import KubeError, Unavailable
from kubeferry.kube.server import Body, Ref

WATCHED: tuple[type[Stored], ...] = (VirtualMachine, Migration)
NAMES = ("web-0", "web-1")
Event = tuple[bool, Body]
"""Whether the object is there, and its body."""


class WatchedServer(FakeServer):
    """A server whose watches tell late, each in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[str, list[Event]] = {endpoint(kind).kind: [] for kind in WATCHED}

    def _store(self, ref: Ref, body: dict[str, Any]) -> Body:
        before = self._version
        stored = super()._store(ref, body)
        if self._version != before:
            self._tell(ref, stored)
        return stored

    async def delete(self, ref: Ref, uid: str) -> None:
        body = self.objects.get(ref)
        await super().delete(ref, uid)
        if ref not in self.objects and body is not None:
            self._tell(ref, body)

    def _tell(self, ref: Ref, body: Body) -> None:
        if ref.endpoint.kind in self.events:
            self.events[ref.endpoint.kind].append((ref in self.objects, copy.deepcopy(body)))

    def restore(self, objects: dict[Ref, dict[str, Any]], version: int) -> None:
        """etcd is as it was, at that revision; every watch begins anew, and announces what is there."""
        self.objects, self._version, self._versions = copy.deepcopy(objects), version, itertools.count(version + 1)
        for kind, events in self.events.items():
            events[:] = [(True, copy.deepcopy(body)) for ref, body in self.objects.items() if ref.endpoint.kind == kind]


class Life:
    """One controller's Store, and everybody who changes what it holds."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.server = WatchedServer()
        self.cluster = Cluster(self.server, "kubeferry-controller")
        self.store = Store()
        self.relister = Relister(self.cluster, self.store)
        self.executor = Executor(self.cluster, self.store, Herald(self.server, Metrics(CollectorRegistry())), self.wake)
        self.waiting: set[str] = set()
        self.seen: dict[str, object] = {}
        self.list: AsyncGenerator[Keys, None] | None = None
        self.backup: tuple[dict[Ref, dict[str, Any]], int] | None = None
        self.labels = itertools.count()

    async def play(self) -> None:
        acts = (self.create, self.change, self.delete, self.watch, self.watch, self.watch, self.work, self.write, self.relist, self.relist)
        for _ in range(300):
            await self.rng.choice((*acts, self.lose, self.break_list, self.back_up, self.restore))()
        await self.finish()

    def wake(self, keys: Keys) -> None:
        self.waiting |= keys

    # Others

    def _some(self) -> Ref | None:
        there = sorted((ref for ref in self.server.objects if ref.endpoint.kind in self.server.events), key=str)
        return self.rng.choice(there) if there else None

    async def create(self) -> None:
        kind, name = self.rng.choice(WATCHED), self.rng.choice(NAMES)
        body = vm_body(name) if kind is VirtualMachine else migration_body("move", self.rng.choice(NAMES))
        ref = Ref(endpoint(kind), body["metadata"]["name"], "shop")
        if ref not in self.server.objects:
            await self.server.create(ref, body | {"metadata": body["metadata"] | {"finalizers": [FINALIZER]}})

    async def change(self) -> None:
        if (ref := self._some()) is not None:
            body = copy.deepcopy(self.server.objects[ref])
            body["metadata"]["labels"] = {"n": str(next(self.labels))}
            self.server._store(ref, body)

    async def delete(self) -> None:
        if (ref := self._some()) is None:
            return
        body = self.server.objects[ref]
        if self.rng.random() < 0.3:
            self.server._store(ref, body | {"metadata": body["metadata"] | {"finalizers": []}})
        if ref in self.server.objects:  # else that was its last finalizer
            await self.server.delete(ref, body["metadata"]["uid"])

    async def back_up(self) -> None:
        self.backup = self.backup or (copy.deepcopy(self.server.objects), self.server._version)

    async def restore(self) -> None:
        if self.backup is None or self.rng.random() < 0.5:
            return
        (objects, version), self.backup = self.backup, None
        self.server.restore(objects, version if self.rng.random() < 0.5 else self.server._version + 1000)

    # Ourselves

    def view(self, key: str) -> object:
        """What a pass for that key would go by."""
        namespace, slash, name = key.partition("/")
        vm = self.store.vm_named(namespace, name) if slash else self.store.vm(key)
        if slash and vm is not None:  # its Migrations are looked at with it
            return None
        where = (namespace, name) if vm is None else (vm.metadata.namespace, vm.metadata.name)
        return vm, self.store.migrations(*where) if slash or vm is not None else ()

    async def watch(self) -> None:
        kind = self.rng.choice(WATCHED)
        if events := self.server.events[endpoint(kind).kind]:
            there, body = events.pop(0)
            self.wake(self.store.put(kind, body) if there else self.store.remove(kind, body))

    async def lose(self) -> None:
        """A watch is lost, and begins anew: what is there is announced, what went is not."""
        kind = endpoint(self.rng.choice(WATCHED)).kind
        self.server.events[kind][:] = [
            (True, copy.deepcopy(body)) for ref, body in self.server.objects.items() if ref.endpoint.kind == kind
        ]

    async def relist(self) -> None:
        """One object further, in between anything may happen."""
        self.list = self.list or cast(AsyncGenerator[Keys, None], self.relister.relist())
        try:
            self.wake(await anext(self.list))
        except (StopAsyncIteration, KubeError):
            self.list = None

    async def break_list(self) -> None:
        self.server.before["list Migration *"] = [Unavailable("away")]

    async def work(self) -> None:
        for key in sorted(self.waiting):
            self.seen[key] = self.view(key)
        self.waiting.clear()

    async def write(self) -> None:
        """A pass writes what it has decided, by what it has seen."""
        vms = sorted(self.store.all_vms(), key=lambda vm: vm.metadata.uid)
        if not vms:
            return
        vm = self.rng.choice(vms)
        if self.rng.random() < 0.5:
            decision = VmDecision(release=vm.metadata.deletion_timestamp is not None)
        else:
            status = VirtualMachineStatus(printable_status=PrintableStatus.RUNNING, node_name=f"n{next(self.labels)}")
            told = [
                TellMigration(m, MigrationStatus(phase=MigrationPhase.PENDING)) for m in self.store.migrations("shop", vm.metadata.name)
            ]
            decision = VmDecision(status=status, migrations=tuple(told))
        again = await self.executor.execute(Observed(vm=vm, placement=None, tasks=(), hosts=()), decision)
        self.seen[vm.metadata.uid] = self.view(vm.metadata.uid)
        if again:
            self.waiting.add(vm.metadata.uid)

    # The end

    async def finish(self) -> None:
        """All is told, and listed once more."""
        self.server.before.clear()
        while self.list is not None:
            await self.relist()
        for kind in WATCHED:
            while self.server.events[endpoint(kind).kind]:
                await self.watch()
        await self.relist()
        while self.list is not None:
            await self.relist()
        await self.work()

    def held(self) -> dict[Ref, Meta]:
        found: list[Stored] = [*self.store.all_vms(), *self.store.all_migrations()]
        return {Ref(endpoint(type(each)), each.metadata.name, each.metadata.namespace): each.metadata for each in found}


@pytest.mark.parametrize("seed", range(300))
async def test_the_store_comes_to_hold_what_is_there_and_the_last_look_at_each_vm_has_seen_it(seed: int) -> None:
    life = Life(seed)
    await life.play()
    there = {ref: body["metadata"] for ref, body in life.server.objects.items() if ref.endpoint.kind in life.server.events}
    held = life.held()
    assert {ref: (meta.uid, meta.labels) for ref, meta in held.items()} == {
        ref: (meta["uid"], meta.get("labels", {})) for ref, meta in there.items()
    }
    keys = {ref.name: meta.uid for ref, meta in held.items() if ref.endpoint.kind == "VirtualMachine"}
    looked_at = set(keys.values()) | {f"shop/{m.spec.virtual_machine.name}" for m in life.store.all_migrations()}
    for key in sorted(looked_at):
        assert life.view(key) is None or life.seen.get(key) == life.view(key), f"{key} was not looked at since its news"
