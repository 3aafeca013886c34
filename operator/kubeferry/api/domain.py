"""What a VM runs with: all that an agent needs to make its disks and to render libvirt's domain XML."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.model import Bytes, HostFile, Int, Label, Name, Uid, list_map, model
from kubeferry.api.network import INTERFACES, InterfaceModel, MacAddress, NetworkSource

SECTOR_BYTES = 512
"""A disk is made of whole ones: QEMU rounds up what is not, and then a guest sees another size than it was told."""


class Architecture(StrEnum):
    """CPU architecture of a node and its guests, as Go and Kubernetes name it."""

    AMD64 = "amd64"


class DiskFormat(StrEnum):
    """Image format of a disk. Always explicit: probing lets a guest choose which host files are read."""

    RAW = "raw"
    QCOW2 = "qcow2"


class DiskBus(StrEnum):
    """How the guest sees the disk."""

    VIRTIO = "virtio"


@model
class Cpu:
    """Virtual CPUs."""

    cores: Annotated[Int, Field(ge=1, le=512, description="Number of virtual CPUs.")] = 1


@model
class Memory:
    """Guest memory."""

    guest: Annotated[Bytes, Field(gt=0, description="Memory that the guest sees, as a quantity (512Mi).")]


@model
class KernelBoot:
    """Direct boot of a kernel that lies on the node; it is copied beside the disks at creation."""

    kernel_path: Annotated[HostFile, Field(description="Absolute path of the kernel on the node, below the agent's allow-list.")]
    initrd_path: Annotated[
        HostFile | None, Field(description="Absolute path of the initial ramdisk on the node, below the agent's allow-list.")
    ] = None
    kernel_args: Annotated[str, Field(max_length=2048, pattern=r"^[^\x00-\x1f\x7f]*$", description="The kernel's command line.")] = ""


@model
class HostPath:
    """A disk image that lies on the node; it is copied, never used in place."""

    path: Annotated[HostFile, Field(description="Absolute path of the image on the node, below the agent's allow-list.")]


@model
class Blank:
    """Zeros, of which the guest makes what it wants."""


# Bounded so that a Placement, which may hold a domain twice, each character escaped as six bytes, is no larger than etcd takes.
UserData = Annotated[
    str,
    Field(
        max_length=65536,
        description="What cloud-init does, a #cloud-config or a script, as UTF-8. No place for secrets: it is stored as it is written.",
    ),
]
NetworkData = Annotated[str | None, Field(max_length=16384, description="cloud-init's network configuration; written as UTF-8.")]


@model
class CloudInitSeed:
    """What cloud-init finds on a seed disk of its NoCloud data source."""

    local_hostname: Annotated[Name, Field(description="The guest's host name: the VM's name.")]
    user_data: UserData
    network_data: NetworkData = None


@model
class DiskSource:
    """Where a new disk's content comes from; exactly one is set."""

    host_path: Annotated[HostPath | None, Field(description="A copy of an image on the node.")] = None
    blank: Annotated[Blank | None, Field(description="Nothing.")] = None
    cloud_init_no_cloud: Annotated[
        CloudInitSeed | None, Field(description="Made of these words, as a file system that the guest only reads.")
    ] = None


@model
class DomainDisk:
    """One disk of a VM."""

    name: Annotated[Label, Field(description="The volume's name; its image is NAME.FORMAT in the instance directory.")]
    format: Annotated[DiskFormat, Field(description="Image format.")]
    capacity: Annotated[Bytes, Field(gt=0, description="Size that the guest sees, in bytes.")]
    bus: Annotated[DiskBus, Field(description="How the guest sees the disk.")] = DiskBus.VIRTIO
    boot_order: Annotated[Int | None, Field(ge=1, le=64, description="Place in the order of boot devices.")] = None
    source: Annotated[DiskSource, Field(description="Where its content came from at creation.")]

    @property
    def is_seed(self) -> bool:
        """Whether it is a seed for cloud-init, which the guest only reads."""
        return self.source.cloud_init_no_cloud is not None


@model
class DomainInterface:
    """One network card of a VM."""

    name: Annotated[Label, Field(description="The network's name.")]
    model: Annotated[InterfaceModel, Field(description="The network card that the guest sees.")] = InterfaceModel.VIRTIO
    mac: Annotated[MacAddress, Field(description="Its MAC address, stable for life.")]
    network: Annotated[NetworkSource, Field(description="What it is plugged into.")]


@model
class Domain:
    """What a VM runs with (libvirt's domain). The agent renders XML from this alone, so a move changes no hardware."""

    uuid: Annotated[Uid, Field(description="The VM's uid; the domain's uuid, stable for life.")]
    name: Annotated[
        str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9._-]+$", description="The domain's name, for people at the node.")
    ]
    architecture: Annotated[Architecture, Field(description="CPU architecture.")]
    machine_type: Annotated[
        str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$", description="Canonical machine type: pc-q35-7.2.")
    ]
    cpu_cores: Annotated[Int, Field(ge=1, le=512, description="Virtual CPUs.")]
    memory: Annotated[Bytes, Field(gt=0, description="Guest memory in bytes.")]
    kernel_boot: Annotated[
        KernelBoot | None, Field(description="Direct kernel boot; without it the BIOS boots from the disks in their order.")
    ] = None
    disks: Annotated[
        tuple[DomainDisk, ...],
        Field(min_length=1, max_length=16, description="Disks in the order the guest sees them.", json_schema_extra=list_map("name")),
    ]
    interfaces: Annotated[
        tuple[DomainInterface, ...],
        Field(
            max_length=INTERFACES,
            description="Network cards in the order the guest sees them.",
            json_schema_extra=list_map("name"),
        ),
    ] = ()

    @property
    def bridges(self) -> frozenset[str]:
        """The bridges that its interfaces are plugged into."""
        return frozenset(each.network.bridge.name for each in self.interfaces if each.network.bridge is not None)

    @property
    def libvirt_networks(self) -> frozenset[str]:
        """The networks of libvirt that its interfaces are plugged into."""
        return frozenset(each.network.libvirt.name for each in self.interfaces if each.network.libvirt is not None)
