"""Copies that are to go: each is asked for outside of the lock, again and again, until its host says that it is gone."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.placement import Copy, PlacementSpec, StepState
from kubeferry.api.task import Verb
from kubeferry.core import guards, ledger

_VERBS = (Verb.DISCARD, Verb.SEAL)


def work_off(spec: PlacementSpec, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with a Discard asked of every host whose copy is marked, and without the copies that are gone, or were never there.

    Args:
        spec: the outcomes of its tasks stand in the ledger.
        now: the time, in UTC.

    Returns:
        The Placement, and when to look again, whatever happens.
    """
    waits: list[timedelta] = []
    for copy in spec.copies:
        if not guards.discard_after_decision(spec, copy):
            continue
        last = max((s for s in spec.steps if s.host_id == copy.host_id and s.verb in _VERBS), key=lambda s: s.seq, default=None)
        if last is not None and last.error is not None and last.error.reason == reasons.FOREIGN_COPY:
            # Its Prepare has made none. What lies there stays in the inventory of that host, which no pass takes for as long as it does.
            spec = dataclasses.replace(_without(spec, copy), steps=tuple(s for s in spec.steps if s.seq != last.seq))
        elif last is not None and (last.verb, last.state) == (Verb.DISCARD, StepState.SUCCEEDED):
            spec = _without(spec, copy)
        elif last is None or last.state == StepState.SUCCEEDED:
            # A host that comes back after a fence holds its copy ACTIVE still, and an ACTIVE copy is never discarded.
            first = copy.unsealed and last is None
            spec = ledger.ask(spec, Verb.SEAL if first else Verb.DISCARD, copy.node, copy.host_id, now, grace=0 if first else None)
        elif last.state != StepState.PENDING:
            spec, wait = ledger.again(spec, last, now)
            waits += [] if wait is None else [wait]
    return spec, min(waits, default=None)


def _without(spec: PlacementSpec, copy: Copy) -> PlacementSpec:
    return dataclasses.replace(spec, copies=tuple(c for c in spec.copies if c.host_id != copy.host_id))
