"""All writes of a pass, in the order that makes each safe to be the last: Placement, then tasks, then what is told to people."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Placement, Resources
from kubeferry.api.quantity import quantity
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.herald import Herald
from kubeferry.controller.store import Keys, Store
from kubeferry.core import bandwidth
from kubeferry.core.observed import CreatePlacement, NewTask, Observed, ReplacePlacement, Stranger, TellMigration, VmDecision
from kubeferry.kube.client import Cluster, owner_reference
from kubeferry.kube.errors import AlreadyExists, Conflict, NotFound, Unreadable

W = TypeVar("W", VirtualMachine, Migration)
"""What people apply: we write its status and one finalizer."""

log = structlog.get_logger(__name__)


class Executor:
    """Carries out decisions. The answer to each write is put into the Store, so that the next pass sees what was just chosen.

    What the Store learned so is no news when watching tells of it. That the VM at work has changed, its own pass knows; where an object
    is gone, or is another of its name, others may wait for it, and are woken here.
    """

    def __init__(self, cluster: Cluster, store: Store, herald: Herald, wake: Callable[[Keys], None]) -> None:
        """Write to `cluster`, remember in `store`, tell by `herald`; `wake` puts VMs into the work queue."""
        self._cluster = cluster
        self._store = store
        self._herald = herald
        self._wake = wake

    async def execute(self, observed: Observed, decision: VmDecision) -> bool | Stranger:
        """Write what was decided; whether to decide anew at once, because a write of ours or of others changed the ground.

        What stands in the way of a task is given back as soon as it is met, for core to decide what follows from it.

        Raises:
            kubeferry.kube.errors.KubeError: a write failed; those before it stand.
        """
        vm, placement = observed.vm, observed.placement
        if await self._write_first(observed, decision):
            return True
        if decision.remove_placement and placement is not None:
            await self._remove_placement(placement)
        for wanted in decision.tasks:
            if again := placement is None or await self._create_task(placement, wanted):
                return again
        for task in decision.adjusted:
            await self._adjust(task)
        for task in observed.tasks:
            if task.metadata.name in decision.forget:
                await self._forget(task)
        return await self._tell_people(vm, decision)

    async def _write_first(self, observed: Observed, decision: VmDecision) -> bool:
        """Write what everything else is decided from; whether there was any of that."""
        if decision.protect and observed.vm is not None:
            await self._protect(VirtualMachine, observed.vm)
            return True
        if decision.protect_migration is not None:
            await self._protect(Migration, decision.protect_migration)
            return True
        if decision.placement is None:
            return False
        for told in decision.migrations:
            if not await self.tell_migration(told):
                return True
        await self._write_placement(observed, decision.placement)
        return True

    async def _tell_people(self, vm: VirtualMachine | None, decision: VmDecision) -> bool:
        """Write the projections, then let go what they have told of; whether one was written by another meanwhile."""
        if vm is not None and decision.resize is not None:
            await self._resize(vm, decision.resize)
            return True
        news = vm is not None and decision.status is not None and decision.status != vm.status
        if vm is not None and news and not await self._tell(VirtualMachine, vm, decision.status):
            return True
        for told in decision.migrations:
            if not await self.tell_migration(told):
                return True
        released = [await self.release_migration(done) for done in decision.release_migrations]
        if vm is not None and decision.release:
            released.append(await self._release(VirtualMachine, vm))
            if released[-1]:
                self._herald.deleted(vm)
        return not all(released)

    async def _resize(self, vm: VirtualMachine, to: Resources) -> None:
        log.info("the VM's spec is told what was confirmed", cpu=to.cpu, memory=to.memory)
        domain = {"cpu": {"cores": to.cpu}, "memory": {"guest": quantity(to.memory)}}
        change = {"template": {"spec": {"domain": domain}}}
        await self._write(VirtualMachine, vm, self._cluster.merge_spec(VirtualMachine, vm.metadata, change))

    async def tell_migration(self, told: TellMigration) -> bool:
        """Write a Migration's status; whether it still was the one that was observed.

        Raises:
            kubeferry.kube.errors.KubeError: the write failed.
        """
        return await self._tell(Migration, told.migration, told.status)

    async def _write_placement(self, observed: Observed, action: CreatePlacement | ReplacePlacement) -> None:
        match action, observed.placement:
            case CreatePlacement(spec), _:
                meta = Meta(name=spec.virtual_machine.uid, finalizers=(FINALIZER,))
                request = self._cluster.create(Placement, meta, spec=spec)
            case ReplacePlacement(spec, version), Placement() as read:
                request = self._cluster.replace(Placement, dataclasses.replace(read.metadata, resource_version=version), spec)
            case _:
                raise AssertionError("core replaces a Placement only where it saw one")
        try:
            self._store.remember(await request)
        except (AlreadyExists, Conflict, NotFound) as other:
            log.info("placement was written by another: deciding anew", cause=str(other))
            return
        log.info("placement written", node=spec.node_name, epoch=spec.epoch, seq=spec.seq)

    async def _remove_placement(self, placement: Placement) -> None:
        """Let go of it, then delete it; after a crash in between its own event brings us back."""
        meta = placement.metadata
        try:
            if FINALIZER in meta.finalizers:
                released = dataclasses.replace(meta, finalizers=tuple(f for f in meta.finalizers if f != FINALIZER))
                meta = (await self._cluster.replace(Placement, released, placement.spec)).metadata
            await self._cluster.delete(Placement, meta)
        except (Conflict, NotFound) as other:
            log.info("placement was written by another: deciding anew", cause=str(other))
        else:
            log.info("placement removed: no host holds anything of the VM")

    async def _create_task(self, placement: Placement, wanted: NewTask) -> bool | Stranger:
        """Whether to decide anew, because the task is not there: it went while we looked at it, or another bears its name."""
        meta = Meta(name=wanted.name)
        owners = [owner_reference(Placement, placement.metadata)]
        try:
            self._store.remember(await self._cluster.create(HostTask, meta, spec=wanted.spec, owners=owners))
        except AlreadyExists:
            return await self._look_at_task(wanted)
        log.info("task created", task=wanted.name, node=wanted.spec.node, verb=wanted.spec.verb, seq=wanted.spec.seq)
        return False

    async def _look_at_task(self, wanted: NewTask) -> bool | Stranger:
        try:
            there = await self._cluster.get(HostTask, wanted.name)
        except NotFound:
            return True
        except Unreadable as error:
            log.error("task can't be read: nothing is asked of the node", task=wanted.name, error=str(error))
            return Stranger(wanted, None)
        if not bandwidth.same(there.spec, wanted.spec):
            log.error("task asks something else: nothing is asked of the node", task=wanted.name, found=there.spec, expected=wanted.spec)
            return Stranger(wanted, there.spec)
        self._store.remember(there)
        return False

    async def _adjust(self, task: HostTask) -> None:
        try:
            self._store.remember(await self._cluster.patch_spec(HostTask, task.metadata, task.spec))
        except (Conflict, NotFound) as other:  # its own event brings us back
            log.info("task was written by another", task=task.metadata.name, cause=str(other))
        else:
            log.info("task adjusted", task=task.metadata.name, verb=task.spec.verb)

    async def _forget(self, task: HostTask) -> None:
        try:
            await self._cluster.delete(HostTask, task.metadata)
        except NotFound:
            log.debug("task was gone already", task=task.metadata.name)
        self._store.drop(HostTask, ("", task.metadata.name), task.metadata.uid)

    async def release_migration(self, done: Migration) -> bool:
        """Take our finalizer off a Migration; whether it still was the one that was observed.

        Raises:
            kubeferry.kube.errors.KubeError: the write failed.
        """
        return await self._release(Migration, done)

    async def _tell(self, kind: type[W], read: W, status: object) -> bool:
        written = await self._write(kind, read, self._cluster.swap_status(kind, read.metadata, status))
        if written:
            self._herald.told(read, status)
        return written

    async def _protect(self, kind: type[W], read: W) -> bool:
        return await self._set_finalizers(kind, read, (*read.metadata.finalizers, FINALIZER))

    async def _release(self, kind: type[W], read: W) -> bool:
        return await self._set_finalizers(kind, read, tuple(f for f in read.metadata.finalizers if f != FINALIZER))

    async def _set_finalizers(self, kind: type[W], read: W, finalizers: tuple[str, ...]) -> bool:
        return await self._write(kind, read, self._cluster.patch_finalizers(kind, read.metadata, finalizers))

    async def _write(self, kind: type[W], read: W, request: Awaitable[W]) -> bool:
        """Whether the object still was the one that was observed; if not, the Store gets what is there now."""
        try:
            written = await request
        except (Conflict, NotFound) as other:
            log.info("object was written by another: deciding anew", kind=kind.__name__, cause=str(other))
            await self._read_again(kind, read)
            return False
        if written.metadata.deletion_timestamp is not None and not written.metadata.finalizers:
            self._drop(kind, read)  # that was the last finalizer: it is gone
        else:
            self._store.remember(written)
        return True

    async def _read_again(self, kind: type[W], read: W) -> None:
        try:
            there = await self._cluster.get(kind, read.metadata.name, read.metadata.namespace)
        except NotFound:
            self._drop(kind, read)
        else:
            self._wake(self._store.remember(there))

    def _drop(self, kind: type[W], read: W) -> None:
        self._wake(self._store.drop(kind, (read.metadata.namespace, read.metadata.name), read.metadata.uid))
