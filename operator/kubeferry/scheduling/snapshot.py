"""What a pass looks at: the nodes as they were seen at one moment, and what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kubeferry.api.domain import Architecture
from kubeferry.api.node import Taint


@dataclass(frozen=True, slots=True)
class Supply:
    """What there is of one resource on a node: virtual CPUs, or bytes."""

    total: int | None
    """What VMs may take in all, after allocation ratio and reserve; None: its agent does not tell."""
    held: int
    """What is taken of it."""

    @property
    def free(self) -> int:
        """What is left; below zero where more is held than is there. What is not told of counts as nothing."""
        return (self.total or 0) - self.held


@dataclass(frozen=True, slots=True)
class Holder:
    """A VM that has a copy on a node."""

    name: str
    """NAMESPACE/NAME of the Migration that has the VM's lock, else of the VM."""
    awaiting_since: datetime | None
    """Since when that Migration awaits its decision."""
    cpus: int
    memory: int
    """Bytes."""
    disk: int
    """Bytes that the copy's files occupy, or are to occupy once they are whole; 0: not known."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hypervisor (Nova's HostState)."""

    name: str
    node_ready: bool
    """There is a Node of that name, and it is Ready."""
    lease_fresh: bool | None
    """Its agent's Lease was seen to change within the last 40 s; None: watched for less than that, and not seen to change yet."""
    hypervisor_ready: bool
    """Its ComputeNode is Ready: the agent says that it can work."""
    unschedulable: bool
    """It is cordoned."""
    taints: tuple[Taint, ...]
    labels: Mapping[str, str]
    architecture: Architecture | None
    """Of its CPUs; None: its agent does not tell."""
    machine_types: frozenset[str]
    """Every name by which its hypervisor offers a machine: canonical ones and aliases."""
    bridges: frozenset[str]
    """Bridges that VMs may be plugged into there."""
    networks: frozenset[str]
    """Active networks of its libvirt."""
    processors: int | None
    """CPUs as the agent tells; None: it does not tell. No VM may have more virtual ones, however often they are given out."""
    cpu: Supply
    """Held: by every copy on it, but those of the VM that is asked for; so is memory."""
    memory: Supply
    disk: Supply
    """Held: all that is not free in the instances' file system, and what copies that are being filled will take of that."""
    holders: tuple[Holder, ...]
    """Who has copies on it, the VM that is asked for left out."""


@dataclass(frozen=True, slots=True)
class Request:
    """A VM that needs a node (Nova's RequestSpec)."""

    vm_uid: str
    source: str
    """The node where the VM is."""
    target: str | None
    """The only node that will do; None: the best one."""
    attempted: frozenset[str]
    """Nodes that have refused already."""
    holders: frozenset[str]
    """Nodes, the source left out, that hold a copy of the VM: one that is to be discarded, or that nobody names."""
    labels: frozenset[tuple[str, str]]
    """Labels that a node must have, key and value."""
    architecture: Architecture
    machine_type: str
    """Of a VM that ran before, the canonical one."""
    bridges: frozenset[str]
    """Bridges that the VM is plugged into."""
    networks: frozenset[str]
    """Networks of libvirt that the VM is plugged into."""
    cpus: int
    """Virtual CPUs that the VM needs."""
    memory: int
    """Bytes that the VM needs."""
    bytes: int
    """Bytes of disk that the VM needs."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The nodes at one moment."""

    candidates: tuple[Candidate, ...]
    """By name."""
