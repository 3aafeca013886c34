"""VirtualMachine: KubeVirt's shape for the subset that kubeferry runs."""

import dataclasses
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import SECTOR_BYTES, Architecture, Blank, Cpu, DiskBus, DiskFormat, KernelBoot, Memory, NetworkData, UserData
from kubeferry.api.meta import Conditions, Meta
from kubeferry.api.migration import MigrationPhase
from kubeferry.api.model import Bytes, HostFile, Int, Label, Name, NodeSelector, Rule, immutable, label_keys, list_map, model, model_with
from kubeferry.api.network import INTERFACES, Interface, Network


class RunStrategy(StrEnum):
    """Whether the VM should run (KubeVirt's name)."""

    ALWAYS = "Always"
    HALTED = "Halted"


class PrintableStatus(StrEnum):
    """The VM's state in one word, for people; code never branches on it."""

    STOPPED = "Stopped"
    PROVISIONING = "Provisioning"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    MIGRATING = "Migrating"
    TERMINATING = "Terminating"
    UNSCHEDULABLE = "ErrorUnschedulable"
    ERROR = "Error"
    UNKNOWN = "Unknown"


@model
class Machine:
    """The emulated machine."""

    type: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9._-]+$",
            description="Machine type or its alias (q35); what runs is the canonical one, see status.machineType.",
        ),
    ] = "q35"


@model
class Firmware:
    """How the VM boots."""

    kernel_boot: Annotated[
        KernelBoot | None,
        Field(description="Direct boot of a kernel that lies on the node; without it the BIOS boots from the disks in their bootOrder."),
    ] = None


@model
class DiskTarget:
    """How the guest sees a disk."""

    bus: Annotated[DiskBus, Field(description="Bus of the disk.")] = DiskBus.VIRTIO


@model
class DiskDevice:
    """A disk of the guest, backed by the volume of the same name."""

    name: Annotated[Label, Field(description="Name of a volume.")]
    boot_order: Annotated[
        Int | None, Field(ge=1, le=64, description="Place in the order of boot devices; if no disk has one, the first boots.")
    ] = None
    disk: Annotated[DiskTarget, Field(description="How the guest sees it.", json_schema_extra={"default": {}})] = dataclasses.field(
        default_factory=DiskTarget
    )


@model_with(
    Rule(
        "!has(self.interfaces) || self.interfaces.all(i, !has(i.macAddress) || "
        "self.interfaces.exists_one(o, has(o.macAddress) && o.macAddress == i.macAddress))",
        message="two interfaces have the same macAddress: give each one of its own, or none",
        path=".interfaces",
    )
)
class Devices:
    """Devices of the guest."""

    disks: Annotated[
        tuple[DiskDevice, ...],
        Field(
            min_length=1,
            max_length=16,
            description="Disks in the order the guest sees them.",
            json_schema_extra=list_map("name"),
        ),
    ]
    interfaces: Annotated[
        tuple[Interface, ...],
        Field(
            max_length=INTERFACES,
            description="Network cards in the order the guest sees them.",
            json_schema_extra=list_map("name"),
        ),
    ] = ()


@model_with(*immutable("machine", "firmware", "devices"))
class DomainTemplate:
    """The machine as the guest sees it."""

    cpu: Annotated[Cpu, Field(description="Virtual CPUs.", json_schema_extra={"default": {}})] = dataclasses.field(default_factory=Cpu)
    memory: Annotated[Memory, Field(description="Guest memory.")]
    machine: Annotated[Machine, Field(description="Emulated machine.", json_schema_extra={"default": {}})] = dataclasses.field(
        default_factory=Machine
    )
    firmware: Annotated[Firmware, Field(description="How it boots.", json_schema_extra={"default": {}})] = dataclasses.field(
        default_factory=Firmware
    )
    devices: Annotated[Devices, Field(description="Devices.")]


@model
class HostPathSource:
    """An image on one node; it is copied, and pins the first placement to that node."""

    node: Annotated[Name, Field(description="The node where the image lies.")]
    path: Annotated[HostFile, Field(description="Absolute path of the image, below the agent's allow-list.")]


@model_with(Rule("has(self.hostPath) != has(self.blank)", message="a localDisk has exactly one source: hostPath or blank"))
class VolumeSource:
    """Where a new disk's content comes from; exactly one is set."""

    host_path: Annotated[HostPathSource | None, Field(description="A copy of an image on a node.")] = None
    blank: Annotated[Blank | None, Field(description="Nothing: the guest sees zeros.")] = None


@model_with(
    Rule(
        f"quantity(string(self.capacity)).asInteger() % {SECTOR_BYTES} == 0",
        message=f"capacity must be a multiple of {SECTOR_BYTES} bytes, a disk's sector: 100Mi, say, and not 100M",
        path=".capacity",
    )
)
class LocalDisk:
    """A disk that lives on the node where the VM runs, and nowhere else."""

    capacity: Annotated[Bytes, Field(gt=0, description="Size that the guest sees, as a quantity (10Gi).")]
    format: Annotated[DiskFormat, Field(description="Image format on the node and of the source.")]
    source: Annotated[VolumeSource, Field(description="Where its first content comes from.")]


@model
class CloudInitNoCloud:
    """A seed disk for cloud-init's NoCloud data source: its instance-id is the VM's uid, its local-hostname the VM's name."""

    user_data: UserData
    network_data: NetworkData = None


@model_with(Rule("has(self.localDisk) != has(self.cloudInitNoCloud)", message="a volume is exactly one of localDisk and cloudInitNoCloud"))
class Volume:
    """A volume that a disk names; exactly one of the kinds is set."""

    name: Annotated[Label, Field(description="The volume's name.")]
    local_disk: Annotated[LocalDisk | None, Field(description="A node-local disk.")] = None
    cloud_init_no_cloud: Annotated[
        CloudInitNoCloud | None, Field(description="A small read-only disk that tells cloud-init what to do, made with the VM.")
    ] = None


