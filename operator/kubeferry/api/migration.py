"""Migration: a request to move a VM to another node, to be confirmed or reverted (Nova's Migrate Instance)."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import Cpu, Memory
from kubeferry.api.meta import Conditions, Meta
from kubeferry.api.model import (
    Bytes,
    Digest,
    Int,
    Message,
    Name,
    NodeSelector,
    Reason,
    Rule,
    Time,
    Uid,
    immutable,
    label_keys,
    model,
    model_with,
)
from kubeferry.api.scheduling import Scheduling
from kubeferry.api.task import Storage


class DecisionValue(StrEnum):
    """What a person decides."""

    CONFIRM = "Confirm"
    REVERT = "Revert"


class DecisionSource(StrEnum):
    """Who decided."""

    USER = "User"
    TIMEOUT = "Timeout"


@model
class Decision:
    """Confirm or Revert, durable and final."""

    value: Annotated[DecisionValue, Field(description="What was decided.")]
    source: Annotated[DecisionSource, Field(description="Who decided.")]
    time: Annotated[Time, Field(description="When it became durable.")]


class MigrationPhase(StrEnum):
    """How far a Migration is, in one word, for people; code never branches on it."""

    PENDING = "Pending"
    SCHEDULING = "Scheduling"
    PREPARING = "Preparing"
    SEALING = "Sealing"
    COPYING = "Copying"
    ACTIVATING = "Activating"
    AWAITING_DECISION = "AwaitingDecision"
    CONFIRMING = "Confirming"
    CONFIRMED = "Confirmed"
    REVERTING = "Reverting"
    REVERTED = "Reverted"
    ROLLING_BACK = "RollingBack"
    FAILED = "Failed"


class VmGroup(StrEnum):
    """API groups of VMs that can be moved."""

    KUBEFERRY = "kubeferry.io"


class VmKind(StrEnum):
    """Kinds of VMs that can be moved."""

    VIRTUAL_MACHINE = "VirtualMachine"


class Strategy(StrEnum):
    """How a VM is moved."""

    COLD = "Cold"
    """It is powered off for the copy."""


@model
class MovedVirtualMachine:
    """The VM that is to move (a typed local reference)."""

    api_group: Annotated[VmGroup, Field(description="API group of the VM.")] = VmGroup.KUBEFERRY
    kind: Annotated[VmKind, Field(description="Kind of the VM.")] = VmKind.VIRTUAL_MACHINE
    name: Annotated[Name, Field(description="Its name, in the Migration's namespace.")]
    uid: Annotated[Uid | None, Field(description="Its uid, as a precondition: a VM that was made anew under the name is not moved.")] = None


@model_with(
    Rule("has(self.cpu) || has(self.memory)", message="resize names neither cpu nor memory: name what is to change, or leave it out"),
)
class Resize:
    """What the VM is to have at its target (Nova's resize)."""

    cpu: Annotated[Cpu | None, Field(description="Virtual CPUs; absent: as they are.")] = None
    memory: Annotated[Memory | None, Field(description="Guest memory; absent: as it is.")] = None


@model_with(
    *immutable("virtualMachine", "sourceNode", "targetNode", "addedNodeSelector", "strategy", "resize"),
    label_keys("addedNodeSelector"),
    Rule(
        "has(self.decisionTimeoutSeconds) == has(self.onDecisionTimeout)",
        message="decisionTimeoutSeconds and onDecisionTimeout come together: one says when, the other what",
        path=".decisionTimeoutSeconds",
    ),
    Rule(
        "!has(self.bandwidthLimit) || quantity(string(self.bandwidthLimit)).compareTo(quantity('64Ki')) >= 0",
        message="bandwidthLimit is bytes a second, at least 64Ki: a copy that is slower is taken for one that hangs",
        path=".bandwidthLimit",
    ),
)
class MigrationSpec:
    """The move that is wanted."""

    virtual_machine: Annotated[MovedVirtualMachine, Field(description="The VM that is to move.")]
    source_node: Annotated[
        Name | None, Field(description="The node where the VM must be, as a precondition; elsewhere it is not moved.")
    ] = None
    target_node: Annotated[Name | None, Field(description="The node to go to; absent: the scheduling pass chooses.")] = None
    added_node_selector: Annotated[
        NodeSelector | None, Field(description="Labels that the target must have, beside those of the VM's nodeSelector (KubeVirt's name).")
    ] = None
    strategy: Annotated[Strategy, Field(description="Cold: the VM is powered off for the copy.")] = Strategy.COLD
    resize: Annotated[
        Resize | None, Field(description="CPU and memory that the VM is to have at the target; on Revert it has the old ones again.")
    ] = None
    decision: Annotated[
        DecisionValue | None, Field(description="Confirm: keep the VM at the target and give up the source's copy. Revert: go back to it.")
    ] = None
    decision_timeout_seconds: Annotated[
        Int | None,
        Field(ge=1, le=31_536_000, description="Seconds to wait for a decision, then onDecisionTimeout is done; absent: for ever."),
    ] = None
    on_decision_timeout: Annotated[
        DecisionValue | None, Field(description="What is done when nobody has decided in decisionTimeoutSeconds.")
    ] = None
    start_deadline_seconds: Annotated[
        Int | None,
        Field(
            ge=1,
            le=31_536_000,
            description="Seconds after its creation until which it may begin, and waits for a node or for its turn; absent: "
            "it fails at once where no node can be taken.",
        ),
    ] = None
    bandwidth_limit: Annotated[
        Bytes | None, Field(description="Bytes a second that the copy may take, at least 64Ki; it may change while the copy runs.")
    ] = None
    shutdown_timeout_seconds: Annotated[
        Int | None, Field(ge=0, le=3600, description="Seconds that the guest gets to shut down, before force; absent: as the VM says.")
    ] = None


@model
class Transfer:
    """What the Copy moves."""

    bytes_total: Annotated[Bytes, Field(description="Bytes of data in the files, holes left out.")]
    bytes_done: Annotated[Bytes, Field(description="Bytes of them that the target has.")]
    bytes_sent: Annotated[
        Bytes,
        Field(description="Bytes of them that went over the network, by the try that tells this: an earlier one may have sent others."),
    ] = 0
    progress: Annotated[str | None, Field(max_length=4, description="The part of them that the target has, in per cent: 63%.")] = None
    rate: Annotated[Bytes | None, Field(description="Bytes a second that the target got of late; absent: not known, or it has ended.")] = (
        None
    )
    eta_seconds: Annotated[Int | None, Field(ge=0, description="Seconds that the rest will take at that rate.")] = None
    digest: Annotated[Digest | None, Field(description="BLAKE3 of what was copied; both hosts found the same.")] = None


@model
class Downtime:
    """For how long the VM was off at most, by the controller's clock: what the guest takes to shut down counts as off."""

    started_at: Annotated[
        Time, Field(description="When a host was asked to stop the VM, the last time. It stopped after that, or not at all if that failed.")
    ]
    ended_at: Annotated[Time | None, Field(description="When it was seen running after that; absent: it was not seen so far.")] = None
    milliseconds: Annotated[
        Int,
        Field(
            ge=0,
            description="From each time that a host was asked to stop the VM until it was seen running again, in all: "
            "a Revert stops it twice. It was off for no longer than that.",
        ),
    ] = 0


PHASES_TOLD = 32


@model
class PhaseTransition:
    """When a phase began."""

    phase: Annotated[MigrationPhase, Field(description="The phase.")]
    time: Annotated[Time, Field(description="When it was told first.")]


@model
class Attempt:
    """A target that was tried, and did not take the VM or was given up."""

    node: Annotated[Name, Field(description="The node that was tried.")]
    reason: Annotated[Reason, Field(description="Why it came to nothing.")]
    message: Annotated[Message, Field(description="What was seen.")] = ""
    time: Annotated[Time, Field(description="When that was recorded.")]


@model
class MigrationStatus:
    """How far it is: a projection of the Placement, for people."""

    phase: Annotated[MigrationPhase, Field(description="How far it is, in one word.")]
    observed_generation: Annotated[Int, Field(ge=0, description="The metadata.generation that this status tells of.")] = 0
    epoch: Annotated[Int | None, Field(ge=1, description="Epoch of the Placement.")] = None
    virtual_machine_uid: Annotated[Uid | None, Field(alias="virtualMachineUID", description="Uid of the VM.")] = None
    source_node: Annotated[str | None, Field(max_length=253, description="The node that the VM leaves.")] = None
    target_node: Annotated[str | None, Field(max_length=253, description="The node that the VM goes to.")] = None
    storage: Annotated[Storage | None, Field(description="What Preflight found between the two nodes: Local, Shared or Unknown.")] = None
    decision: Annotated[Decision | None, Field(description="The durable decision.")] = None
    scheduling: Annotated[Scheduling | None, Field(description="What the last scheduling pass found.")] = None
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=16, description="Targets that came to nothing, the first one first.")] = ()
    transfer: Annotated[Transfer | None, Field(description="What the Copy moves.")] = None
    phase_transitions: Annotated[
        tuple[PhaseTransition, ...], Field(max_length=PHASES_TOLD, description="When each phase began, the first one first.")
    ] = ()
    downtime: Annotated[Downtime | None, Field(description="For how long the VM was off at most; absent: it was not asked to stop.")] = None
    decision_deadline: Annotated[Time | None, Field(description="When spec.onDecisionTimeout is done, if nobody decides before.")] = None
    started_at: Annotated[Time | None, Field(description="When it took the VM's lock.")] = None
    finished_at: Annotated[Time | None, Field(description="When it ended.")] = None
    conditions: Conditions = ()


_DECIDED = "has(oldSelf.status) && has(oldSelf.status.decision)"


# They belong to the whole object, since they compare its spec with its status. The old spec's own decision may stay: a late change of it
# must not block the controller's write of the status.
@model_with(
    Rule(
        f"!({_DECIDED}) || !has(self.spec.decision) || self.spec.decision == oldSelf.status.decision.value"
        " || (has(oldSelf.spec.decision) && self.spec.decision == oldSelf.spec.decision)",
        expression="'the decision was taken: ' + oldSelf.status.decision.value + ' is final'",
        path=".spec.decision",
    ),
    Rule(
        f"!({_DECIDED}) || (has(self.status) && has(self.status.decision) && self.status.decision == oldSelf.status.decision)",
        message="status.decision is final",
        path=".status.decision",
    ),
)
class Migration:
    """A request to move a VM to another node, where it waits to be confirmed or reverted."""

    metadata: Meta
    spec: MigrationSpec
    status: MigrationStatus | None = None
