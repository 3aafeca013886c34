"""ComputeNode: a hypervisor as its agent tells it (Nova's compute_nodes)."""

import dataclasses
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import Architecture
from kubeferry.api.meta import Conditions, Meta
from kubeferry.api.model import Bytes, Int, Uid, list_map, model
from kubeferry.api.network import BridgeName
from kubeferry.api.role import Role, RunState

INVENTORY_LENGTH = 1024
"""Copies that a ComputeNode can list."""
NETWORKS_TOLD = 256
"""Bridges, and networks of libvirt, that a ComputeNode can list."""

PublicKey = Annotated[str, Field(max_length=128, pattern=r"^ssh-ed25519 [A-Za-z0-9+/=]+$")]
"""An ed25519 public key as OpenSSH writes it, without a comment: `ssh-ed25519 AAAA...`."""


@model
class Hypervisor:
    """The hypervisor of a node."""

    type: Annotated[str, Field(max_length=32, description="Domain type: kvm or qemu.")]
    version: Annotated[str, Field(max_length=64, description="Version of QEMU.")]


@model
class MachineType:
    """A machine type that the hypervisor offers."""

    name: Annotated[str, Field(max_length=64, description="Its name.")]
    canonical: Annotated[str | None, Field(max_length=64, description="What the name stands for, if it is an alias.")] = None


@model
class NodeCpu:
    """The node's processors."""

    count: Annotated[Int, Field(ge=1, description="Number of logical CPUs.")]
    model: Annotated[str, Field(max_length=128, description="Model, as libvirt tells it.")]


@model
class InstancesPath:
    """The file system that holds the disks."""

    path: Annotated[str, Field(max_length=1024, description="Where the instances lie.")]
    total: Annotated[Bytes, Field(description="Bytes in all.")]
    free: Annotated[Bytes, Field(description="Bytes free, the trash included: it gives way to whatever comes.")]
    filesystem_id: Annotated[str, Field(max_length=64, description="Identifies the file system on this host.")]


@model
class InventoryItem:
    """A copy of a VM that this host's journal tells of."""

    uid: Annotated[Uid, Field(description="The VM's uid.")]
    state: Annotated[RunState, Field(description="Whether the hypervisor was seen to run it.")]
    role: Annotated[Role, Field(description="The copy's role.")]
    epoch: Annotated[Int, Field(ge=1, description="The journal's epoch.")]
    epoch_id: Annotated[Uid, Field(description="Id of that epoch.")]
    allocated: Annotated[Bytes | None, Field(description="Bytes that its files occupy, rounded up; absent: not known.")] = None


@model
class SshEndpoint:
    """How agents of other nodes reach this one, and how they know it."""

    address: Annotated[str, Field(max_length=64, description="IP address of the migration network.")]
    port: Annotated[Int, Field(ge=1, le=65535, description="Port of sshd.")]
    host_key: Annotated[PublicKey, Field(description="What its sshd must prove to have.")]
    identity_key: Annotated[PublicKey, Field(description="What its agent proves to have when it calls another node.")]


@model
class ComputeNodeStatus:
    """What the node's agent tells."""

    host_id: Annotated[Uid, Field(description="Identity of the host, made once beside its journals.")]
    boot_id: Annotated[Uid, Field(description="Identity of this boot of the host.")]
    protocol_version: Annotated[Int, Field(ge=1, description="Protocol that the agent speaks.")]
    agent_version: Annotated[str, Field(max_length=64, description="Version of the agent.")]
    hypervisor: Annotated[Hypervisor | None, Field(description="The hypervisor.")] = None
    architecture: Annotated[Architecture | None, Field(description="CPU architecture.")] = None
    machine_types: Annotated[tuple[MachineType, ...], Field(max_length=256, description="Machine types on offer.")] = ()
    cpu: Annotated[NodeCpu | None, Field(description="Processors.")] = None
    memory: Annotated[Bytes | None, Field(description="Memory in bytes.")] = None
    bridges: Annotated[
        tuple[BridgeName, ...],
        Field(max_length=NETWORKS_TOLD, description="Bridges of the host that VMs may be plugged into: those that its agent allows."),
    ] = ()
    networks: Annotated[
        tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=NETWORKS_TOLD, description="Active networks of its libvirt.")
    ] = ()
    ssh: Annotated[SshEndpoint | None, Field(description="How agents of other nodes reach this one.")] = None
    instances: Annotated[InstancesPath | None, Field(description="The file system that holds the disks.")] = None
    inventory: Annotated[
        tuple[InventoryItem, ...],
        Field(
            max_length=INVENTORY_LENGTH,
            description="Every copy that the host's journals tell of.",
            json_schema_extra=list_map("uid"),
        ),
    ] = ()
    conditions: Conditions = ()


@model
class Fence:
    """A human's word that one boot of a node is dead: it stands for the proof that this boot runs no VM any more."""

    boot_id: Annotated[Uid, Field(description="The boot that is meant: status.bootId, as the node told it last.")]
    reason: Annotated[str, Field(min_length=1, max_length=1024, description="How it was made sure that the node is off.")]


@model
class ComputeNodeSpec:
    """What administrators say of a node."""

    fence: Annotated[
        Fence | None, Field(description="The node is lost, and was made sure to be off; counts while its agent is silent.")
    ] = None


@model
class ComputeNode:
    """A hypervisor."""

    metadata: Meta
    spec: ComputeNodeSpec = dataclasses.field(default_factory=ComputeNodeSpec)
    status: ComputeNodeStatus | None = None
