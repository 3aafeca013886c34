"""Projections: what people are told of a Placement. Nothing here is read back, but whether a VM had a node."""

from collections.abc import Sequence
from datetime import datetime

from kubeferry.api import reasons
from kubeferry.api.computenode import InventoryItem
from kubeferry.api.meta import Condition, Status
from kubeferry.api.placement import PlacementSpec, StepState
from kubeferry.api.quantity import quantity
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import Verb
from kubeferry.api.virtualmachine import MigrationInProgress, PrintableStatus, VirtualMachine, VirtualMachineStatus, VolumeStatus
from kubeferry.core import deletion, ledger, project_migration, resize
from kubeferry.core.observed import Host
from kubeferry.core.told import QUIET, Told, tell
from kubeferry.core.trouble import Trouble


def _conditions(vm: VirtualMachine, told: dict[str, Told], now: datetime) -> tuple[Condition, ...]:
    return tell(vm.status.conditions if vm.status is not None else (), told, vm.metadata.generation, now)


def unplaced(vm: VirtualMachine, reason: str, message: str, now: datetime) -> VirtualMachineStatus:
    """The status of a VM that has no node yet; nothing of it exists on any host."""
    lasting = reason in (reasons.INVALID_SPEC, reasons.MACHINE_TYPE_UNAVAILABLE)
    told = {
        reasons.SCHEDULED: Told(Status.FALSE, reason, message),
        reasons.VOLUMES_READY: Told(Status.FALSE, reason, "no node yet"),
        reasons.READY: Told(Status.FALSE, reason, "no node yet"),
        reasons.NEEDS_ATTENTION: Told(Status.TRUE, reason, message) if lasting else QUIET,
    }
    return VirtualMachineStatus(
        printable_status=PrintableStatus.ERROR if lasting else PrintableStatus.UNSCHEDULABLE,
        observed_generation=vm.metadata.generation,
        conditions=_conditions(vm, told, now),
    )


def placement_lost(vm: VirtualMachine, held: Sequence[str], now: datetime) -> VirtualMachineStatus:
    """The status of a VM that was placed once, and whose Placement is gone: what a human needs to know, and nothing is touched."""
    node = vm.status.node_name if vm.status is not None else None
    message = (
        f"the Placement {vm.metadata.uid} is gone; the VM was last known on {node or 'no node'}; hosts that hold a copy: "
        f"{', '.join(held) or 'none that answers'}. Nothing is started, moved or deleted until a human restores it"
    )
    unknown = Told(Status.UNKNOWN, reasons.PLACEMENT_LOST, message)
    told = {
        reasons.SCHEDULED: unknown,
        reasons.VOLUMES_READY: unknown,
        reasons.READY: unknown,
        reasons.NEEDS_ATTENTION: Told(Status.TRUE, reasons.PLACEMENT_LOST, message),
    }
    return VirtualMachineStatus(
        printable_status=PrintableStatus.UNKNOWN,
        node_name=node,
        domain_uuid=vm.metadata.uid,
        machine_type=vm.status.machine_type if vm.status is not None else None,
        observed_generation=vm.metadata.generation,
        conditions=_conditions(vm, told, now),
        volumes=vm.status.volumes if vm.status is not None else (),
    )


def placed(
    vm: VirtualMachine, spec: PlacementSpec, host: Host | None, trouble: Trouble | None, now: datetime
) -> VirtualMachineStatus | None:
    """The status of a VM that has a node; None while it is not known yet whether that node lives."""
    if host is not None and host.lease_fresh is None:
        return None
    ready = _ready(spec, host)
    told = {
        reasons.SCHEDULED: Told(Status.TRUE, reasons.PLACED, f"on {_node(vm, spec)}"),
        reasons.VOLUMES_READY: Told(Status.TRUE, reasons.CREATED, "its disks are whole on its node")
        if ledger.created(spec)
        else _progress(spec, Verb.CREATE, reasons.CREATING),
        reasons.READY: ready,
        reasons.SPEC_IN_SYNC: _in_sync(vm, spec),
        reasons.RESTART_REQUIRED: _restart(vm, spec),
        reasons.NEEDS_ATTENTION: _attention(vm, spec, trouble),
    }
    return VirtualMachineStatus(
        printable_status=_printable(vm, ready, spec),
        ready=ready.status == Status.TRUE,
        node_name=_node(vm, spec),
        domain_uuid=spec.domain.uuid,
        machine_type=spec.domain.machine_type,
        observed_generation=vm.metadata.generation,
        conditions=_conditions(vm, told, now),
        migration=_migration(spec),
        volumes=_volumes(vm, spec),
    )


