"""HostTask: what the controller asks of one host (Nova's RPC cast), and what that host's agent answers."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import Domain
from kubeferry.api.meta import Meta
from kubeferry.api.model import Bytes, Digest, Int, Label, Message, Name, Reason, Rule, Time, Uid, immutable, model, model_with


class Verb(StrEnum):
    """What is asked of a host."""

    CREATE = "Create"
    START = "Start"
    STOP = "Stop"
    PREPARE = "Prepare"
    PREFLIGHT = "Preflight"
    SEAL = "Seal"
    COPY = "Copy"
    ACTIVATE = "Activate"
    DISCARD = "Discard"


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
    READY = "Ready"
    """Of a VM that is halted: it would be started here."""
    STOPPED = "Stopped"
    PREPARED = "Prepared"
    REACHABLE = "Reachable"
    SEALED = "Sealed"
    RELEASED = "Released"
    GONE = "Gone"


class Storage(StrEnum):
    """What Preflight found between source and target."""

    LOCAL = "Local"
    SHARED = "Shared"
    UNKNOWN = "Unknown"


class ProofKind(StrEnum):
    """Why a host may start a VM that another host had the right to start before."""

    RELEASED = "Released"
    """The source has given up its right: the target holds a verified copy."""
    SEALED = "Sealed"
    """The target was proved stopped, and will refuse to start."""
    FENCE = "Fence"
    """A human attested that this boot of the target is dead."""


class DiscardMode(StrEnum):
    """What becomes of a copy: Trash renames its files to the trash, Forget (shared storage) drops only the journal."""

    TRASH = "Trash"
    FORGET = "Forget"


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
    storage: Annotated[Storage | None, Field(description="What a Preflight found.")] = None
    bytes_copied: Annotated[Bytes | None, Field(description="Bytes that a Copy sent, holes and what the target had left out.")] = None
    digest: Annotated[Digest | None, Field(description="BLAKE3 of what was copied; both hosts found the same.")] = None


@model
class TaskProgress:
    """How far a Copy is."""

    bytes_total: Annotated[Bytes, Field(description="Bytes of data in the files, holes left out.")]
    bytes_done: Annotated[Bytes, Field(description="Bytes of them that the target has.")]
    bytes_sent: Annotated[Bytes, Field(description="Bytes of them that this Copy has sent: an earlier one may have sent others.")] = 0
    signs: Annotated[
        Int, Field(ge=0, description="Signs of life that the target gave while no byte moved: it reads back what it got, say.")
    ] = 0
    rate: Annotated[Bytes | None, Field(description="Bytes a second that the target got of late.")] = None


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
class StopParameters:
    """Stop an ACTIVE VM, which stays where it is."""

    shutdown_timeout_seconds: Annotated[Int, Field(ge=0, description="Seconds that the guest gets to shut down, before force.")]


@model
class PrepareParameters:
    """Reserve what a VM needs on the target."""

    source: Annotated[Name, Field(description="The node that the VM comes from, and that will fill the copy.")]
    domain: Annotated[Domain, Field(description="What the VM is to run with.")]
    bytes: Annotated[Bytes, Field(description="Bytes that its files occupy at the source.")]


@model
class PreflightParameters:
    """Reach the target, while the VM still runs."""

    target: Annotated[Name, Field(description="The node that the VM goes to.")]
    target_host_id: Annotated[Uid, Field(description="Identity of its host.")]


@model
class SealParameters:
    """Stop the VM, and prove that it is stopped."""

    shutdown_timeout_seconds: Annotated[Int, Field(ge=0, description="Seconds that the guest gets to shut down, before force.")]


@model_with(*immutable("target", "targetHostId"))
class CopyParameters:
    """Send the files of a sealed VM to the target."""

    target: Annotated[Name, Field(description="The node that the VM goes to.")]
    target_host_id: Annotated[Uid, Field(description="Identity of its host.")]
    bandwidth_limit: Annotated[
        Bytes | None, Field(gt=0, description="Bytes a second at most; the one thing of a task that may change.")
    ] = None


@model
class Proof:
    """What was acknowledged by the host that had the right to start the VM before."""

    kind: Annotated[ProofKind, Field(description="What was proved.")]
    node: Annotated[Name, Field(description="Of which node.")]
    host_id: Annotated[Uid, Field(description="Of which host.")]
    epoch: Annotated[Int, Field(ge=1, description="At which epoch.")]
    seq: Annotated[Int, Field(ge=1, description="By which step of the ledger.")]


@model
class ActivateParameters:
    """Take over the right to start the VM, and start it, through the start gate."""

    domain: Annotated[Domain, Field(description="What the VM runs with.")]
    proof: Annotated[Proof | None, Field(description="Absent where the source never gave up its right.")] = None


@model
class DiscardParameters:
    """Give up a copy."""

    mode: Annotated[DiscardMode, Field(description="What becomes of its files.")]


_VERB_WITH_ITS_BLOCK = " && ".join(f"(self.verb == '{verb}') == has(self.{verb.lower()})" for verb in Verb)


@model_with(
    *immutable("node", "hostId", "verb", "epoch", "epochId", "seq", "placement"),
    *immutable(*(verb.lower() for verb in Verb if verb != Verb.COPY)),
    Rule("has(self.copy) == has(oldSelf.copy)", message="copy is immutable: it can be neither set nor removed after creation"),
    Rule(_VERB_WITH_ITS_BLOCK, message="exactly one block of parameters must be set, the one that bears the verb's name"),
)
class HostTaskSpec:
    """What is asked: immutable, since its host may have begun; but for how fast it copies."""

    node: Annotated[Name, Field(description="The node whose agent is asked.")]
    host_id: Annotated[Uid, Field(description="Identity of the host that is meant.")]
    verb: Annotated[Verb, Field(description="What is asked.")]
    epoch: Annotated[Int, Field(ge=1, description="Epoch of the Placement.")]
    epoch_id: Annotated[Uid, Field(description="Id of that epoch.")]
    seq: Annotated[Int, Field(ge=1, description="Number of the step in the Placement's ledger.")]
    placement: Annotated[PlacementReference, Field(description="The Placement that this serves.")]
    create: Annotated[CreateParameters | None, Field(description="Parameters of verb Create.")] = None
    start: Annotated[StartParameters | None, Field(description="Parameters of verb Start.")] = None
    stop: Annotated[StopParameters | None, Field(description="Parameters of verb Stop.")] = None
    prepare: Annotated[PrepareParameters | None, Field(description="Parameters of verb Prepare.")] = None
    preflight: Annotated[PreflightParameters | None, Field(description="Parameters of verb Preflight.")] = None
    seal: Annotated[SealParameters | None, Field(description="Parameters of verb Seal.")] = None
    copy: Annotated[CopyParameters | None, Field(description="Parameters of verb Copy.")] = None
    activate: Annotated[ActivateParameters | None, Field(description="Parameters of verb Activate.")] = None
    discard: Annotated[DiscardParameters | None, Field(description="Parameters of verb Discard.")] = None


@model
class HostTaskStatus:
    """What the host's agent answers."""

    phase: Annotated[TaskPhase, Field(description="How far it is.")]
    started_at: Annotated[Time | None, Field(description="When the agent began.")] = None
    finished_at: Annotated[Time | None, Field(description="When it ended.")] = None
    progress: Annotated[TaskProgress | None, Field(description="How far a Copy is.")] = None
    result: Annotated[TaskResult | None, Field(description="What was observed.")] = None
    error: Annotated[TaskError | None, Field(description="Why it failed.")] = None
    agent_version: Annotated[str | None, Field(max_length=64, description="Version of the agent that answered.")] = None


@model
class HostTask:
    """One task of one host."""

    metadata: Meta
    spec: HostTaskSpec
    status: HostTaskStatus | None = None
