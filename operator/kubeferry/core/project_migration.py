"""Projections: what people are told of a Migration. Of all that, only `Finished` is ever read back."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.meta import Status
from kubeferry.api.migration import PHASES_TOLD, Attempt, Migration, MigrationPhase, MigrationStatus, PhaseTransition
from kubeferry.api.model import MESSAGE_LENGTH
from kubeferry.api.placement import Direction, Move, Outcome, PlacementSpec, Settled, Step, StepState
from kubeferry.api.task import Storage, Verb
from kubeferry.core import decision, forward, migration, outlook
from kubeferry.core.observed import Choice, Observed
from kubeferry.core.project_transfer import transfer
from kubeferry.core.told import QUIET, Told, moment, tell
from kubeferry.core.trouble import Trouble

_WAITING = Told(Status.FALSE, reasons.WAITING, "what comes before it is not done yet")
_IN_PROGRESS = Told(Status.FALSE, reasons.IN_PROGRESS, "it is being done")
_DONE = Told(Status.TRUE, reasons.DONE, "it was done, and observed")

_NOT_BEGUN: Mapping[str, Told] = {
    reasons.SCHEDULED: _WAITING,
    reasons.PREPARED: _WAITING,
    reasons.SOURCE_SEALED: _WAITING,
    reasons.DISKS_COPIED: _WAITING,
    reasons.TARGET_ACTIVE: _WAITING,
    reasons.AWAITING_DECISION: _WAITING,
    reasons.CONFIRM_BLOCKED: QUIET,
    reasons.CONFIRMED: _WAITING,
    reasons.REVERTED: _WAITING,
    reasons.NEEDS_ATTENTION: QUIET,
    reasons.FINISHED: _WAITING,
    reasons.SUCCEEDED: Told(Status.UNKNOWN, reasons.IN_PROGRESS, "it has not ended"),
}
"""Every condition, as it is told at the first visit."""
_STEPS = (reasons.PREPARED, reasons.SOURCE_SEALED, reasons.DISKS_COPIED, reasons.TARGET_ACTIVE)
_REFUSED_FOR = {reasons.STORAGE_SHARED: Storage.SHARED, reasons.STORAGE_UNKNOWN: Storage.UNKNOWN}
_REACHED = {Outcome.CONFIRMED: reasons.CONFIRMED, Outcome.REVERTED: reasons.REVERTED}
"""The condition that an end makes true."""


def told(of: Migration, spec: PlacementSpec | None, observed: Observed, trouble: Trouble | None, now: datetime) -> MigrationStatus | None:
    """The status of one of a VM's Migrations; None: it stays as it is.

    Args:
        of: the Migration.
        spec: the VM's Placement; None: it has none yet.
        observed: what was read.
        trouble: what is wrong with the VM's tasks.
        now: the time, in UTC.
    """
    if migration.finished(of):  # final, whatever an older Placement says
        return None if of.status is None else _with(of, of.status.phase, {}, now)
    if spec is not None and (entry := migration.settled(spec, of)) is not None:
        return _ended(of, spec, entry, trouble, now)
    if spec is not None and spec.lock is not None and spec.lock.uid == of.metadata.uid:
        return _holding(of, spec, observed, trouble, now)
    if migration.lost(spec, of):
        message = "this Migration held a VM of this name, and its Placement does not tell of it any more: see the conditions of the VM"
        return _lost(of, reasons.PLACEMENT_LOST, message, now)
    if of.metadata.deletion_timestamp is not None:
        return None
    return _waiting(of, spec, observed, now)


def without_vm(of: Migration, now: datetime) -> tuple[MigrationStatus | None, timedelta | None]:
    """The status of a Migration that names a VM which was looked for and is not there; and when to look again."""
    if migration.finished(of):
        return (None if of.status is None else _with(of, of.status.phase, {}, now)), None
    name = f"{of.metadata.namespace}/{of.spec.virtual_machine.name}"
    if migration.began(of):
        lost = f"VirtualMachine {name} is gone, although it was protected, while this Migration held it; its copies are left as they are"
        return _lost(of, reasons.VM_MISSING, lost, now), None
    message = f"there is no VirtualMachine {name}: see that the Migration is in the VM's namespace, and names it as it is called"
    left = outlook.missing_until(of, now) - now
    if left > timedelta():
        return _pending(of, reasons.VM_MISSING, message, now), left
    return _end(of, outlook.End(Outcome.FAILED, reasons.VM_MISSING, f"{message}. Nothing was touched"), now), None


def _waiting(of: Migration, spec: PlacementSpec | None, observed: Observed, now: datetime) -> MigrationStatus:
    match outlook.of(of, spec, observed, now):
        case None:
            status = _pending(of, reasons.IN_PROGRESS, "a node is looked for", now)
        case outlook.Wait() as wait:
            status = _pending(of, wait.reason, wait.message, now)
        case outlook.End() as end:
            status = _end(of, end, now)
    choice = migration.chosen(observed, of)
    return status if choice is None or choice.node is not None else dataclasses.replace(status, scheduling=choice.report)


def _lost(of: Migration, reason: str, message: str, now: datetime) -> MigrationStatus:
    """A Migration of which nothing is known any more beyond what was told."""
    phase = MigrationPhase.PENDING if of.status is None else of.status.phase
    return _with(of, phase, {reasons.NEEDS_ATTENTION: Told(Status.TRUE, reason, message)}, now)


def scheduled(of: Migration, choice: Choice, now: datetime) -> MigrationStatus:
    """The status of a Migration that a scheduling pass was run for, with what the pass found."""
    status = of.status
    if status is None or not migration.began(of):
        status = _with(of, MigrationPhase.SCHEDULING, {**_NOT_BEGUN, reasons.SCHEDULED: _IN_PROGRESS}, now)
    return dataclasses.replace(status, scheduling=choice.report)


def _pending(of: Migration, reason: str, message: str, now: datetime) -> MigrationStatus:
    return _with(of, MigrationPhase.PENDING, {**_NOT_BEGUN, reasons.SCHEDULED: Told(Status.FALSE, reason, message)}, now)


def _end(of: Migration, end: outlook.End, now: datetime) -> MigrationStatus:
    """A Migration that never held the lock: its outcome stands in its status alone."""
    won = Status.TRUE if end.outcome == Outcome.CONFIRMED else Status.FALSE
    not_begun = Told(Status.FALSE, end.reason, "it was not begun")
    ends = {
        reasons.SCHEDULED: Told(won, end.reason, end.message),
        **dict.fromkeys((*_STEPS, reasons.AWAITING_DECISION, reasons.CONFIRMED, reasons.REVERTED), not_begun),
        reasons.FINISHED: Told(Status.TRUE, end.reason, end.message),
        reasons.SUCCEEDED: Told(won, end.reason, end.message),
    }
    if (reached := _REACHED.get(end.outcome)) is not None:
        ends[reached] = Told(Status.TRUE, end.reason, end.message)
    return _with(of, MigrationPhase(end.outcome), {**_NOT_BEGUN, **ends}, now, finished_at=now)


def _holding(of: Migration, spec: PlacementSpec, observed: Observed, trouble: Trouble | None, now: datetime) -> MigrationStatus:
    move = spec.move
    if move is None:
        raise ValueError("a Migration that holds the lock has a move")
    back = move.direction == Direction.BACK
    conditions = dict(_going_back(move, trouble) if back else _going_forward(of, spec, move, observed, now))
    conditions[reasons.SCHEDULED] = Told(Status.TRUE, reasons.PLACED, f"from {move.source} to {move.target}")
    conditions[reasons.NEEDS_ATTENTION] = QUIET if trouble is None else Told(Status.TRUE, trouble.reason, trouble.message)
    conditions[reasons.FINISHED] = _IN_PROGRESS
    conditions[reasons.SUCCEEDED] = Told(Status.UNKNOWN, reasons.IN_PROGRESS, _why_back(move) if back else "it has not ended")
    status = _with(of, phase(spec), conditions, now)
    return dataclasses.replace(
        status,
        epoch=spec.epoch,
        virtual_machine_uid=spec.virtual_machine.uid,
        source_node=move.source,
        target_node=move.target,
        storage=move.storage or _storage_of(move.attempts),
        decision=move.decision,
        attempts=move.attempts,
        transfer=transfer(of, spec, observed.tasks),
        downtime=move.downtime,
        decision_deadline=None if move.decision is not None else decision.deadline(move, of),
        started_at=status.started_at or now,
    )


def _storage_of(attempts: Sequence[Attempt]) -> Storage | None:
    """What the Preflight of the last attempt found, where it was refused for that."""
    return _REFUSED_FOR.get(attempts[-1].reason) if attempts else None


def phase(spec: PlacementSpec) -> MigrationPhase:
    """How far the migration that holds the lock is."""
    move = spec.move
    if move is None:
        raise ValueError("a Migration that holds the lock has a move")
    if move.direction == Direction.BACK:
        return MigrationPhase.ROLLING_BACK if move.decision is None else MigrationPhase.REVERTING
    if move.awaiting_since is not None:
        return MigrationPhase.AWAITING_DECISION
    for verb, doing in (
        (Verb.ACTIVATE, MigrationPhase.ACTIVATING),
        (Verb.COPY, MigrationPhase.COPYING),
        (Verb.SEAL, MigrationPhase.SEALING),
    ):
        if forward.step_of(spec, move, verb) is not None:
            return doing
    return MigrationPhase.PREPARING


def _going_forward(of: Migration, spec: PlacementSpec, move: Move, observed: Observed, now: datetime) -> Mapping[str, Told]:
    def done(verb: Verb) -> Told:
        return _progress(forward.step_of(spec, move, verb))

    preparing = done(Verb.PREPARE)
    return {
        **_NOT_BEGUN,
        reasons.PREPARED: done(Verb.PREFLIGHT) if preparing.status == Status.TRUE else preparing,
        reasons.SOURCE_SEALED: done(Verb.SEAL),
        reasons.DISKS_COPIED: done(Verb.COPY),
        reasons.TARGET_ACTIVE: done(Verb.ACTIVATE),
        reasons.AWAITING_DECISION: _awaiting(of, spec, move),
        reasons.CONFIRM_BLOCKED: _blocked(of, spec, observed, now),
    }


def _awaiting(of: Migration, spec: PlacementSpec, move: Move) -> Told:
    if move.awaiting_since is None:
        return _WAITING
    due = decision.deadline(move, of)
    then = "" if due is None else f", by {moment(due)}: after that {of.spec.on_decision_timeout} is done"
    message = f"the VM is on {spec.node_name}; set spec.decision to Confirm or Revert{then}"
    return Told(Status.TRUE, reasons.NOT_DECIDED, message)


def _blocked(of: Migration, spec: PlacementSpec, observed: Observed, now: datetime) -> Told:
    """Whether a Confirm can't be carried out."""
    if not decision.confirm_is_wished(spec, (of,), now):
        return QUIET
    obstacle = forward.confirm_obstacle(spec, observed)
    return QUIET if obstacle is None else Told(Status.TRUE, obstacle.reason, obstacle.message)


