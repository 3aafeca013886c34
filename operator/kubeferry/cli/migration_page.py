"""A Migration as people read it in a terminal: one line while it goes on, a page when it is looked at."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.meta import Condition, Status, condition, is_true
from kubeferry.api.migration import Migration, MigrationPhase, MigrationStatus, Transfer
from kubeferry.core.told import moment

BAR = 24
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_LOOK_AT = (reasons.CONFIRM_BLOCKED, reasons.NEEDS_ATTENTION)
"""Conditions that a human is to look at when they are true."""


def line(migration: Migration) -> str:
    """How far it is, in one line."""
    status = migration.status
    if status is None:
        return f"{migration.metadata.name}  nobody has looked at it yet"
    parts = [migration.metadata.name, status.phase, *_way(status)]
    if status.phase in (MigrationPhase.COPYING, MigrationPhase.ACTIVATING) and status.transfer is not None:
        parts.append(transfer(status.transfer))
    if status.phase in (MigrationPhase.PENDING, MigrationPhase.FAILED, MigrationPhase.ROLLING_BACK):
        parts.append(_why(status))
    return "  ".join(filter(None, parts))


def page(migration: Migration, now: datetime) -> Iterator[str]:
    """All that there is to know of it, line by line, and what can be done next.

    Args:
        migration: as the API server has it.
        now: the time, in UTC.
    """
    meta, status = migration.metadata, migration.status
    yield f"Migration  {meta.namespace}/{meta.name}"
    yield f"VM         {migration.spec.virtual_machine.name}"
    if status is None:
        yield "Phase      nobody has looked at it yet: see that the controller runs"
        return
    since = f" for {duration(now - status.phase_transitions[-1].time)}" if status.phase_transitions else ""
    yield f"Phase      {status.phase}{since}"
    yield from (f"Way        {way}" for way in _way(status))
    if status.transfer is not None:
        yield f"Copy       {transfer(status.transfer)}"
    if status.downtime is not None:
        asked = f"; asked to stop at {moment(status.downtime.started_at)}, not seen running since"
        yield f"Downtime   at most {status.downtime.milliseconds / 1000:.1f} s{asked if status.downtime.ended_at is None else ''}"
    if status.decision is not None:
        yield f"Decision   {status.decision.value} by {status.decision.source} at {moment(status.decision.time)}"
    for attempt in status.attempts:
        yield f"Attempt    {attempt.node}: {attempt.reason}: {attempt.message}"
    for told in _of_note(status):
        yield f"{told.type:<10} {told.reason}: {told.message}"
    yield from _next(migration, status)


def transfer(of: Transfer) -> str:
    """How far a copy is: a bar, bytes, and while it goes on rate and estimate."""
    part = of.bytes_done / of.bytes_total if of.bytes_total else 1.0
    full = int(part * BAR)
    told = f"[{'#' * full}{'-' * (BAR - full)}] {of.progress or f'{part:.0%}'}  {size(of.bytes_done)} of {size(of.bytes_total)}"
    rate = f"  {size(of.rate)}/s" if of.rate else ""
    left = f"  {duration(timedelta(seconds=of.eta_seconds))} left" if of.eta_seconds is not None else ""
    return f"{told}{rate}{left}"


def size(count: int) -> str:
    """Bytes as people read them: 15.0 MiB."""
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count} B" if power == 0 else f"{count / 1024**power:.1f} {_UNITS[power]}"


def duration(of: timedelta) -> str:
    """A time span as kubectl writes it: 42s, 5m3s, 7h12m, 3d4h."""
    seconds = max(int(of.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if hours < 2:
        return f"{minutes}m{seconds % 60}s"
    return f"{hours}h{minutes % 60}m" if days < 2 else f"{days}d{hours % 24}h"


def awaits(migration: Migration) -> bool:
    """Whether a decision is awaited."""
    return _is_true(migration, reasons.AWAITING_DECISION)


def ended(migration: Migration) -> bool:
    """Whether it has ended, well or not."""
    return _is_true(migration, reasons.FINISHED)


def trouble(migration: Migration) -> str:
    """What a human is to look at; empty: nothing."""
    told = () if migration.status is None else migration.status.conditions
    found = (c for c in told if c.type in _LOOK_AT and c.status == Status.TRUE)
    return "; ".join(f"{c.type}: {c.reason}: {c.message}" for c in found)


def _is_true(migration: Migration, kind: str) -> bool:
    return migration.status is not None and is_true(migration.status.conditions, kind)


def _way(status: MigrationStatus) -> Iterator[str]:
    if status.source_node is not None and status.target_node is not None:
        yield f"{status.source_node} -> {status.target_node}"


def _why(status: MigrationStatus) -> str:
    """Why it waits, or went wrong."""
    kind = reasons.SCHEDULED if status.phase == MigrationPhase.PENDING else reasons.SUCCEEDED
    told = condition(status.conditions, kind)
    return "" if told is None else f"{told.reason}: {told.message}"


def _of_note(status: MigrationStatus) -> Iterator[Condition]:
    """What is not as one would expect, or decides how it goes on."""
    scheduled, succeeded = condition(status.conditions, reasons.SCHEDULED), condition(status.conditions, reasons.SUCCEEDED)
    if scheduled is not None and status.phase == MigrationPhase.PENDING:
        yield scheduled
    if succeeded is not None and (succeeded.status == Status.FALSE or status.phase == MigrationPhase.ROLLING_BACK):
        yield succeeded
    for told in status.conditions:
        if told.type in _LOOK_AT and told.status == Status.TRUE:
            yield told


def _next(migration: Migration, status: MigrationStatus) -> Iterator[str]:
    if not awaits(migration):
        return
    where = f"{migration.metadata.name} -n {migration.metadata.namespace}"
    yield f"Next       kubectl ferry confirm {where}   # the VM stays on {status.target_node}, the copy on {status.source_node} goes"
    yield f"           kubectl ferry revert {where}   # the VM goes back to {status.source_node} as it was there"
    if status.decision_deadline is not None:
        yield f"           {migration.spec.on_decision_timeout} is done at {moment(status.decision_deadline)} if nobody decides"
