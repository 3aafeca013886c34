"""What a pass looks at: the nodes as they were seen at one moment, and what is asked for."""

from dataclasses import dataclass

from kubeferry.api.node import Taint


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
    memory: int
    """Bytes in all."""
    memory_held: int
    """Bytes that are held by every copy on it, of whatever VM."""


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
    memory: int
    """Bytes that the VM needs."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The nodes at one moment."""

    candidates: tuple[Candidate, ...]
    """By name."""
