"""Migration: a request to move a VM to another node, to be confirmed or reverted (Nova's Migrate Instance)."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.meta import Conditions, Meta
from kubeferry.api.model import Bytes, Digest, Int, Message, Name, Reason, Time, Uid, model
from kubeferry.api.scheduling import Scheduling


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


@model
class MovedVirtualMachine:
    """The VM that is to move."""

    name: Annotated[Name, Field(description="Its name, in the Migration's namespace.")]


@model
class MigrationSpec:
    """The move that is wanted."""

    virtual_machine: Annotated[MovedVirtualMachine, Field(description="The VM that is to move.")]
    target_node: Annotated[Name | None, Field(description="The node to go to; absent: the scheduling pass chooses.")] = None
    decision: Annotated[
        DecisionValue | None, Field(description="Confirm: keep the VM at the target and give up the source's copy. Revert: go back to it.")
    ] = None
    shutdown_timeout_seconds: Annotated[
        Int | None, Field(ge=0, le=3600, description="Seconds that the guest gets to shut down, before force; absent: as the VM says.")
    ] = None


@model
class Transfer:
    """What the Copy moves."""

    bytes_total: Annotated[Bytes, Field(description="Bytes to send, holes left out.")]
    bytes_done: Annotated[Bytes, Field(description="Bytes sent so far.")]
    digest: Annotated[Digest | None, Field(description="BLAKE3 of what was copied; both hosts found the same.")] = None


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
    decision: Annotated[Decision | None, Field(description="The durable decision.")] = None
    scheduling: Annotated[Scheduling | None, Field(description="What the last scheduling pass found.")] = None
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=16, description="Targets that came to nothing, the first one first.")] = ()
    transfer: Annotated[Transfer | None, Field(description="What the Copy moves.")] = None
    started_at: Annotated[Time | None, Field(description="When it took the VM's lock.")] = None
    finished_at: Annotated[Time | None, Field(description="When it ended.")] = None
    conditions: Conditions = ()


@model
class Migration:
    """A request to move a VM to another node, where it waits to be confirmed or reverted."""

    metadata: Meta
    spec: MigrationSpec
    status: MigrationStatus | None = None
