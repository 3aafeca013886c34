"""Projection of a Copy: how much of it is done, how fast it goes, and when it will be done."""

import dataclasses
from collections.abc import Iterable

from kubeferry.api.migration import Migration, Transfer
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.task import HostTask, TaskProgress, TaskResult, Verb
from kubeferry.core import forward


def transfer(of: Migration, spec: PlacementSpec, tasks: Iterable[HostTask]) -> Transfer | None:
    """What the Copy has moved: from the ledger, from the task that runs, or as it was told last.

    Args:
        of: the Migration that holds the lock.
        spec: the Placement.
        tasks: the HostTasks of the VM.
    """
    step = None if spec.move is None else forward.step_of(spec, spec.move, Verb.COPY)
    if step is not None:
        if step.result is not None:
            return _whole(step.result, None if of.status is None else of.status.transfer)
        running = next((t.status.progress for t in tasks if t.spec.seq == step.seq and t.status is not None), None)
        if running is not None:
            return _running(running)
    return None if of.status is None else of.status.transfer


def _whole(result: TaskResult, told: Transfer | None) -> Transfer | None:
    """A Copy that was acknowledged; one that is asked again finds the target's copy whole, sends nothing, and has no digest to tell."""
    if result.digest is not None and result.bytes_copied is not None:
        total = result.bytes_copied if told is None else max(told.bytes_total, result.bytes_copied)
        return Transfer(bytes_total=total, bytes_done=total, bytes_sent=result.bytes_copied, progress="100%", digest=result.digest)
    return None if told is None else dataclasses.replace(told, bytes_done=told.bytes_total, progress="100%", rate=None, eta_seconds=None)


def _running(progress: TaskProgress) -> Transfer:
    done, total = progress.bytes_done, progress.bytes_total
    return Transfer(
        bytes_total=total,
        bytes_done=done,
        bytes_sent=progress.bytes_sent,
        progress=f"{100 * done // total if total else 100}%",
        rate=progress.rate,
        eta_seconds=-((done - total) // progress.rate) if progress.rate else None,
    )
