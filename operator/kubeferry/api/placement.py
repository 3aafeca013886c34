"""Placement: the one place of truth about a VM. Written by the controller alone, always by compare-and-swap.

Its content can't be rebuilt from observation, so it is `spec`; `VirtualMachine.status` and `Migration.status` are projections of it.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import Domain
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Attempt, Decision, Downtime
from kubeferry.api.model import Bytes, Int, Message, Name, Reason, Rule, Time, Uid, immutable, model, model_with
from kubeferry.api.task import DiscardMode, Proof, Storage, TaskError, TaskProgress, TaskResult, Verb


class LockKind(StrEnum):
    """Who may hold a VM's lock."""

    MIGRATION = "Migration"
    DELETION = "Deletion"


class Direction(StrEnum):
    """Which way a migration goes."""

    FORWARD = "Forward"
    BACK = "Back"


class StepState(StrEnum):
    """State of a step in the ledger."""

    PENDING = "Pending"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUPERSEDED = "Superseded"


class Outcome(StrEnum):
    """How a Migration ended."""

    CONFIRMED = "Confirmed"
    REVERTED = "Reverted"
    FAILED = "Failed"


@model
class VirtualMachineReference:
    """The VM that this Placement is of."""

    api_group: Annotated[str, Field(min_length=1, max_length=253, description="API group of the VM.")]
    kind: Annotated[str, Field(min_length=1, max_length=63, description="Kind of the VM.")]
    namespace: Annotated[Name, Field(description="Namespace of the VM.")]
    name: Annotated[Name, Field(description="Name of the VM.")]
    uid: Annotated[Uid, Field(description="Uid of the VM.")]


@model
class Lock:
    """Who holds the VM: a Migration, or its deletion."""

    kind: Annotated[LockKind, Field(description="Migration or Deletion.")]
    namespace: Annotated[Name, Field(description="Namespace of the holder.")]
    name: Annotated[Name, Field(description="Name of the holder.")]
    uid: Annotated[Uid, Field(description="Uid of the holder.")]


@model
class Resources:
    """CPU and memory."""

    cpu: Annotated[Int, Field(ge=1, description="Virtual CPUs.")]
    memory: Annotated[Bytes, Field(gt=0, description="Guest memory in bytes.")]


@model
class Move:
    """The migration that holds the lock."""

    direction: Annotated[Direction, Field(description="Forward, or Back after a Revert, a cancel or a failure.")]
    source: Annotated[Name, Field(description="Node that the VM leaves.")]
    target: Annotated[Name, Field(description="Node that the VM goes to.")]
    storage: Annotated[Storage | None, Field(description="What Preflight found.")] = None
    domain: Annotated[Domain, Field(description="What the VM runs with at the target.")]
    was: Annotated[
        Resources | None, Field(description="Of a resize: what VirtualMachine.spec said when the lock was taken; absent: it is none.")
    ] = None
    bytes: Annotated[Bytes, Field(description="Bytes that the VM's files occupied at the source when the lock was taken.")]
    shutdown_timeout_seconds: Annotated[Int, Field(ge=0, description="ACPI shutdown wait before force.")]
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=16, description="Targets that came to nothing.")] = ()
    copy_tries: Annotated[Int, Field(ge=0, description="Copies that broke.")] = 0
    awaiting_since: Annotated[Time | None, Field(description="Since when a decision is awaited.")] = None
    decision: Annotated[Decision | None, Field(description="The durable decision.")] = None
    downtime: Annotated[
        Downtime | None, Field(description="For how long the VM was off at most, so far; absent: it was not asked to stop.")
    ] = None


@model
class Step:
    """One task in the ledger: written before its HostTask is created, settled before that may be removed."""

    seq: Annotated[Int, Field(ge=1, description="Number of the task.")]
    verb: Annotated[Verb, Field(description="What was asked.")]
    node: Annotated[Name, Field(description="Of which node.")]
    host_id: Annotated[Uid, Field(description="Of which host: a replaced one has another id.")]
    epoch: Annotated[Int, Field(ge=1, description="At which epoch.")]
    state: Annotated[StepState, Field(description="Its outcome, as far as known.")]
    started_at: Annotated[Time, Field(description="When it was asked.")]
    finished_at: Annotated[Time | None, Field(description="When its outcome was recorded.")] = None
    result: Annotated[TaskResult | None, Field(description="What the host answered.")] = None
    error: Annotated[TaskError | None, Field(description="Why it failed.")] = None
    grace_seconds: Annotated[Int | None, Field(ge=0, description="Of a Seal: seconds that the guest gets to shut down.")] = None
    proof: Annotated[Proof | None, Field(description="Of an Activate: why this host may start what another had the right to start.")] = None
    progress: Annotated[TaskProgress | None, Field(description="Of a Copy: how far it was when that was noted last.")] = None
    moved_at: Annotated[Time | None, Field(description="Of a Copy: when it was noted last that it had come further.")] = None


