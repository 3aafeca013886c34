"""What is to become of a Migration that does not hold its VM's lock: it may begin, it waits, or it ends without having touched anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.migration import Migration
from kubeferry.api.placement import Outcome, PlacementSpec
from kubeferry.core import migration
from kubeferry.core.observed import Observed
from kubeferry.core.told import moment

VM_READY_WITHIN = timedelta(minutes=5)
"""For how long a VM that is being made, started or stopped is waited for, where the Migration does not say."""
VM_APPEARS_WITHIN = timedelta(seconds=30)
"""A Migration and its VM may be applied in one file, in any order."""
PASS_AGAIN = timedelta(seconds=10)
"""How soon the scheduling pass is run again while no node can be taken: what makes one feasible need not wake the VM."""


@dataclass(frozen=True, slots=True)
class Wait:
    """It waits."""

    reason: str
    message: str
    until: datetime | None
    """Then it ends; None: it waits for as long as it takes."""
    again: timedelta | None = None
    """When to look again, whatever happens."""


@dataclass(frozen=True, slots=True)
class End:
    """It ends."""

    outcome: Outcome
    reason: str
    message: str


def of(asked: Migration, spec: PlacementSpec | None, observed: Observed, now: datetime) -> Wait | End | None:
    """What is to become of one that waits for its VM; None: nothing is in its way.

    Args:
        asked: a Migration that has neither begun nor ended.
        spec: the VM's Placement; None: it has none yet.
        observed: what was read; with what the scheduling pass has answered, once it was run.
        now: the time, in UTC.
    """
    if migration.cancelled(spec, asked):
        return End(Outcome.REVERTED, reasons.CANCELLED, "it was reverted before it had begun. Nothing was touched")
    wait = _in_the_way(asked, spec, observed)
    ready = wait is None or wait.reason == reasons.VM_NOT_READY
    if ready and (end := _decided_beforehand(asked, spec, observed)) is not None:
        return end
    if wait is None:
        return _after_the_pass(asked, observed, now)
    if wait.until is None or wait.until > now:
        return wait
    return End(Outcome.FAILED, wait.reason, f"it could not begin by {moment(wait.until)}: {wait.message}. Nothing was touched")


def waiting(spec: PlacementSpec | None, observed: Observed) -> Iterator[Migration]:
    """The Migrations of a VM that have neither begun nor ended, and are to begin some day."""
    for each in observed.migrations:
        known = spec is not None and (migration.holds(spec, each) or migration.settled(spec, each) is not None)
        if not known and not migration.finished(each) and not migration.lost(spec, each) and each.metadata.deletion_timestamp is None:
            yield each


def look_again(spec: PlacementSpec | None, observed: Observed, now: datetime) -> timedelta | None:
    """When to look again at those that wait for what no event of the VM tells of."""
    waits = [wait for each in waiting(spec, observed) if isinstance(wait := of(each, spec, observed, now), Wait)]
    due = [wait.until - now for wait in waits if wait.until is not None]
    return min([*due, *(wait.again for wait in waits if wait.again is not None)], default=None)


def missing_until(asked: Migration, now: datetime) -> datetime:
    """Until when a VM that is not there is waited for."""
    created = asked.metadata.creation_timestamp or now
    return min(created + VM_APPEARS_WITHIN, migration.start_deadline(asked) or datetime.max.replace(tzinfo=now.tzinfo))


def _in_the_way(asked: Migration, spec: PlacementSpec | None, observed: Observed) -> Wait | None:
    by = migration.start_deadline(asked)
    if spec is None and observed.vm is not None and observed.vm.status is not None and observed.vm.status.node_name:
        message = f"the VM was on {observed.vm.status.node_name}, and its Placement is lost: see the conditions of the VM"
        return Wait(reasons.PLACEMENT_LOST, message, by or _ready_by(asked, spec))
    if spec is None:
        return Wait(reasons.VM_NOT_READY, "the VM has no node yet", by or _ready_by(asked, spec))
    first = migration.next_in_line(spec, observed)
    if first is not None and first.metadata.uid != asked.metadata.uid and spec.lock is None:
        return Wait(reasons.BLOCKED_BY_MIGRATION, f"Migration {first.metadata.namespace}/{first.metadata.name} comes first", by)
    obstacle = migration.obstacle(spec, observed)
    if obstacle is None:
        return None
    if obstacle.reason == reasons.VM_NOT_READY:
        by = by or _ready_by(asked, spec)
    if obstacle.reason == reasons.AGENTS_NOT_SEEN_YET:  # it will be known soon, and then also what is really waited for
        return Wait(obstacle.reason, obstacle.message, None, migration.LOOK_AGAIN)
    return Wait(obstacle.reason, obstacle.message, by)


def _decided_beforehand(asked: Migration, spec: PlacementSpec | None, observed: Observed) -> End | None:
    """What no waiting changes."""
    wanted, vm = asked.spec, observed.vm
    if vm is not None and vm.metadata.deletion_timestamp is not None:
        return None
    if vm is not None and wanted.virtual_machine.uid not in (None, vm.metadata.uid):
        seen = f"the VM has uid {vm.metadata.uid}, expected was {wanted.virtual_machine.uid}: it was made anew under its name"
        return End(Outcome.FAILED, reasons.PRECONDITION_FAILED, f"{seen}. Nothing was touched")
    if spec is None:
        return None
    if wanted.source_node not in (None, spec.node_name):
        seen = f"the VM is on {spec.node_name}, expected was {wanted.source_node}: see where it is to go from there, and create another"
        return End(Outcome.FAILED, reasons.PRECONDITION_FAILED, f"{seen}. Nothing was touched")
    if wanted.target_node == spec.node_name and wanted.resize is not None:
        message = f"the VM is on {spec.node_name}, and a resize leads to another node: name one, or none. Nothing was touched"
        return End(Outcome.FAILED, reasons.UNABLE_TO_MIGRATE_TO_SELF, message)
    if wanted.target_node == spec.node_name and migration.source_is_ready(spec, observed):
        return End(Outcome.CONFIRMED, reasons.ALREADY_AT_TARGET, f"the VM is on {spec.node_name} already. Nothing was touched")
    if wanted.target_node is not None and observed.host(wanted.target_node) is None and wanted.start_deadline_seconds is None:
        known = ", ".join(host.name for host in observed.hosts) or "none"
        message = f"no hypervisor is called {wanted.target_node}; known: {known}. Nothing was touched"
        return End(Outcome.FAILED, reasons.NODE_UNKNOWN, message)
    return None


def _after_the_pass(asked: Migration, observed: Observed, now: datetime) -> Wait | End | None:
    """The pass is run also after the deadline: it tells what had to be waited for until then."""
    choice, by = migration.chosen(observed, asked), migration.start_deadline(asked)
    if choice is None:
        return None
    if choice.node is None:
        if by is not None and by > now:
            return Wait(reasons.NO_FEASIBLE_NODE, choice.message, by, PASS_AGAIN)
        return End(Outcome.FAILED, reasons.NO_FEASIBLE_NODE, f"{choice.message}. Nothing was touched")
    if by is not None and by <= now:
        message = f"it was to begin by {moment(by)}, which is over: nobody may expect it to stop the VM now. Nothing was touched"
        return End(Outcome.FAILED, reasons.DEADLINE_EXCEEDED, message)
    return None


def _ready_by(asked: Migration, spec: PlacementSpec | None) -> datetime | None:
    """Counted from when the VM was free for it: one that waited for an hour behind another is not late at its turn."""
    created, free = asked.metadata.creation_timestamp, None if spec is None else spec.unlocked_at
    return None if created is None else max(created, free or created) + VM_READY_WITHIN
