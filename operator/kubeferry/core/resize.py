"""CPU and memory of a VM: what a Migration changes, and how VirtualMachine.spec comes to say what runs (Nova's resize)."""

import dataclasses

from kubeferry.api.domain import Domain
from kubeferry.api.migration import Migration
from kubeferry.api.placement import PlacementSpec, Resources, SpecPending
from kubeferry.api.virtualmachine import VirtualMachine


def of_spec(vm: VirtualMachine) -> Resources:
    """What VirtualMachine.spec says."""
    domain = vm.spec.template.spec.domain
    return Resources(cpu=domain.cpu.cores, memory=domain.memory.guest)


def of_domain(domain: Domain) -> Resources:
    """What a domain runs with."""
    return Resources(cpu=domain.cpu_cores, memory=domain.memory)


def sized(domain: Domain, resources: Resources) -> Domain:
    """The domain with other resources, and the same in all else."""
    return dataclasses.replace(domain, cpu_cores=resources.cpu, memory=resources.memory)


def wished(spec: PlacementSpec, vm: VirtualMachine, migration: Migration) -> Domain:
    """What the VM is to run with at the target of a Migration; a resize is a restart, so what it does not name is as the owner says."""
    resize = migration.spec.resize
    if resize is None:
        return spec.domain
    domain = to_be_run(spec, vm)
    cpu = domain.cpu_cores if resize.cpu is None else resize.cpu.cores
    return sized(domain, Resources(cpu=cpu, memory=domain.memory if resize.memory is None else resize.memory.guest))


def to_be_run(spec: PlacementSpec, vm: VirtualMachine) -> Domain:
    """What a VM that is stopped is to be started with: as its owner says by now, unless a confirmed resize is not told there yet."""
    return spec.domain if spec.spec_pending is not None else sized(spec.domain, of_spec(vm))


def pending(domain: Domain, was: Resources) -> SpecPending:
    """What is to be told after the Confirm of a resize.

    Args:
        domain: that runs at the target.
        was: what VirtualMachine.spec said when the lock was taken.
    """
    now = of_domain(domain)
    return SpecPending(cpu=now.cpu, memory=now.memory, was=was)


def told(spec: PlacementSpec, vm: VirtualMachine | None) -> PlacementSpec:
    """The Placement without a resize that VirtualMachine.spec tells by now, whoever wrote it there."""
    waits = spec.spec_pending
    if waits is None or vm is None:
        return spec
    now, to = of_spec(vm), Resources(cpu=waits.cpu, memory=waits.memory)
    # What the resize did not change is its owner's to change, as ever.
    cpu = now.cpu == to.cpu or waits.was.cpu == to.cpu
    memory = now.memory == to.memory or waits.was.memory == to.memory
    return dataclasses.replace(spec, spec_pending=None) if cpu and memory else spec


def to_tell(spec: PlacementSpec, vm: VirtualMachine) -> Resources | None:
    """What VirtualMachine.spec is to say: what was confirmed, where it still says what it did before; None: nothing new."""
    waits, now = spec.spec_pending, of_spec(vm)
    if waits is None:
        return None
    cpu = waits.cpu if now.cpu == waits.was.cpu else now.cpu
    to = Resources(cpu=cpu, memory=waits.memory if now.memory == waits.was.memory else now.memory)
    return None if to == now else to
