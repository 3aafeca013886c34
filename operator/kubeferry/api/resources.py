"""The custom resources: names, columns and models. `hack/generate.py` writes the CRDs from this table."""

from collections.abc import Mapping
from dataclasses import dataclass

from kubeferry.api.computenode import ComputeNode, ComputeNodeSpec, ComputeNodeStatus
from kubeferry.api.migration import Migration, MigrationSpec, MigrationStatus
from kubeferry.api.placement import Placement, PlacementSpec
from kubeferry.api.task import HostTask, HostTaskSpec, HostTaskStatus
from kubeferry.api.virtualmachine import VirtualMachine, VirtualMachineSpec, VirtualMachineStatus


@dataclass(frozen=True, slots=True)
class Column:
    """A column that `kubectl get` prints (`additionalPrinterColumns`)."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Only with `-o wide`."""


AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Resource:
    """One custom resource."""

    model: type
    spec: type | None
    status: type | None
    plural: str
    short_name: str
    namespaced: bool
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    """Fields that a watch can be narrowed to by the API server."""

    @property
    def kind(self) -> str:
        """The kind is the model's name."""
        return self.model.__name__


RESOURCES: tuple[Resource, ...] = (
    Resource(
        model=VirtualMachine,
        spec=VirtualMachineSpec,
        status=VirtualMachineStatus,
        plural="virtualmachines",
        short_name="fvm",
        namespaced=True,
        columns=(
            Column("Status", ".status.printableStatus"),
            Column("Node", ".status.nodeName"),
            Column("CPU", ".spec.template.spec.domain.cpu.cores", "integer"),
            Column("Memory", ".spec.template.spec.domain.memory.guest"),
            Column("Migration", ".status.migration.phase"),
            AGE,
        ),
        selectable=(".status.nodeName",),
    ),
    Resource(
        model=Migration,
        spec=MigrationSpec,
        status=MigrationStatus,
        plural="migrations",
        short_name="fmig",
        namespaced=True,
        columns=(
            Column("VM", ".spec.virtualMachine.name"),
            Column("Phase", ".status.phase"),
            Column("Source", ".status.sourceNode"),
            Column("Target", ".status.targetNode"),
            Column("Progress", ".status.transfer.progress"),
            Column("Decision", ".status.decision.value", wide=True),
            Column("Downtime", ".status.downtime.milliseconds", "integer", wide=True),
            Column("Reason", ".status.conditions[?(@.type=='Succeeded')].reason", wide=True),
            AGE,
        ),
        selectable=(".spec.virtualMachine.name", ".status.phase", ".status.sourceNode", ".status.targetNode"),
    ),
    Resource(
        model=Placement,
        spec=PlacementSpec,
        status=None,
        plural="placements",
        short_name="fpl",
        namespaced=False,
        columns=(
            Column("Namespace", ".spec.virtualMachine.namespace"),
            Column("VM", ".spec.virtualMachine.name"),
            Column("Node", ".spec.nodeName"),
            Column("Epoch", ".spec.epoch", "integer"),
            Column("Lock", ".spec.lock.name"),
            AGE,
        ),
    ),
    Resource(
        model=HostTask,
        spec=HostTaskSpec,
        status=HostTaskStatus,
        plural="hosttasks",
        short_name="ht",
        namespaced=False,
        columns=(
            Column("Node", ".spec.node"),
            Column("Verb", ".spec.verb"),
            Column("Epoch", ".spec.epoch", "integer"),
            Column("Phase", ".status.phase"),
            Column("Reason", ".status.error.reason"),
            Column("VM", ".spec.placement.name", wide=True),
            AGE,
        ),
        selectable=(".spec.node",),
    ),
    Resource(
        model=ComputeNode,
        spec=ComputeNodeSpec,
        status=ComputeNodeStatus,
        plural="computenodes",
        short_name="cn",
        namespaced=False,
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Hypervisor", ".status.hypervisor.type"),
            Column("Version", ".status.hypervisor.version"),
            Column("CPUs", ".status.cpu.count", "integer"),
            Column("Memory", ".status.memory"),
            Column("Free", ".status.instances.free"),
            Column("Agent", ".status.agentVersion", wide=True),
            Column("Boot", ".status.bootId", wide=True),
            AGE,
        ),
    ),
)

BY_MODEL: Mapping[type, Resource] = {resource.model: resource for resource in RESOURCES}