def _going_back(move: Move, trouble: Trouble | None) -> Mapping[str, Told]:
    """What came before Back was told: it stays."""
    if move.decision is None:
        failed = Told(Status.FALSE, move.attempts[-1].reason, move.attempts[-1].message)
        return {reasons.TARGET_ACTIVE: failed, reasons.AWAITING_DECISION: failed, reasons.CONFIRM_BLOCKED: QUIET}
    decided = Told(Status.FALSE, reasons.DECIDED, move.decision.value)
    return {
        reasons.TARGET_ACTIVE: decided,
        reasons.AWAITING_DECISION: decided,
        reasons.CONFIRM_BLOCKED: QUIET,
        reasons.REVERTED: _IN_PROGRESS if trouble is None else Told(Status.FALSE, trouble.reason, trouble.message),
    }


def _why_back(move: Move) -> str:
    return "it is reverted" if move.decision is not None else f"rolling back: {move.attempts[-1].message}"[:MESSAGE_LENGTH]


def _progress(step: Step | None) -> Told:
    if step is None:
        return _WAITING
    if step.state == StepState.SUCCEEDED:
        return _DONE
    if step.error is not None:
        return Told(Status.FALSE, step.error.reason, step.error.message)
    return Told(Status.FALSE, reasons.IN_PROGRESS, f"{step.verb} is asked of {step.node}")


