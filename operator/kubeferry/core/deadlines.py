"""By when a host must have done what it is asked on the way forward; the way back and discards never expire."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from kubeferry.api.placement import PlacementSpec, Step
from kubeferry.api.task import HostTask, Verb
from kubeferry.core import ledger
from kubeferry.core.limits import Limits


def due(spec: PlacementSpec, step: Step, tasks: Iterable[HostTask], limits: Limits, now: datetime) -> datetime | None:
    """When a Pending step of the way forward has had its time; None: it never expires.

    Args:
        spec: the Placement; what its hosts told stands in the ledger.
        step: one of its ledger.
        tasks: the HostTasks of the VM. The time counts from when the task was created: a controller that was away asks late.
        limits: how long each verb may take.
        now: the time, in UTC; of a task that is not there yet the time begins now.
    """
    name = ledger.task_name(spec, step)
    task = next((t for t in tasks if t.metadata.name == name), None)
    asked = now if task is None else max(step.started_at, task.metadata.creation_timestamp or step.started_at)
    match step.verb:
        case Verb.PREPARE:
            return asked + limits.prepare
        case Verb.PREFLIGHT:
            return asked + limits.preflight
        case Verb.SEAL:
            return asked + timedelta(seconds=step.grace_seconds or 0) + limits.seal
        case Verb.COPY:
            return max(asked, step.moved_at or asked) + limits.copy_silence
        case Verb.ACTIVATE:
            return asked + limits.activate
        case _:
            return None
