"""For how long a migration keeps its VM off, by the controller's clock alone: two hosts' clocks may differ by more than that.

No host tells when the VM had stopped, so it counts as off from when that was asked: it was off for no longer.
"""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api.migration import Downtime

_MILLISECOND = timedelta(milliseconds=1)


def off(before: Downtime | None, now: datetime, *, running: bool) -> Downtime | None:
    """The VM is asked to stop, if it is not off already; one that is not wanted `running` is kept from nothing."""
    if not running:
        return before
    if before is None:
        return Downtime(started_at=now)
    return before if before.ended_at is None else dataclasses.replace(before, started_at=now, ended_at=None)


def on(before: Downtime | None, now: datetime) -> Downtime | None:
    """The VM was seen running."""
    if before is None or before.ended_at is not None:
        return before
    lasted = max(now - before.started_at, timedelta())
    return dataclasses.replace(before, ended_at=now, milliseconds=before.milliseconds + lasted // _MILLISECOND)