def _ended(of: Migration, spec: PlacementSpec, entry: Settled, trouble: Trouble | None, now: datetime) -> MigrationStatus:
    """A Migration that has given up the lock. A Confirm ends only when the source's copy is gone."""
    confirmed = entry.outcome == Outcome.CONFIRMED
    discarding = [copy.node for copy in spec.copies if copy.discard is not None and copy.migration_uid == entry.migration_uid]
    if entry.decision is None:
        decided = Told(Status.FALSE, entry.reason, entry.message)
    else:
        decided = Told(Status.FALSE, reasons.DECIDED, entry.decision.value)
    conditions = {
        reasons.AWAITING_DECISION: decided,
        reasons.CONFIRM_BLOCKED: QUIET,
        reasons.NEEDS_ATTENTION: QUIET,
    }
    if confirmed:  # whatever was told last: an early Confirm is carried out before the last steps are told
        conditions |= dict.fromkeys(_STEPS, _DONE)
    if confirmed and discarding:
        doing = f"the copy on {', '.join(discarding)} is being discarded"
        conditions |= {
            reasons.CONFIRMED: Told(Status.FALSE, reasons.IN_PROGRESS, doing),
            reasons.NEEDS_ATTENTION: _discard_trouble(spec, entry, trouble),
        }
        status = _with(of, MigrationPhase.CONFIRMING, conditions, now)
    else:
        conditions |= {} if confirmed else _never_reached(of, entry)
        ends = Told(Status.TRUE, entry.reason, entry.message)
        won = Status.TRUE if confirmed else Status.FALSE
        conditions |= {reasons.FINISHED: ends, reasons.SUCCEEDED: Told(won, entry.reason, entry.message)}
        if (reached := _REACHED.get(entry.outcome)) is not None:
            conditions[reached] = Told(Status.TRUE, reasons.DONE, entry.message)
        phase = MigrationPhase(entry.outcome)
        status = _with(of, phase, conditions, now, finished_at=entry.time)
    return dataclasses.replace(
        status,
        storage=status.storage or _storage_of(entry.attempts),
        decision=entry.decision,
        attempts=entry.attempts,
        downtime=entry.downtime,
        decision_deadline=None,
    )