@model
class Copy:
    """A host that may hold bytes of this VM."""

    node: Annotated[Name, Field(description="Name of the node.")]
    host_id: Annotated[Uid, Field(description="Identity of the host.")]
    epoch_id: Annotated[Uid, Field(description="Id of the epoch of its last acknowledgement; never dropped while the copy is listed.")]
    discard: Annotated[DiscardMode | None, Field(description="Set when this copy is to go; absent: keep.")] = None
    migration_uid: Annotated[Uid | None, Field(description="The Migration that asked for the discard.")] = None
    unsealed: Annotated[bool, Field(description="A fence stood for its Seal, which is asked of its host before the discard.")] = False


@model
class SpecPending:
    """A confirmed resize that VirtualMachine.spec does not tell yet."""

    cpu: Annotated[Int, Field(ge=1, description="Virtual CPUs that run.")]
    memory: Annotated[Bytes, Field(gt=0, description="Memory that runs, in bytes.")]
    was: Annotated[Resources, Field(description="What the spec said when the lock was taken.")]


@model
class Settled:
    """The durable outcome of a Migration: written by the CAS that unlocks, before it is told."""

    migration_uid: Annotated[Uid, Field(description="The Migration.")]
    outcome: Annotated[Outcome, Field(description="How it ended.")]
    reason: Annotated[Reason, Field(description="Why, as one word.")]
    message: Annotated[Message, Field(description="Why, as a sentence.")] = ""
    decision: Annotated[Decision | None, Field(description="The decision, if one was taken.")] = None
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=16, description="Targets that came to nothing.")] = ()
    downtime: Annotated[Downtime | None, Field(description="For how long the VM was off at most; absent: it was not asked to stop.")] = None
    time: Annotated[Time, Field(description="When it ended.")]


@model_with(
    *immutable("virtualMachine"),
    Rule(
        "self.epoch >= oldSelf.epoch", message="epoch never falls: hosts refuse what is below the epoch that they have seen", path=".epoch"
    ),
)
class PlacementSpec:
    """Where a VM is, who may start it, what was asked of which host and what was answered."""

    virtual_machine: Annotated[VirtualMachineReference, Field(description="The VM.")]
    epoch: Annotated[Int, Field(ge=1, description="Rises at each change of direction; hosts never go back behind it.")]
    lineage: Annotated[tuple[Uid, ...], Field(min_length=1, max_length=64, description="A random id for each epoch, newest first.")]
    node_name: Annotated[str, Field(max_length=253, description="The only node that may start the VM; empty: none.")]
    host_id: Annotated[str, Field(max_length=64, description="Identity of that node's host.")]
    running: Annotated[bool, Field(description="Wanted run state.")]
    domain: Annotated[Domain, Field(description="What the VM runs with.")]
    seq: Annotated[Int, Field(ge=0, description="Number of the last task.")]
    lock: Annotated[Lock | None, Field(description="Who holds the VM.")] = None
    move: Annotated[Move | None, Field(description="The migration that holds the lock.")] = None
    steps: Annotated[tuple[Step, ...], Field(max_length=64, description="The ledger.")] = ()
    copies: Annotated[tuple[Copy, ...], Field(max_length=64, description="Every host that may hold bytes of this VM.")] = ()
    spec_pending: Annotated[SpecPending | None, Field(description="A confirmed resize that VirtualMachine.spec does not tell yet.")] = None
    settled: Annotated[tuple[Settled, ...], Field(max_length=64, description="Outcomes of Migrations.")] = ()
    unlocked_at: Annotated[Time | None, Field(description="When a Migration gave up the lock last.")] = None

    @property
    def epoch_id(self) -> str:
        """Id of the current epoch."""
        return self.lineage[0]

    def age(self, epoch_id: str) -> int:
        """How many epochs ago that one was; one that the lineage has forgotten is older than all."""
        return self.lineage.index(epoch_id) if epoch_id in self.lineage else len(self.lineage)


@model_with(
    Rule("self.metadata.name == self.spec.virtualMachine.uid", message="a Placement bears the uid of its VM as its name"),
)
class Placement:
    """The one place of truth about a VM; named by the VM's uid."""

    metadata: Meta
    spec: PlacementSpec