_DISKS, _VOLUMES = "self.domain.devices.disks", "self.volumes"
_INTERFACES, _NETWORKS = "self.domain.devices.interfaces", "self.networks"
_SOURCES = f"{_VOLUMES}.filter(v, has(v.localDisk) && has(v.localDisk.source.hostPath)).map(v, v.localDisk.source.hostPath.node)"


@model_with(
    *immutable("architecture", "networks", "volumes"),
    label_keys("nodeSelector"),
    Rule(
        f"{_DISKS}.size() == {_VOLUMES}.size() && {_DISKS}.all(d, {_VOLUMES}.exists(v, v.name == d.name))",
        message="domain.devices.disks and volumes must name each other: each disk needs one volume of its name, and each volume a disk",
        path=".volumes",
    ),
    Rule(
        f"[{_SOURCES}].all(nodes, nodes.all(node, node == nodes[0]))",
        message="the volumes' hostPath sources name several nodes: all must lie on one, where the VM is made",
        path=".volumes",
    ),
    Rule(
        f"(has({_INTERFACES}) ? {_INTERFACES}.size() : 0) == (has({_NETWORKS}) ? {_NETWORKS}.size() : 0) && "
        f"(!has({_INTERFACES}) || !has({_NETWORKS}) || {_INTERFACES}.all(i, {_NETWORKS}.exists(n, n.name == i.name)))",
        message="domain.devices.interfaces and networks must name each other: each interface needs one network of its name, "
        "and each network an interface",
        path=".networks",
    ),
    Rule(
        f"{_VOLUMES}.filter(v, has(v.cloudInitNoCloud)).size() <= 1",
        message="several volumes are cloudInitNoCloud: cloud-init reads one alone",
        path=".volumes",
    ),
    Rule(
        f"{_DISKS}.filter(d, has(d.bootOrder)).map(d, d.bootOrder).all(order, "
        f"{_DISKS}.filter(d, has(d.bootOrder)).map(d, d.bootOrder).exists_one(other, other == order))",
        message="several disks have the same bootOrder: give each a place of its own",
        path=".domain.devices.disks",
    ),
)
class VirtualMachineTemplateSpec:
    """What the VM is made of."""

    architecture: Annotated[Architecture, Field(description="CPU architecture of the guest.")] = Architecture.AMD64
    node_selector: Annotated[
        NodeSelector, Field(description="Labels that a node must have; asked when a node is chosen, at the next move if it changes.")
    ] = dataclasses.field(default_factory=dict)
    termination_grace_period_seconds: Annotated[
        Int, Field(ge=0, le=3600, description="Seconds that the guest gets to shut down, before force.")
    ] = 60
    domain: Annotated[DomainTemplate, Field(description="The machine as the guest sees it.")]
    networks: Annotated[
        tuple[Network, ...],
        Field(max_length=INTERFACES, description="Networks that the interfaces name.", json_schema_extra=list_map("name")),
    ] = ()
    volumes: Annotated[
        tuple[Volume, ...],
        Field(
            min_length=1,
            max_length=16,
            description="Volumes that the disks name.",
            json_schema_extra=list_map("name"),
        ),
    ]


@model
class VirtualMachineTemplate:
    """Template of what runs (KubeVirt's shape)."""

    spec: Annotated[VirtualMachineTemplateSpec, Field(description="What the VM is made of.")]


@model
class VirtualMachineSpec:
    """The VM that is wanted."""

    run_strategy: Annotated[RunStrategy, Field(description="Always: the VM is kept running. Halted: it is stopped, and stays so.")] = (
        RunStrategy.ALWAYS
    )
    template: Annotated[VirtualMachineTemplate, Field(description="What runs.")]


@model
class VolumeStatus:
    """A disk as it lies on the node."""

    name: Annotated[Label, Field(description="The volume's name.")]
    capacity: Annotated[Bytes, Field(description="Size that the guest sees, in bytes.")]
    allocated: Annotated[Bytes | None, Field(description="Bytes that it occupied on the node when last told.")] = None


@model
class MigrationInProgress:
    """The Migration that holds the VM."""

    name: Annotated[Name, Field(description="Its name.")]
    phase: Annotated[MigrationPhase, Field(description="How far it is.")]


@model
class VirtualMachineStatus:
    """What is known of the VM: a projection of its Placement, for people."""

    printable_status: Annotated[PrintableStatus, Field(description="The state in one word.")]
    ready: Annotated[bool, Field(description="Whether the VM was seen running.")] = False
    node_name: Annotated[str | None, Field(max_length=253, description="The node where the VM lives.")] = None
    domain_uuid: Annotated[str | None, Field(alias="domainUUID", max_length=64, description="Uuid of the libvirt domain.")] = None
    machine_type: Annotated[str | None, Field(max_length=64, description="Canonical machine type that runs.")] = None
    migration: Annotated[MigrationInProgress | None, Field(description="The Migration that holds the VM.")] = None
    observed_generation: Annotated[Int, Field(ge=0, description="The metadata.generation that this status tells of.")] = 0
    conditions: Conditions = ()
    volumes: Annotated[
        tuple[VolumeStatus, ...],
        Field(
            max_length=16,
            description="The disks as they lie on the node.",
            json_schema_extra=list_map("name"),
        ),
    ] = ()


@model
class VirtualMachine:
    """A virtual machine with node-local disks."""

    metadata: Meta
    spec: VirtualMachineSpec
    status: VirtualMachineStatus | None = None
