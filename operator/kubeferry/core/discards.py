"""Copies that are to go: each is asked for outside of the lock, again and again, until its host says that it is gone."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api.placement import Copy, PlacementSpec, Step, StepState
from kubeferry.api.task import Verb
from kubeferry.core import ledger


def work_off(spec: PlacementSpec, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with a Discard asked of every host whose copy is marked, and without the copies that are gone.

    Args:
        spec: the outcomes of its tasks stand in the ledger.
        now: the time, in UTC.

    Returns:
        The Placement, and when to look again, whatever happens.
    """
    again: list[timedelta] = []
    for copy in spec.copies:
        if copy.discard is None:
            continue
        tried = sorted((s for s in spec.steps if s.verb == Verb.DISCARD and s.host_id == copy.host_id), key=lambda s: s.seq)
        if not tried:
            spec = _ask(spec, copy, now)
        elif tried[-1].state == StepState.SUCCEEDED:
            spec = dataclasses.replace(spec, copies=tuple(c for c in spec.copies if c.host_id != copy.host_id))
        elif tried[-1].state != StepState.PENDING:
            due = _due(tried, now)
            if due > now:
                again.append(due - now)
            else:
                spec = _ask(spec, copy, now)
    return spec, min(again, default=None)


def _ask(spec: PlacementSpec, copy: Copy, now: datetime) -> PlacementSpec:
    return ledger.ask(spec, Verb.DISCARD, copy.node, copy.host_id, now)


def _due(tried: list[Step], now: datetime) -> datetime:
    return ledger.retry_due(sum(s.state != StepState.SUCCEEDED for s in tried), tried[-1], now)
