"""How fast a Copy may be: its Migration says so, also while it runs; no Placement holds it, and nothing is decided by it."""

import dataclasses
from collections.abc import Iterable

from kubeferry.api.migration import Migration
from kubeferry.api.task import HostTask, HostTaskSpec, TaskPhase
from kubeferry.core.observed import NewTask

_OPEN = (None, TaskPhase.PENDING, TaskPhase.RUNNING)


def limited(new: NewTask, holder: Migration | None) -> NewTask:
    """The task with the limit that the Migration which holds the lock gives."""
    return new if holder is None else dataclasses.replace(new, spec=_with(new.spec, holder.spec.bandwidth_limit))


def adjusted(tasks: Iterable[HostTask], holder: Migration | None) -> tuple[HostTask, ...]:
    """Those that have not ended and have another limit than that, with it; of a Migration that is gone the last one stays."""
    if holder is None:
        return ()
    open_ones = (task for task in tasks if (None if task.status is None else task.status.phase) in _OPEN)
    wanted = ((task, _with(task.spec, holder.spec.bandwidth_limit)) for task in open_ones)
    return tuple(dataclasses.replace(task, spec=spec) for task, spec in wanted if spec != task.spec)


def same(one: HostTaskSpec, other: HostTaskSpec) -> bool:
    """Whether two tasks ask the same of a host, however fast."""
    return _with(one, None) == _with(other, None)


def _with(spec: HostTaskSpec, limit: int | None) -> HostTaskSpec:
    return spec if spec.copy is None else dataclasses.replace(spec, copy=dataclasses.replace(spec.copy, bandwidth_limit=limit))