def _never_reached(of: Migration, entry: Settled) -> dict[str, Told]:
    """What was waited for, or being done, when it ended: it is no more."""
    told = {c.type: c.reason for c in of.status.conditions} if of.status is not None else {}
    open_ones = (
        kind for kind in (*_STEPS, *_REACHED.values()) if told.get(kind, reasons.WAITING) in (reasons.WAITING, reasons.IN_PROGRESS)
    )
    return dict.fromkeys(open_ones, Told(Status.FALSE, entry.reason, "it ended before that was done"))


def _discard_trouble(spec: PlacementSpec, entry: Settled, trouble: Trouble | None) -> Told:
    """What is wrong with the discards that this Migration asked for; of the next one's tasks it does not tell."""
    hosts = {copy.host_id for copy in spec.copies if copy.migration_uid == entry.migration_uid}
    ended = [s for s in spec.steps if s.verb == Verb.DISCARD and s.host_id in hosts and s.state != StepState.PENDING]
    failed = max(ended, key=lambda s: s.seq, default=None)
    if failed is not None and failed.error is not None:
        return Told(Status.TRUE, failed.error.reason, f"Discard on {failed.node}: {failed.error.message}; it is asked again")
    return QUIET if trouble is None or spec.lock is not None else Told(Status.TRUE, trouble.reason, trouble.message)


def _with(
    of: Migration, phase: MigrationPhase, conditions: Mapping[str, Told], now: datetime, *, finished_at: datetime | None = None
) -> MigrationStatus:
    """What was told before, with this; every condition is of the newest generation, or `kubectl wait` would wait for it."""
    before, generation = of.status, of.metadata.generation
    if before is None:
        before, conditions = MigrationStatus(phase=phase), {**_NOT_BEGUN, **conditions}
    passed = before.phase_transitions
    if of.status is None or before.phase != phase:
        passed = (*passed, PhaseTransition(phase=phase, time=now))[-PHASES_TOLD:]
    kept = tell(tuple(dataclasses.replace(c, observed_generation=generation) for c in before.conditions), conditions, generation, now)
    return dataclasses.replace(
        before,
        phase=phase,
        phase_transitions=passed,
        observed_generation=generation,
        conditions=kept,
        finished_at=before.finished_at or finished_at,
    )
