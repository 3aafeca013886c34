"""All writes of a pass, in the order that makes each safe to be the last: Placement, then tasks, then what is told to people."""

from collections.abc import Awaitable

import structlog

from kubeferry.api.meta import Meta
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine, VirtualMachineStatus
from kubeferry.controller.store import Store
from kubeferry.core.observed import CreatePlacement, NewTask, Observed, ReplacePlacement, Stranger, VmDecision
from kubeferry.kube.client import Cluster, owner_reference
from kubeferry.kube.errors import AlreadyExists, Conflict, NotFound, Unreadable

log = structlog.get_logger(__name__)


class Executor:
    """Carries out decisions. The answer to each write is put into the Store, so that the next pass sees what was just chosen."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store

    async def execute(self, observed: Observed, decision: VmDecision) -> bool | Stranger:
        """Write what was decided; whether to decide anew at once, because a write of ours or of others changed the ground.

        What stands in the way of a task is given back as soon as it is met, for core to decide what follows from it.

        Raises:
            kubeferry.kube.errors.KubeError: a write failed; those before it stand.
        """
        vm, placement = observed.vm, observed.placement
        if decision.protect and vm is not None:
            await self._set_finalizers(vm, (*vm.metadata.finalizers, FINALIZER))
            return True
        if decision.placement is not None:
            await self._write_placement(observed, decision.placement)
            return True
        for wanted in decision.tasks:
            if again := placement is None or await self._create_task(placement, wanted):
                return again
        for task in observed.tasks:
            if task.metadata.name in decision.forget:
                await self._forget(task)
        if vm is None:
            return False
        if decision.status is not None and decision.status != vm.status and not await self._tell(vm, decision.status):
            return True
        if decision.release:
            return not await self._set_finalizers(vm, tuple(f for f in vm.metadata.finalizers if f != FINALIZER))
        return False

    async def _write_placement(self, observed: Observed, action: CreatePlacement | ReplacePlacement) -> None:
        match action, observed.placement:
            case CreatePlacement(spec), _:
                meta = Meta(name=spec.virtual_machine.uid, finalizers=(FINALIZER,))
                request = self._cluster.create(Placement, meta, spec=spec)
            case ReplacePlacement(spec), Placement() as read:
                request = self._cluster.replace(Placement, read.metadata, spec)
            case _:
                raise AssertionError("core replaces a Placement only where it saw one")
        try:
            self._store.remember(await request)
        except (AlreadyExists, Conflict, NotFound) as other:
            log.info("placement was written by another: deciding anew", cause=str(other))
            return
        log.info("placement written", node=spec.node_name, epoch=spec.epoch, seq=spec.seq)

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
        if there.spec != wanted.spec:
            log.error("task asks something else: nothing is asked of the node", task=wanted.name, found=there.spec, expected=wanted.spec)
            return Stranger(wanted, there.spec)
        self._store.remember(there)
        return False

    async def _forget(self, task: HostTask) -> None:
        try:
            await self._cluster.delete(HostTask, task.metadata)
        except NotFound:
            log.debug("task was gone already", task=task.metadata.name)
        self._store.drop(HostTask, ("", task.metadata.name), task.metadata.uid)

    async def _tell(self, vm: VirtualMachine, status: VirtualMachineStatus) -> bool:
        return await self._write_vm(vm, self._cluster.swap_status(VirtualMachine, vm.metadata, status))

    async def _set_finalizers(self, vm: VirtualMachine, finalizers: tuple[str, ...]) -> bool:
        return await self._write_vm(vm, self._cluster.patch_finalizers(VirtualMachine, vm.metadata, finalizers))

    async def _write_vm(self, vm: VirtualMachine, request: Awaitable[VirtualMachine]) -> bool:
        """Whether the VM was still the one that was observed; if not, the Store gets what is there now."""
        try:
            written = await request
        except (Conflict, NotFound) as other:
            log.info("virtual machine was written by another: deciding anew", cause=str(other))
            await self._read_again(vm)
            return False
        if written.metadata.deletion_timestamp is not None and not written.metadata.finalizers:
            self._drop(vm)  # that was the last finalizer: it is gone
        else:
            self._store.remember(written)
        return True

    async def _read_again(self, vm: VirtualMachine) -> None:
        try:
            there = await self._cluster.get(VirtualMachine, vm.metadata.name, vm.metadata.namespace)
        except NotFound:
            self._drop(vm)
        else:
            self._store.remember(there)

    def _drop(self, vm: VirtualMachine) -> None:
        self._store.drop(VirtualMachine, (vm.metadata.namespace, vm.metadata.name), vm.metadata.uid)
