"""What was read before a decision, and the decision: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from kubeferry.api.computenode import ComputeNodeStatus, InventoryItem
from kubeferry.api.domain import Architecture
from kubeferry.api.meta import is_true
from kubeferry.api.migration import Migration, MigrationStatus
from kubeferry.api.placement import Placement, PlacementSpec, Resources
from kubeferry.api.reasons import READY
from kubeferry.api.role import Role
from kubeferry.api.scheduling import Scheduling
from kubeferry.api.task import HostTask, HostTaskSpec
from kubeferry.api.virtualmachine import VirtualMachine, VirtualMachineStatus


@dataclass(frozen=True, slots=True)
class Host:
    """A hypervisor as last told."""

    name: str
    status: ComputeNodeStatus
    lease_fresh: bool | None
    """Its Lease was seen to change within the last 40 s; None: watched for less than that, and not seen to change yet."""
    fence: str | None = None
    """The bootId that a human attested dead."""

    @property
    def ready(self) -> bool:
        """Whether its agent is alive and says that it can work."""
        return bool(self.lease_fresh) and is_true(self.status.conditions, READY)

    def copy_of(self, uid: str) -> InventoryItem | None:
        """What its journals tell of that VM."""
        return next((item for item in self.status.inventory if item.uid == uid), None)

    def holds(self, uid: str) -> bool:
        """Whether it tells of a copy of that VM that is not gone."""
        copy = self.copy_of(uid)
        return copy is not None and copy.role not in (Role.NONE, Role.GONE)


@dataclass(frozen=True, slots=True)
class NewTask:
    """Create a HostTask; one of that name with the same spec is the same task."""

    name: str
    spec: HostTaskSpec


@dataclass(frozen=True, slots=True)
class Stranger:
    """A HostTask that bears the name of a wanted one, but is another."""

    wanted: NewTask
    found: HostTaskSpec | None
    """What it asks; None: it can't be read."""


@dataclass(frozen=True, slots=True)
class Place:
    """Run the scheduling pass: which node a Migration goes to, or a VM is made on."""

    migration_uid: str | None
    """None: it is the VM's first placement."""
    vm_uid: str
    source: str
    """The node where the VM is; empty: nowhere yet."""
    target: str | None
    """The only node that will do; None: the best one."""
    attempted: frozenset[str]
    """Nodes that this Migration has tried."""
    holders: frozenset[str]
    """Nodes, the source left out, that hold a copy of the VM: one that is to be discarded, or that nobody names."""
    labels: frozenset[tuple[str, str]]
    """Labels that a node must have, key and value: the VM's and the Migration's."""
    architecture: Architecture
    machine_type: str
    """The canonical one, or for a first placement an alias."""
    bridges: frozenset[str]
    """Bridges that the VM is plugged into."""
    networks: frozenset[str]
    """Networks of libvirt that the VM is plugged into."""
    memory: int
    """Bytes that the VM needs."""
    cpus: int
    """Virtual CPUs that the VM needs."""
    bytes: int
    """Bytes that the VM's files occupy at the source; none of a VM that is to be made."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the scheduling pass answered."""

    migration_uid: str | None
    """As of the `Place` that was asked."""
    node: str | None
    """None: no node is feasible."""
    message: str
    """Why the nodes that were rejected were, with counts."""
    report: Scheduling
    """What the pass found, for the Migration's status."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that was read of one VM."""

    vm: VirtualMachine | None
    placement: Placement | None
    """Read consistently, in this pass."""
    tasks: tuple[HostTask, ...]
    """The HostTasks of this VM, by name."""
    hosts: tuple[Host, ...]
    """Every hypervisor, by name."""
    mac_users: Mapping[str, str] = field(default_factory=dict)
    """NAMESPACE/NAME of another VM whose Placement has an address that this one asks for, by address; of a VM without Placement."""
    migrations: tuple[Migration, ...] = ()
    """Every Migration that names the VM, the oldest first; the one that has its lock was looked for consistently."""
    gone: frozenset[str] = frozenset()
    """Uids of Migrations, named by outcomes of the Placement, that a list of their namespace did not hold which was asked after it."""
    choice: Choice | None = None
    """What the scheduling pass answered, in this pass, to the `Place` that was asked of it."""
    strangers: tuple[Stranger, ...] = ()
    """Met when this pass was about to create tasks: watching does not tell which VM they stand in the way of."""
    live: frozenset[str] = frozenset()
    """The hypervisors, by name, whose ComputeNode was read consistently in this pass, after the Placement."""
    deletable: bool = False
    """The controller's own CRDs were read, and none is being removed: a VM that is to go is meant, and not its whole kind."""

    def host(self, name: str) -> Host | None:
        """The hypervisor of that name."""
        return next((host for host in self.hosts if host.name == name), None)


@dataclass(frozen=True, slots=True)
class CreatePlacement:
    """Create the VM's Placement; another that is there wins, and this pass is done again."""

    spec: PlacementSpec


@dataclass(frozen=True, slots=True)
class ReplacePlacement:
    """Replace the Placement by compare-and-swap."""

    spec: PlacementSpec
    resource_version: str
    """Of the Placement that this was decided from: the write fails if it is another by now."""


@dataclass(frozen=True, slots=True)
class TellMigration:
    """Write a Migration's status, as projected from the Placement."""

    migration: Migration
    """The version that was read."""
    status: MigrationStatus


@dataclass(frozen=True, slots=True)
class VmDecision:
    """What to write, in this order. A Placement comes alone: what follows from it is decided from what was stored."""

    protect: bool = False
    """Put the finalizer on the VM before anything else."""
    release: bool = False
    """Take the finalizer off: no host holds anything of the VM."""
    remove_placement: bool = False
    """Let go of the Placement and delete it: the VM is gone, and no host holds anything of it."""
    protect_migration: Migration | None = None
    """Put the finalizer on that Migration before anything else: it is about to take the lock."""
    place: Place | None = None
    """Run the scheduling pass, then decide again with its answer; nothing else comes with it."""
    placement: CreatePlacement | ReplacePlacement | None = None
    tasks: tuple[NewTask, ...] = ()
    adjusted: tuple[HostTask, ...] = ()
    """HostTasks with the spec that they are to have from now on."""
    forget: tuple[str, ...] = ()
    """HostTasks to remove: their outcome stands in the ledger."""
    resize: Resources | None = None
    """Write these to the VM's spec: a confirmed resize has brought them."""
    status: VirtualMachineStatus | None = None
    migrations: tuple[TellMigration, ...] = ()
    release_migrations: tuple[Migration, ...] = ()
    """Take the finalizer off these: their outcome was told."""
    requeue_after: timedelta | None = None
    """Look again after that time, whatever happens."""
