"""All reads of a pass, for one VM."""

from collections.abc import Callable, Mapping
from datetime import datetime

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.migration import Migration
from kubeferry.api.placement import Lock, LockKind, Placement, PlacementSpec
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.store import Store
from kubeferry.core import deletion
from kubeferry.core.decision import live_reads
from kubeferry.core.domain import mac_addresses
from kubeferry.core.migration import finished, unaccounted
from kubeferry.core.observed import Host, Observed
from kubeferry.kube.client import Cluster, S
from kubeferry.kube.errors import NotFound
from kubeferry.kube.leases import LeaseWatch


class Gatherer:
    """Reads what is known of a VM."""

    def __init__(self, cluster: Cluster, store: Store, leases: LeaseWatch, clock: Callable[[], float]) -> None:
        """Read from these; `clock` is that of `leases`, in seconds."""
        self._cluster = cluster
        self._store = store
        self._leases = leases
        self._clock = clock

    async def gather(self, uid: str, now: datetime) -> Observed:
        """All that is known of the VM of that uid, for a decision at that time.

        Its Placement is read consistently, and so is a VM without one; the rest is what watching has seen.

        Raises:
            kubeferry.kube.errors.KubeError: a read failed.
        """
        placement = await self._placement(uid)
        vm = await self._vm(uid, placement)
        # After the Placement: of a Migration whose outcome is no longer in it, this read tells that it has finished.
        migrations = () if vm is None else await self._migrations(vm, placement)
        if vm is not None and placement is not None:
            migrations = await self._with_holder(placement.spec.lock, migrations)
        gone = frozenset() if vm is None or placement is None else await self._gone(placement.spec, migrations)
        live = frozenset() if placement is None else live_reads(placement.spec, migrations, now)
        # Not remembered: its own event wakes the other VMs of that host.
        read = {node: await self._get(ComputeNode, node, "") for node in sorted(live)}
        hosts = self._hosts(read)
        tasks = self._store.tasks(uid)
        deletable = await self._deletable(vm, placement)
        return Observed(
            vm=vm,
            placement=placement,
            tasks=tasks,
            hosts=hosts,
            mac_users={} if vm is None or placement is not None else self._mac_users(vm),
            migrations=migrations,
            gone=gone,
            live=live,
            deletable=deletable,
        )

    async def without_vm(self, namespace: str, name: str) -> tuple[Migration, ...]:
        """The Migrations that name a VM which is not there; none, if it is: then they are gathered with it.

        Raises:
            kubeferry.kube.errors.KubeError: a read failed.
        """
        if self._store.vm_named(namespace, name) is None and await self._get(VirtualMachine, name, namespace) is None:
            return self._store.migrations(namespace, name)
        return ()

    def _mac_users(self, vm: VirtualMachine) -> Mapping[str, str]:
        users = ((mac, self._store.mac_user(mac, vm.metadata.uid)) for mac in mac_addresses(vm).values())
        return {mac: user for mac, user in users if user is not None}

    async def _migrations(self, vm: VirtualMachine, placement: Placement | None) -> tuple[Migration, ...]:
        """Those that name the VM, the oldest first; each that has not finished, or that the Placement knows, is read live."""
        known = frozenset() if placement is None else _known(placement.spec)
        seen = self._store.migrations(vm.metadata.namespace, vm.metadata.name)
        read = [m if finished(m) and m.metadata.uid not in known else await self._newest(m) for m in seen]
        return tuple(m for m in read if m is not None)

    async def _with_holder(self, lock: Lock | None, migrations: tuple[Migration, ...]) -> tuple[Migration, ...]:
        """With the one that has the VM's lock: that watching has not seen it does not say that it is gone."""
        if lock is None or lock.kind != LockKind.MIGRATION or any(m.metadata.uid == lock.uid for m in migrations):
            return migrations
        there = await self._get(Migration, lock.name, lock.namespace)
        return migrations if there is None or there.metadata.uid != lock.uid else (there, *migrations)

    async def _gone(self, spec: PlacementSpec, migrations: tuple[Migration, ...]) -> frozenset[str]:
        """Of the Migrations that have ended with this Placement, and were not read, those that are not there any more."""
        unknown = unaccounted(spec, migrations)
        if not unknown:
            return unknown
        async for page in self._cluster.pages(Migration, namespace=spec.virtual_machine.namespace):
            unknown -= {body["metadata"]["uid"] for body in page.items}
        return unknown

    async def _newest(self, seen: Migration) -> Migration | None:
        there = await self._get(Migration, seen.metadata.name, seen.metadata.namespace)
        if there is None or there.metadata.uid != seen.metadata.uid:  # another of that name comes by its own event
            return None
        self._store.remember(there)
        return there

    async def _get(self, kind: type[S], name: str, namespace: str) -> S | None:
        try:
            return await self._cluster.get(kind, name, namespace)
        except NotFound:
            return None

    async def _deletable(self, vm: VirtualMachine | None, placement: Placement | None) -> bool:
        """Whether a VM that is to go is meant, and not its kind; asked before the first step of its deletion."""
        asked = vm is not None and vm.metadata.deletion_timestamp is not None
        return asked and placement is not None and not deletion.holds(placement.spec) and await self._cluster.kinds_stay()

    async def _placement(self, uid: str) -> Placement | None:
        return await self._get(Placement, uid, "")

    async def _vm(self, uid: str, placement: Placement | None) -> VirtualMachine | None:
        """The VM: as watching has seen it where it is placed, else read live.

        A first Placement gives a node the right to start the VM, which no late news of its deletion takes back; and nothing may
        be concluded from a gap in what watching has seen.
        """
        seen = self._store.vm(uid)
        if seen is not None and placement is not None:
            return seen
        if seen is not None:
            name, namespace = seen.metadata.name, seen.metadata.namespace
        elif placement is not None:
            name, namespace = placement.spec.virtual_machine.name, placement.spec.virtual_machine.namespace
        else:
            return None
        vm = await self._get(VirtualMachine, name, namespace)
        return vm if vm is not None and vm.metadata.uid == uid else None

    def _hosts(self, read: Mapping[str, ComputeNode | None]) -> tuple[Host, ...]:
        """As watching has seen them; those that were read as they were read, whatever their versions say: etcd may have been restored."""
        now = self._clock()
        nodes: dict[str, ComputeNode | None] = {node.metadata.name: node for node in self._store.hosts()}
        nodes.update(read)
        return tuple(
            Host(name=name, status=node.status, lease_fresh=self._leases.fresh(name, now), fence=_fence(node))
            for name, node in sorted(nodes.items())
            if node is not None and node.status is not None
        )


def _fence(node: ComputeNode) -> str | None:
    return None if node.spec.fence is None else node.spec.fence.boot_id


def _known(spec: PlacementSpec) -> frozenset[str]:
    """The uids of the one that holds the lock, and of those whose outcome is kept: that they were seen to finish may be a lost history."""
    return frozenset(entry.migration_uid for entry in spec.settled) | ({spec.lock.uid} if spec.lock is not None else frozenset())
