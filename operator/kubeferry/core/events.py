"""Events: what people are told has happened, from what was told of an object before and what is told now.

The same told twice is no event. Reasons are the conditions' own words where there is such a condition. A Migration whose VM was at
the target already tells `AlreadyAtTarget` alone: nobody confirmed anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kubeferry.api import reasons
from kubeferry.api.meta import Condition, Status, condition
from kubeferry.api.migration import MigrationPhase, MigrationStatus
from kubeferry.api.virtualmachine import VirtualMachineStatus


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to an object."""

    reason: str
    """One of `api.reasons`, or a phase."""
    note: str
    warning: bool = False


DELETED = Event(reasons.DELETED, "no host holds a copy; what was given up lies in the trash of its nodes for some time")
"""A VM was let go."""


def of_migration(before: MigrationStatus | None, now: MigrationStatus) -> tuple[Event, ...]:
    """What has happened to a Migration, in the order in which it did."""
    old, new = _conditions(before), now.conditions
    rolls_back = _entered(before, now, MigrationPhase.ROLLING_BACK)
    tried = now.attempts[len(before.attempts if before is not None else ()) :]
    refused = tried[:-1] if rolls_back else tried  # the last one is why it rolls back
    happened = [Event(reasons.TARGET_REFUSED, f"{each.node}: {each.reason}: {each.message}", warning=True) for each in refused]
    told = _became_true(old, new, reasons.SCHEDULED)
    if told is not None and told.reason == reasons.ALREADY_AT_TARGET:
        return (*happened, Event(reasons.ALREADY_AT_TARGET, told.message))
    if told is not None or (before is not None and before.target_node != now.target_node):  # the next target, after one that refused
        happened.append(Event(reasons.SCHEDULED, f"from {now.source_node} to {now.target_node}"))
    if _became_true(old, new, reasons.SOURCE_SEALED) is not None:
        happened.append(Event(reasons.SOURCE_SEALED, f"the VM was proved stopped on {now.source_node}"))
    if _entered(before, now, MigrationPhase.COPYING):
        happened.append(Event(reasons.COPY_STARTED, f"from {now.source_node} to {now.target_node}"))
    if _became_true(old, new, reasons.DISKS_COPIED) is not None:
        copied = "" if now.transfer is None else f"{now.transfer.bytes_done} bytes, "
        happened.append(Event(reasons.DISKS_COPIED, f"{copied}the same on {now.source_node} and {now.target_node}"))
    if _became_true(old, new, reasons.TARGET_ACTIVE) is not None:
        happened.append(Event(reasons.TARGET_ACTIVE, f"the VM was seen running on {now.target_node}"))
    happened += _turned(old, new, (reasons.AWAITING_DECISION,), warning=False)
    happened += _turned(old, new, (reasons.CONFIRM_BLOCKED,), warning=True)
    if rolls_back:
        happened.append(Event(MigrationPhase.ROLLING_BACK, _message(new, reasons.SUCCEEDED), warning=True))
    happened += _turned(old, new, (reasons.NEEDS_ATTENTION,), warning=True)
    happened += _turned(old, new, (reasons.CONFIRMED, reasons.REVERTED), warning=False)
    if _entered(before, now, MigrationPhase.FAILED):
        happened.append(Event(MigrationPhase.FAILED, _reason_and_message(new, reasons.SUCCEEDED), warning=True))
    return tuple(happened)


def of_vm(before: VirtualMachineStatus | None, now: VirtualMachineStatus) -> tuple[Event, ...]:
    """What has happened to a VM, in the order in which it did."""
    old, new = () if before is None else before.conditions, now.conditions
    happened = _turned(old, new, (reasons.SCHEDULED,), warning=False)
    if (told := _became_true(old, new, reasons.VOLUMES_READY)) is not None:
        happened.append(Event(reasons.CREATED, told.message))
    if before is not None and before.node_name and now.node_name and before.node_name != now.node_name:
        happened.append(Event(reasons.MOVED, f"from {before.node_name} to {now.node_name}"))
    seen, is_ready = condition(old, reasons.READY), condition(new, reasons.READY)
    if seen is not None and seen.status == Status.TRUE and is_ready is not None and is_ready.reason in (reasons.STOPPED, reasons.HALTED):
        happened.append(Event(reasons.STOPPED, is_ready.message))
    was_off = seen is not None and seen.status == Status.FALSE  # not: its node was silent
    if was_off and (told := _became_true(old, new, reasons.READY)) is not None:
        happened.append(Event(reasons.STARTED, told.message))
    return (*happened, *_turned(old, new, (reasons.NEEDS_ATTENTION,), warning=True))


def _conditions(status: MigrationStatus | None) -> tuple[Condition, ...]:
    return () if status is None else status.conditions


def _entered(before: MigrationStatus | None, now: MigrationStatus, phase: MigrationPhase) -> bool:
    return now.phase == phase and (before is None or before.phase != phase)


def _became_true(old: Iterable[Condition], new: Iterable[Condition], kind: str) -> Condition | None:
    """The condition, if it is true now and was not, or was so for another reason."""
    told, was = condition(new, kind), condition(old, kind)
    if told is None or told.status != Status.TRUE:
        return None
    return None if was is not None and (was.status, was.reason) == (told.status, told.reason) else told


def _turned(old: Iterable[Condition], new: Iterable[Condition], kinds: Iterable[str], *, warning: bool) -> list[Event]:
    """An event of the condition's own name for each that became true."""
    turned = ((kind, _became_true(old, new, kind)) for kind in kinds)
    return [Event(kind, f"{told.reason}: {told.message}" if warning else told.message, warning=warning) for kind, told in turned if told]


def _message(conditions: Iterable[Condition], kind: str) -> str:
    told = condition(conditions, kind)
    return "" if told is None else told.message


def _reason_and_message(conditions: Iterable[Condition], kind: str) -> str:
    told = condition(conditions, kind)
    return "" if told is None else f"{told.reason}: {told.message}"