def _in_sync(vm: VirtualMachine, spec: PlacementSpec) -> Told:
    waits = spec.spec_pending
    if waits is None or resize.to_tell(spec, vm) is not None:
        return Told(Status.TRUE, reasons.AS_EXPECTED, "the spec says what was confirmed")
    message = (
        f"a resize to {waits.cpu} CPUs and {quantity(waits.memory)} was confirmed, and runs; somebody had changed domain.cpu or "
        f"domain.memory of the spec meanwhile, which is not written over: set both to what runs, then change them as you like"
    )
    return Told(Status.FALSE, reasons.CHANGED_MEANWHILE, message)


def _restart(vm: VirtualMachine, spec: PlacementSpec) -> Told:
    asked, runs = resize.of_spec(vm), resize.of_domain(spec.domain)
    if not spec.running or resize.to_be_run(spec, vm) == spec.domain:
        return Told(Status.FALSE, reasons.AS_EXPECTED, "it runs with what its spec says, or is started with that")
    message = (
        f"the spec asks for {asked.cpu} CPUs and {quantity(asked.memory)}, the VM has {runs.cpu} and {quantity(runs.memory)}: "
        f"set runStrategy to Halted, then to Always"
    )
    return Told(Status.TRUE, reasons.SPEC_CHANGED, message)


def _node(vm: VirtualMachine, spec: PlacementSpec) -> str | None:
    """The node where the VM lives, as people see it: while no node may start it, the one that it goes back to, or was on."""
    told = None if vm.status is None else vm.status.node_name
    return spec.node_name or (spec.move.source if spec.move is not None else told)


def _migration(spec: PlacementSpec) -> MigrationInProgress | None:
    if spec.move is None or spec.lock is None:
        return None
    return MigrationInProgress(name=spec.lock.name, phase=project_migration.phase(spec))


def _volumes(vm: VirtualMachine, spec: PlacementSpec) -> tuple[VolumeStatus, ...]:
    """The disks with what they occupied when a host told last: the ledger forgets what is of an older epoch."""
    told = {volume.name: volume.allocated for volume in vm.status.volumes} if vm.status is not None else {}
    for step in sorted(spec.steps, key=lambda s: s.seq):
        told |= {disk.name: disk.allocated for disk in step.result.disks} if step.result is not None else {}
    return tuple(VolumeStatus(name=d.name, capacity=d.capacity, allocated=told.get(d.name)) for d in spec.domain.disks)


def _progress(spec: PlacementSpec, verb: Verb, doing: str) -> Told:
    failed = ledger.failed(spec, verb)
    if failed is not None and failed.error is not None:
        return Told(Status.FALSE, failed.error.reason, failed.error.message)
    return Told(Status.FALSE, doing, f"{verb} is asked of {spec.node_name}")


def _ready(spec: PlacementSpec, host: Host | None) -> Told:
    if deletion.holds(spec):
        return Told(Status.FALSE, reasons.DELETING, f"copies are left on {', '.join(copy.node for copy in spec.copies) or 'no node'}")
    if spec.node_name == "" and spec.move is not None:
        return Told(Status.FALSE, reasons.MIGRATING, f"on its way back to {spec.move.source}")
    if host is None or not host.lease_fresh:
        return Told(Status.UNKNOWN, reasons.NODE_SILENT, f"the agent of {spec.node_name} does not renew its Lease; the VM may run or not")
    if host.status.host_id != spec.host_id:
        return Told(
            Status.UNKNOWN,
            reasons.HOST_REPLACED,
            f"{spec.node_name} is host {host.status.host_id} now; the disks lie on host {spec.host_id}",
        )
    return _seen(spec, host.copy_of(spec.virtual_machine.uid))


