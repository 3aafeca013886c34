"""Copies that are to go: each is asked for outside of the lock, again and again, until its host says that it is gone."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.placement import Copy, PlacementSpec, Step, StepState
from kubeferry.api.task import Verb
from kubeferry.core import guards, ledger


def work_off(spec: PlacementSpec, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with a Discard asked of every host whose copy is marked, and without the copies that are gone.

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
        asked = (s for s in spec.steps if s.verb in (Verb.DISCARD, Verb.SEAL) and s.host_id == copy.host_id)
        last = max(asked, key=lambda s: s.seq, default=None)
        if last is not None and (last.verb, last.state) == (Verb.DISCARD, StepState.SUCCEEDED):
            spec = dataclasses.replace(spec, copies=tuple(c for c in spec.copies if c.host_id != copy.host_id))
        elif last is None or last.state == StepState.SUCCEEDED:
            spec = ledger.ask(spec, Verb.DISCARD, copy.node, copy.host_id, now)
        elif last.state != StepState.PENDING:
            spec, wait = _again(spec, copy, last, now)
            waits += [] if wait is None else [wait]
    return spec, min(waits, default=None)


def _again(spec: PlacementSpec, copy: Copy, failed: Step, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """What was refused is asked again; of a host that holds the copy ACTIVE still, one that came back after a fence, its Seal first."""
    if failed.verb == Verb.DISCARD and failed.error is not None and failed.error.reason == reasons.REFUSED_BY_ROLE:
        return ledger.ask(spec, Verb.SEAL, copy.node, copy.host_id, now, grace=0), None
    return ledger.again(spec, failed, now)
