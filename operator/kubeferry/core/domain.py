"""From a VirtualMachine to the Domain that runs."""

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNodeStatus
from kubeferry.api.domain import DiskSource, Domain, DomainDisk, HostPath
from kubeferry.api.virtualmachine import VirtualMachine


class SpecError(Exception):
    """A VM that can't be placed as it is written; nothing was touched.

    Attributes:
        reason: one of `api.reasons`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def pinned_node(vm: VirtualMachine) -> str:
    """The node that the VM's hostPath sources pin its first placement to.

    Raises:
        SpecError: they name several nodes.
    """
    nodes = sorted({volume.local_disk.source.host_path.node for volume in vm.spec.template.spec.volumes})
    if len(nodes) > 1:
        raise SpecError(reasons.INVALID_SPEC, f"the volumes' hostPath sources name the nodes {', '.join(nodes)}: all must lie on one node")
    return nodes[0]


def render(vm: VirtualMachine, node: ComputeNodeStatus) -> Domain:
    """What the VM runs with on a node like that one; the machine type becomes canonical here, and stays.

    Raises:
        SpecError: disks and volumes do not name each other, or the node does not offer the machine type.
    """
    template = vm.spec.template.spec
    volumes = {volume.name: volume.local_disk for volume in template.volumes}
    names = [disk.name for disk in template.domain.devices.disks]
    if sorted(names) != sorted(volumes) or len(volumes) != len(template.volumes):
        raise SpecError(
            reasons.INVALID_SPEC,
            f"domain.devices.disks names {', '.join(sorted(names))}, volumes has {', '.join(v.name for v in template.volumes)}: "
            "each disk needs exactly one volume of its name, and each volume a disk",
        )
    return Domain(
        uuid=vm.metadata.uid,
        name=f"{vm.metadata.namespace}_{vm.metadata.name}"[:200] + f"_{vm.metadata.uid[:8]}",
        architecture=template.architecture,
        machine_type=_canonical(template.domain.machine.type, node),
        cpu_cores=template.domain.cpu.cores,
        memory=template.domain.memory.guest,
        kernel_boot=template.domain.firmware.kernel_boot,
        disks=tuple(
            DomainDisk(
                name=disk.name,
                format=volumes[disk.name].format,
                capacity=volumes[disk.name].capacity,
                bus=disk.disk.bus,
                boot_order=disk.boot_order,
                source=DiskSource(host_path=HostPath(path=volumes[disk.name].source.host_path.path)),
            )
            for disk in template.domain.devices.disks
        ),
    )


def _canonical(machine_type: str, node: ComputeNodeStatus) -> str:
    offered = next((m for m in node.machine_types if m.name == machine_type), None)
    if offered is None:
        names = ", ".join(m.name for m in node.machine_types[:8])
        raise SpecError(
            reasons.MACHINE_TYPE_UNAVAILABLE,
            f"the node does not offer machine type {machine_type}; it offers {names or 'none'} and maybe more",
        )
    return offered.canonical or offered.name
