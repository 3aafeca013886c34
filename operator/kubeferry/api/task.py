"""HostTask: what the controller asks of one host (Nova's RPC cast), and what that host's agent answers."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import Domain
from kubeferry.api.meta import Meta
from kubeferry.api.model import Bytes, Int, Label, Message, Name, Reason, Time, Uid, model


class Verb(StrEnum):
    """What is asked of a host."""

    CREATE = "Create"
    START = "Start"


class TaskPhase(StrEnum):
    """How far a task is."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUPERSEDED = "Superseded"


class TaskState(StrEnum):
    """What a host acknowledges, after it was observed."""

    CREATED = "Created"
    RUNNING = "Running"


@model
class DiskResult:
    """A disk as it lies on the host."""

    name: Annotated[Label, Field(description="The volume's name.")]
    allocated: Annotated[Bytes, Field(description="Bytes that it occupies on the host.")]


@model
class TaskResult:
    """What the host observed when it had done what was asked."""

    state: Annotated[TaskState, Field(description="What was acknowledged.")]
    disks: Annotated[tuple[DiskResult, ...], Field(max_length=16, description="The disks as they lie on the host.")] = ()


@model
class TaskError:
    """Why a task failed."""

    reason: Annotated[Reason, Field(description="Why, as one documented CamelCase word.")]
    message: Annotated[Message, Field(description="What was seen, what was expected, and what to do.")]
    retryable: Annotated[bool, Field(description="Whether the same may go well later without anybody's help.")] = False


@model
class PlacementReference:
    """The Placement that a task serves; the agent reads it before it acts."""

    name: Annotated[Uid, Field(description="Its name: the VM's uid.")]
    uid: Annotated[Uid, Field(description="Its own uid.")]


@model
class CreateParameters:
    """Make the disks of a VM from their sources."""

    domain: Annotated[Domain, Field(description="What the VM runs with.")]


@model
class StartParameters:
    """Start an ACTIVE VM, through the start gate."""

    domain: Annotated[Domain, Field(description="What the VM runs with.")]


@model
class HostTaskSpec:
    """What is asked, immutable."""

    node: Annotated[Name, Field(description="The node whose agent is asked.")]
    host_id: Annotated[Uid, Field(description="Identity of the host that is meant.")]
    verb: Annotated[Verb, Field(description="What is asked.")]
    epoch: Annotated[Int, Field(ge=1, description="Epoch of the Placement.")]
    epoch_id: Annotated[Uid, Field(description="Id of that epoch.")]
    seq: Annotated[Int, Field(ge=1, description="Number of the step in the Placement's ledger.")]
    placement: Annotated[PlacementReference, Field(description="The Placement that this serves.")]
    create: Annotated[CreateParameters | None, Field(description="Parameters of verb Create.")] = None
    start: Annotated[StartParameters | None, Field(description="Parameters of verb Start.")] = None


@model
class HostTaskStatus:
    """What the host's agent answers."""

    phase: Annotated[TaskPhase, Field(description="How far it is.")]
    started_at: Annotated[Time | None, Field(description="When the agent began.")] = None
    finished_at: Annotated[Time | None, Field(description="When it ended.")] = None
    result: Annotated[TaskResult | None, Field(description="What was observed.")] = None
    error: Annotated[TaskError | None, Field(description="Why it failed.")] = None
    agent_version: Annotated[str | None, Field(max_length=64, description="Version of the agent that answered.")] = None


@model
class HostTask:
    """One task of one host."""

    metadata: Meta
    spec: HostTaskSpec
    status: HostTaskStatus | None = None
