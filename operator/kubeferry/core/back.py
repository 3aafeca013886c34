"""A migration on its way back: reverted, cancelled, or rolled back after a failure; and how any migration gives up the lock."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.model import MESSAGE_LENGTH
from kubeferry.api.placement import Copy, Direction, Move, Outcome, PlacementSpec, Settled, Step, StepState
from kubeferry.api.task import DiscardMode, Proof, ProofKind, TaskState, Verb
from kubeferry.core import downtime, guards, ledger
from kubeferry.core.fence import fenced
from kubeferry.core.observed import Observed
from kubeferry.core.parameters import copy_on

OUTCOMES_KEPT = 64


def turned(spec: PlacementSpec, move: Move, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement that goes back, at its next epoch.

    Where the source has not told that it is RELEASED, it goes back at once and needs no target. Else no host may start the VM
    from here on, until the target is proved stopped.

    Args:
        spec: the Placement on its way forward.
        move: its move, with the decision or the attempt that it goes back for.
        now: the time, in UTC.
        fresh_id: an id that was never used.
    """
    source, target = copy_on(spec, move.source), copy_on(spec, move.target)
    copied = ledger.at_epoch(spec, Verb.COPY, source.host_id)
    released = copied is not None and copied.state == StepState.SUCCEEDED
    move = dataclasses.replace(move, direction=Direction.BACK, downtime=downtime.off(move.downtime, now, running=spec.running))
    spec = ledger.raise_epoch(dataclasses.replace(spec, move=move), fresh_id)
    if released:
        return _seal_target(spec, move, target, now)
    spec = dataclasses.replace(spec, node_name=source.node, host_id=source.host_id)
    return ledger.ask(spec, Verb.ACTIVATE, source.node, source.host_id, now)


def _seal_target(spec: PlacementSpec, move: Move, target: Copy, now: datetime) -> PlacementSpec:
    spec = guards.back_clears_node(spec)
    return ledger.ask(spec, Verb.SEAL, target.node, target.host_id, now, grace=move.shutdown_timeout_seconds)


def advance(spec: PlacementSpec, move: Move, observed: Observed, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with the next step of the way back, which never expires; or when to look again, whatever happens.

    Args:
        spec: the outcomes of its tasks stand in the ledger.
        move: its move, of direction Back.
        observed: what was read.
        now: the time, in UTC.
    """
    source, target = copy_on(spec, move.source), copy_on(spec, move.target)
    sealed, activated = ledger.at_epoch(spec, Verb.SEAL, target.host_id), ledger.at_epoch(spec, Verb.ACTIVATE, source.host_id)
    if activated is not None and (sealed is None or activated.seq > sealed.seq):
        if activated.state == StepState.PENDING:
            return spec, None
        if activated.state != StepState.SUCCEEDED:
            return ledger.again(spec, activated, now)
        if activated.result is not None and activated.result.state == TaskState.RELEASED:
            return _seal_target(spec, move, target, now), None
        return _back(spec, move, target, now), None
    if sealed is None:
        raise ValueError("on the way back, either the source is activated or the target is sealed first")
    dead = fenced(spec, target, observed)
    if guards.seal_before_back(spec, target, fenced=dead):
        return _activate_source(spec, move, sealed, now), None
    return (spec, None) if sealed.state == StepState.PENDING else ledger.again(spec, sealed, now)


def _activate_source(spec: PlacementSpec, move: Move, sealed: Step, now: datetime) -> PlacementSpec:
    kind = ProofKind.SEALED if sealed.state == StepState.SUCCEEDED else ProofKind.FENCE
    proof = Proof(kind=kind, node=sealed.node, host_id=sealed.host_id, epoch=spec.epoch, seq=sealed.seq)
    source = copy_on(spec, move.source)
    spec = dataclasses.replace(spec, node_name=source.node, host_id=source.host_id)
    return ledger.ask(spec, Verb.ACTIVATE, source.node, source.host_id, now, proof=proof)


def _back(spec: PlacementSpec, move: Move, target: Copy, now: datetime) -> PlacementSpec:
    """The VM is at its source again, and runs there if it is to run: the lock is given up."""
    spec = dataclasses.replace(spec, move=dataclasses.replace(move, downtime=downtime.on(move.downtime, now)))
    sealed = ledger.at_epoch(spec, Verb.SEAL, target.host_id)
    if sealed is not None and sealed.state != StepState.SUCCEEDED:
        target = dataclasses.replace(target, unsealed=True)
    if move.decision is None:
        failed = move.attempts[-1]
        message = f"{failed.message}. The VM is on {move.source} again, as before"
        return unlocked(spec, target, Outcome.FAILED, failed.reason, message, now)
    if move.awaiting_since is None:
        message = f"it was reverted before the VM was seen on {move.target}. The VM is on {move.source} again, as before"
        return unlocked(spec, target, Outcome.REVERTED, reasons.CANCELLED, message, now)
    message = f"the VM lives on {move.source} again, as it was before; what was written on {move.target} is given up"
    return unlocked(spec, target, Outcome.REVERTED, reasons.REVERTED, message, now)


def unlocked(spec: PlacementSpec, loser: Copy | None, outcome: Outcome, reason: str, message: str, now: datetime) -> PlacementSpec:
    """The Placement without lock, in one write with the outcome and with the mark on the copy that has lost.

    Args:
        spec: a Placement that a Migration holds.
        loser: the copy that is to go; None: it is marked already, or there is none.
        outcome: how the Migration ended.
        reason: why, as one of `api.reasons`.
        message: why, as a sentence.
        now: the time, in UTC.
    """
    if spec.lock is None or spec.move is None:
        raise ValueError("there is no lock to give up")
    uid = spec.lock.uid
    entry = Settled(
        migration_uid=uid,
        outcome=outcome,
        reason=reason,
        message=message[:MESSAGE_LENGTH],
        decision=spec.move.decision,
        attempts=spec.move.attempts,
        downtime=spec.move.downtime,
        time=now,
    )
    copies = spec.copies
    if loser is not None:
        marked = dataclasses.replace(loser, discard=DiscardMode.TRASH, migration_uid=uid)
        copies = tuple(marked if copy.host_id == loser.host_id else copy for copy in copies)
    return dataclasses.replace(spec, lock=None, move=None, copies=copies, settled=(*spec.settled, entry)[-OUTCOMES_KEPT:], unlocked_at=now)
