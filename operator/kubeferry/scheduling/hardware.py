"""The filters that look at what a node is and is plugged into: whatever the VM finds here, it must find there."""

from kubeferry.api import reasons
from kubeferry.scheduling.filters import Reject
from kubeferry.scheduling.snapshot import Candidate, Request


class Architecture:
    """The node's CPUs run the VM's code (Nova's ImagePropertiesFilter, hw_architecture)."""

    name = "Architecture"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node of another CPU architecture, or whose agent does not tell it."""
        if candidate.architecture == request.architecture:
            return None
        seen = candidate.architecture or "not told"
        return Reject(reasons.ARCHITECTURE_MISMATCH, f"its CPU architecture is {seen}, {request.architecture} is needed")


class MachineType:
    """The VM finds the same hardware (Nova's ImagePropertiesFilter, hw_machine_type)."""

    name = "MachineType"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node whose hypervisor does not offer the VM's machine type."""
        if request.machine_type in candidate.machine_types:
            return None
        return Reject(reasons.MACHINE_TYPE_UNAVAILABLE, f"its QEMU does not offer the machine type {request.machine_type}")


class Network:
    """The node is plugged into the VM's networks (in Nova, port binding fails late)."""

    name = "Network"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node that lacks a bridge, or an active network of libvirt, that the VM is plugged into."""
        lacking = [f"no bridge {name} for VMs" for name in sorted(request.bridges - candidate.bridges)]
        lacking += [f"no active libvirt network {name}" for name in sorted(request.networks - candidate.networks)]
        return Reject(reasons.NETWORK_UNAVAILABLE, f"it has {', '.join(lacking)}") if lacking else None
