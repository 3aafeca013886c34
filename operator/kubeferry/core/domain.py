"""From a VirtualMachine to the Domain that runs."""

from collections.abc import Mapping
from hashlib import sha256

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNodeStatus
from kubeferry.api.domain import SECTOR_BYTES, CloudInitSeed, DiskFormat, DiskSource, Domain, DomainDisk, DomainInterface, HostPath
from kubeferry.api.network import Interface, NetworkSource
from kubeferry.api.virtualmachine import DiskDevice, VirtualMachine, Volume

SEED_BYTES = 1 << 20
"""Capacity of every seed disk: room for the longest of what the API takes."""


class SpecError(Exception):
    """A VM that can't be placed as it is written; nothing was touched.

    Attributes:
        reason: one of `api.reasons`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def source_nodes(vm: VirtualMachine) -> set[str]:
    """The nodes where the VM's hostPath sources lie."""
    disks = (volume.local_disk for volume in vm.spec.template.spec.volumes)
    return {disk.source.host_path.node for disk in disks if disk is not None and disk.source.host_path is not None}


def pinned_node(vm: VirtualMachine) -> str | None:
    """The node that the VM's hostPath sources pin its first placement to; None: it has none.

    Raises:
        SpecError: they name several nodes.
    """
    nodes = sorted(source_nodes(vm))
    if len(nodes) > 1:
        raise SpecError(reasons.INVALID_SPEC, f"the volumes' hostPath sources name the nodes {', '.join(nodes)}: all must lie on one node")
    return nodes[0] if nodes else None


def render(vm: VirtualMachine, node: ComputeNodeStatus) -> Domain:
    """What the VM runs with on a node like that one; the machine type becomes canonical here, and stays.

    Raises:
        SpecError: disks and volumes, or interfaces and networks, do not name each other; a volume is not of one kind or source; the node
            does not offer the machine type.
    """
    template = vm.spec.template.spec
    volumes = {volume.name: volume for volume in template.volumes}
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
        disks=tuple(_disk(disk, volumes[disk.name], vm.metadata.name) for disk in template.domain.devices.disks),
        interfaces=_interfaces(vm),
    )


def mac_addresses(vm: VirtualMachine) -> Mapping[str, str]:
    """The MAC address of each interface, by its name: the one that its owner wrote, else one that is made, the same at each call."""
    return {interface.name: _mac_address(vm.metadata.uid, interface) for interface in vm.spec.template.spec.domain.devices.interfaces}


def require_free_addresses(domain: Domain, users: Mapping[str, str]) -> None:
    """Refuse a MAC address that another VM has: two in one network would take each other's packets.

    Args:
        domain: what the new VM runs with.
        users: NAMESPACE/NAME of the VM that has an address, by address.

    Raises:
        SpecError: `MACAddressInUse`.
    """
    for interface in domain.interfaces:
        if (user := users.get(interface.mac)) is not None:
            raise SpecError(
                reasons.MAC_ADDRESS_IN_USE,
                f"interface {interface.name} has the MAC address {interface.mac}, which VM {user} has already: "
                "make this VM anew with another one, or with none, and one is made",
            )


def _interfaces(vm: VirtualMachine) -> tuple[DomainInterface, ...]:
    template = vm.spec.template.spec
    networks = {network.name: network for network in template.networks}
    interfaces = template.domain.devices.interfaces
    names = [interface.name for interface in interfaces]
    if sorted(names) != sorted(networks) or len(networks) != len(template.networks):
        raise SpecError(
            reasons.INVALID_SPEC,
            f"domain.devices.interfaces names {', '.join(names) or 'none'}, networks has {', '.join(networks) or 'none'}: "
            "each interface needs exactly one network of its name, and each network an interface",
        )
    addresses = mac_addresses(vm)
    return tuple(
        DomainInterface(
            name=interface.name,
            model=interface.model,
            mac=addresses[interface.name],
            network=NetworkSource(bridge=network.bridge, libvirt=network.libvirt, user=network.user),
        )
        for interface in interfaces
        for network in (networks[interface.name],)
    )


def _mac_address(uid: str, interface: Interface) -> str:
    if interface.mac_address is not None:
        return interface.mac_address
    made = sha256(f"{uid}/{interface.name}".encode()).digest()[:5]
    return (b"\x02" + made).hex(":")  # 02: of one card, locally administered (IEEE 802)


def _disk(device: DiskDevice, volume: Volume, hostname: str) -> DomainDisk:
    format_, capacity, source = _content(volume, hostname)
    return DomainDisk(name=device.name, format=format_, capacity=capacity, bus=device.disk.bus, boot_order=device.boot_order, source=source)


def _content(volume: Volume, hostname: str) -> tuple[DiskFormat, int, DiskSource]:
    """Format, capacity and source of a volume's disk."""
    local, seed = volume.local_disk, volume.cloud_init_no_cloud
    if seed is not None and local is None:
        made = CloudInitSeed(local_hostname=hostname, user_data=seed.user_data, network_data=seed.network_data)
        return DiskFormat.RAW, SEED_BYTES, DiskSource(cloud_init_no_cloud=made)
    if local is None or seed is not None:
        raise SpecError(reasons.INVALID_SPEC, f"volume {volume.name} must be exactly one of localDisk and cloudInitNoCloud")
    if local.capacity % SECTOR_BYTES:
        raise SpecError(reasons.INVALID_SPEC, f"volume {volume.name}: its capacity of {local.capacity} is no multiple of {SECTOR_BYTES}")
    path, blank = local.source.host_path, local.source.blank
    if (path is None) == (blank is None):
        raise SpecError(reasons.INVALID_SPEC, f"volume {volume.name} must have exactly one source: hostPath or blank")
    return local.format, local.capacity, DiskSource(host_path=None if path is None else HostPath(path=path.path), blank=blank)


def _canonical(machine_type: str, node: ComputeNodeStatus) -> str:
    offered = next((m for m in node.machine_types if m.name == machine_type), None)
    if offered is None:
        names = ", ".join(m.name for m in node.machine_types[:8])
        raise SpecError(
            reasons.MACHINE_TYPE_UNAVAILABLE,
            f"the node does not offer machine type {machine_type}; it offers {names or 'none'} and maybe more",
        )
    return offered.canonical or offered.name
