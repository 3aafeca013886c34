"""What is wrong with a VM's tasks, told to a human: nothing is asked, changed or given up by it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.migration import Migration
from kubeferry.api.placement import Direction, LockKind, Placement, PlacementSpec
from kubeferry.api.task import HostTask, HostTaskSpec, TaskPhase, Verb
from kubeferry.core import ledger
from kubeferry.core.forward import kept_without_holder
from kubeferry.core.observed import Host, NewTask, Observed, Stranger
from kubeferry.core.told import moment

UNANSWERED_AFTER = timedelta(minutes=2)
"""When a human is told of a task that no agent has begun; a living one begins within seconds."""
UNFINISHED_AFTER = {
    # It copies whole disks: at 100 MiB/s, the pace of one hard disk, an hour is some 350 GiB.
    Verb.CREATE: timedelta(hours=1),
    # They copy nothing: what they wait for is the API server and libvirt, and either is in trouble if it takes minutes.
    Verb.START: timedelta(minutes=5),
    Verb.SEAL: timedelta(minutes=2),  # after the time that the guest gets to shut down
    Verb.STOP: timedelta(minutes=2),  # the same
    Verb.ACTIVATE: timedelta(minutes=2),
    Verb.DISCARD: timedelta(minutes=2),
}
"""When a human is told of a task that its agent has begun and not ended; what is not named here has a deadline of its own."""
STRANGER_AGAIN = timedelta(minutes=1)
"""How soon to look whether a stranger is gone: if it names another Placement or can't be read, its deletion does not wake this VM."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a human must look at."""

    reason: str
    message: str


def find(placement: Placement, observed: Observed, now: datetime) -> tuple[Trouble | None, timedelta | None]:
    """What is wrong with the tasks of the Pending steps, if anything; and when to look again, whatever happens."""
    strangers = (*observed.strangers, *ledger.strangers(placement, observed.tasks))
    if strangers:
        return _mismatch(strangers[0]), STRANGER_AGAIN
    tasks = {task.metadata.name: task for task in observed.tasks}
    late = [_late(asked, tasks.get(asked.name), observed.host(asked.spec.node), now) for asked in ledger.pending(placement)]
    told = next((trouble for due, trouble in filter(None, late) if due <= now), None)
    return told, min((due - now for due, _ in filter(None, late) if due > now), default=None)


def failing(spec: PlacementSpec) -> Trouble | None:
    """Whether the way back, or a deletion, does not come on: what its hosts refuse is asked again, for ever."""
    back = spec.move is not None and spec.move.direction == Direction.BACK
    deletion = spec.lock is not None and spec.lock.kind == LockKind.DELETION
    step = ledger.failed(spec, Verb.SEAL, Verb.ACTIVATE) if back or deletion else None
    if step is None or step.epoch != spec.epoch:
        return None
    reason, seen = (reasons.INTERNAL_ERROR, "no reason was told") if step.error is None else (step.error.reason, step.error.message)
    return Trouble(reason, f"{step.verb} on {step.node} failed: {seen}. It is asked again; every copy is kept until then")


def gone(spec: PlacementSpec, holder: Migration | None) -> Trouble | None:
    """Whether the Migration that holds the VM's lock is not there any more."""
    if spec.lock is None or spec.lock.kind != LockKind.MIGRATION or holder is not None:
        return None
    if spec.move is None or not kept_without_holder(spec, spec.move):
        return None
    message = (
        f"Migration {spec.lock.namespace}/{spec.lock.name} (uid {spec.lock.uid}) holds the VM, but is gone although it was protected: "
        f"no further step is asked of any host, and no copy is touched. A new Migration of that name takes it over: create it, "
        f"with targetNode {spec.move.target} or none, and decide it"
    )
    return Trouble(reasons.MIGRATION_GONE, message)


def _mismatch(stranger: Stranger) -> Trouble:
    name, expected = stranger.wanted.name, stranger.wanted.spec
    seen = "it can't be read" if stranger.found is None else f"it asks {_asks(stranger.found)}"
    message = (
        f"HostTask {name} is not the one of this VM's ledger: {seen}; expected was {_asks(expected)}. Nothing is asked of {expected.node}: "
        f"see `kubectl get hosttask {name} -o yaml`, find out who wrote it, then delete it"
    )
    return Trouble(reasons.TASK_MISMATCH, message)


def _asks(spec: HostTaskSpec) -> str:
    return f"{spec.verb} of {spec.node} at epoch {spec.epoch} for Placement {spec.placement.name}"


def _silent(asked: NewTask, host: Host | None, created: datetime) -> tuple[datetime, Trouble] | None:
    """When a task of a host that does not answer is to be told of; a change of its Lease wakes the VM."""
    not_known = host is not None and host.lease_fresh is None
    # Create and Start are asked of the VM's own node alone, whose silence is told as the VM's own condition.
    if not_known or asked.spec.verb in (Verb.CREATE, Verb.START):
        return None
    node = asked.spec.node
    message = (
        f"{asked.spec.verb} was asked of {node} at {moment(created)}, whose agent does not renew its Lease: "
        f"it is waited for; see that {node} is up, and its agent"
    )
    return created + UNANSWERED_AFTER, Trouble(reasons.NODE_SILENT, message)


def _late(asked: NewTask, task: HostTask | None, host: Host | None, now: datetime) -> tuple[datetime, Trouble] | None:
    """When a task that has not ended is to be told of, and how."""
    verb, node = asked.spec.verb, asked.spec.node
    # A task that is missing is created by this very pass, whatever became of it before.
    created = now if task is None else task.metadata.creation_timestamp or now
    if (host is None or not host.lease_fresh) and (silent := _silent(asked, host, created)) is not None:
        return silent
    if task is not None and task.status is not None and task.status.phase == TaskPhase.RUNNING:
        if verb not in UNFINISHED_AFTER:
            return None
        begun = task.status.started_at or created
        stops = asked.spec.seal or asked.spec.stop
        grace = timedelta(seconds=0 if stops is None else stops.shutdown_timeout_seconds)
        may_go_on = ": large disks may take longer, and it may go on" if verb == Verb.CREATE else ""
        message = (
            f"{verb} was begun by the agent of {node} at {moment(begun)} and has not ended{may_go_on}; "
            f"see `kubectl get computenode {node} -o yaml` and the log of that agent"
        )
        return begun + grace + UNFINISHED_AFTER[verb], Trouble(reasons.TASK_UNFINISHED, message)
    if host is None or not host.lease_fresh:
        return None
    message = (
        f"{verb} was asked of {node} at {moment(created)} and not begun, although its agent renews its Lease: "
        f"see `kubectl get computenode {node} -o yaml` and the log of that agent"
    )
    return created + UNANSWERED_AFTER, Trouble(reasons.TASK_UNANSWERED, message)