def _seen(spec: PlacementSpec, copy: InventoryItem | None) -> Told:
    """Whether it runs, as the host that may start it tells of its copy."""
    if copy is not None and copy.role == Role.ACTIVE and copy.state == RunState.RUNNING:
        return Told(Status.TRUE, reasons.RUNNING, f"on {spec.node_name}")
    if copy is not None and copy.state == RunState.UNKNOWN:
        return Told(Status.UNKNOWN, reasons.HYPERVISOR_UNREACHABLE, f"the hypervisor of {spec.node_name} does not answer")
    if not spec.running and ledger.created(spec):
        if copy is None:
            return _untold(spec)
        return Told(Status.FALSE, reasons.HALTED, f"stopped on {spec.node_name}, as its run strategy wants")
    if spec.move is not None:
        return Told(Status.FALSE, reasons.MIGRATING, f"off for its move from {spec.move.source} to {spec.move.target}")
    start = ledger.last(spec, Verb.START)
    if spec.epoch > 1 or (start is not None and start.state == StepState.SUCCEEDED):
        if copy is None:
            return _untold(spec)
        return Told(Status.FALSE, reasons.STOPPED, f"not running on {spec.node_name}; its agent starts it through the start gate")
    return _progress(spec, Verb.START, reasons.STARTING if start is not None else reasons.CREATING)


def _untold(spec: PlacementSpec) -> Told:
    message = f"{spec.node_name} does not tell of its copy: see `kubectl get computenode {spec.node_name} -o yaml`"
    return Told(Status.UNKNOWN, reasons.COPY_UNTOLD, message)


def _attention(vm: VirtualMachine, spec: PlacementSpec, trouble: Trouble | None) -> Told:
    if trouble is not None and trouble.reason == reasons.HISTORY_DIVERGED:
        return Told(Status.TRUE, trouble.reason, trouble.message)
    if vm.metadata.deletion_timestamp is not None and not deletion.holds(spec):
        return Told(
            Status.TRUE,
            reasons.CRD_TERMINATING,
            f"a kind of kubeferry's is being removed (see `kubectl get crds`), and maybe the VM was deleted by that alone: nothing is "
            f"discarded, its disks stay at {_node(vm, spec)}, and if it runs it runs on",
        )
    if trouble is not None:
        return Told(Status.TRUE, trouble.reason, trouble.message)
    failed = ledger.failed(spec, *Verb)
    if failed is not None and failed.error is not None and not failed.error.retryable:
        return Told(Status.TRUE, failed.error.reason, f"{failed.verb} on {failed.node}: {failed.error.message}")
    return QUIET


def _printable(vm: VirtualMachine, ready: Told, spec: PlacementSpec) -> PrintableStatus:
    if vm.metadata.deletion_timestamp is not None:
        return PrintableStatus.TERMINATING
    if ready.status == Status.UNKNOWN:
        return PrintableStatus.UNKNOWN
    if ready.status == Status.TRUE:
        return PrintableStatus.RUNNING if spec.running else PrintableStatus.STOPPING
    if ready.reason == reasons.MIGRATING:
        return PrintableStatus.MIGRATING
    if ready.reason == reasons.HALTED:
        return PrintableStatus.STOPPED
    if ledger.failed(spec, Verb.CREATE, Verb.START) is not None:
        return PrintableStatus.ERROR
    started = spec.epoch > 1 or ledger.last(spec, Verb.START) is not None
    return PrintableStatus.STARTING if started else PrintableStatus.PROVISIONING
