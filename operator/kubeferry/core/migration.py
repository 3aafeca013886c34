"""A migration: it takes the VM's lock, goes forward to its target, waits for a decision, and is confirmed or reverted.

Pure. What fails on the way stops it where it stands (`stopped`): nothing more is asked of any host until a human looks.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.meta import Status, condition
from kubeferry.api.migration import Decision, DecisionSource, DecisionValue, Migration
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Copy, Direction, Lock, LockKind, Move, Outcome, PlacementSpec, Settled, Step, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import DiscardMode, Verb
from kubeferry.core import guards, ledger
from kubeferry.core.observed import Choice, Host, Observed, Place, ReplacePlacement, VmDecision
from kubeferry.core.parameters import copy_on

OUTCOMES_KEPT = 64
LOOK_AGAIN = timedelta(seconds=2)
"""How soon to look again at what watching may not tell at once."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why something can't be done now."""

    reason: str
    message: str


# Which Migration is whose


def finished(migration: Migration) -> bool:
    """Whether its end was told: the one thing of a Migration's status that is ever read back."""
    told = None if migration.status is None else condition(migration.status.conditions, reasons.FINISHED)
    return told is not None and told.status == Status.TRUE


def holder(spec: PlacementSpec, observed: Observed) -> Migration | None:
    """The Migration that holds the VM's lock, if it is there; one whose end was told holds nothing, whatever the Placement says."""
    if spec.lock is None or spec.lock.kind != LockKind.MIGRATION:
        return None
    return next((m for m in observed.migrations if m.metadata.uid == spec.lock.uid and not finished(m)), None)


def settled(spec: PlacementSpec, migration: Migration) -> Settled | None:
    """Its durable outcome, if it has one and it was not forgotten."""
    return next((s for s in spec.settled if s.migration_uid == migration.metadata.uid), None)


def next_in_line(spec: PlacementSpec | None, observed: Observed) -> Migration | None:
    """The oldest Migration that has not ended: the one that holds the lock, or the one that may take it next."""
    for migration in observed.migrations:
        ended = finished(migration) or (spec is not None and settled(spec, migration) is not None)
        if not ended and not lost(spec, migration) and not cancelled(spec, migration) and migration.metadata.deletion_timestamp is None:
            return migration
    return None


def holds(spec: PlacementSpec | None, migration: Migration) -> bool:
    """Whether it is the one that the Placement says to hold the VM's lock."""
    return spec is not None and spec.lock is not None and spec.lock.uid == migration.metadata.uid


def began(migration: Migration) -> bool:
    """Whether it was told that it held a lock."""
    return migration.status is not None and migration.status.epoch is not None


def lost(spec: PlacementSpec | None, migration: Migration) -> bool:
    """Whether it held a lock once, and this Placement knows nothing of that: the VM, or its Placement, is another by now."""
    known = holds(spec, migration) or (spec is not None and settled(spec, migration) is not None)
    return began(migration) and not finished(migration) and not known


def cancelled(spec: PlacementSpec | None, migration: Migration) -> bool:
    """Whether it is to be reverted before it has begun."""
    return migration.spec.decision == DecisionValue.REVERT and not holds(spec, migration)


def may_go(spec: PlacementSpec, migration: Migration) -> bool:
    """Whether our finalizer may go: its end was told, or it is being deleted and holds no lock, so its outcome, if any, is durable."""
    return finished(migration) or (migration.metadata.deletion_timestamp is not None and not holds(spec, migration))


# Taking the lock


def obstacle(spec: PlacementSpec, observed: Observed) -> Obstacle | None:
    """Why no Migration can take the VM's lock now, whoever comes next."""
    vm, node = observed.vm, spec.node_name
    if spec.lock is not None:
        return Obstacle(reasons.BLOCKED_BY_MIGRATION, f"{spec.lock.kind} {spec.lock.namespace}/{spec.lock.name} holds the VM")
    if vm is None or vm.metadata.deletion_timestamp is not None:
        return Obstacle(reasons.VM_NOT_READY, "the VM is being deleted")
    waits = [f"{s.verb} of {s.node}" for s in spec.steps if s.state == StepState.PENDING and s.verb != Verb.DISCARD]
    if waits or not ledger.created(spec):
        return Obstacle(reasons.VM_NOT_READY, f"{', '.join(waits) or 'the making of its disks'} has not ended")
    if any(host.lease_fresh is None for host in observed.hosts):
        return Obstacle(reasons.AGENTS_NOT_SEEN_YET, "which agents live is not known yet")
    source = observed.host(node)
    if source is None or not source.ready or source.status.host_id != spec.host_id:
        return Obstacle(
            reasons.VM_NOT_READY, f"the agent of {node}, where the VM is, is not ready: see `kubectl get computenode {node} -o yaml`"
        )
    copy = source.copy_of(spec.virtual_machine.uid)
    if copy is None or copy.role != Role.ACTIVE or copy.state != RunState.RUNNING or copy.allocated is None:
        return Obstacle(reasons.VM_NOT_READY, f"{node} does not tell, so far, that the VM runs there")
    return None


def take(spec: PlacementSpec, observed: Observed, now: datetime, fresh_id: str) -> VmDecision | None:
    """The next move of the Migration that comes next, on its way to the lock; None: there is none, or it must wait.

    The finalizer comes first, then the scheduling pass, then one compare-and-swap: `lock, epoch + 1, move, copies += target`, and
    the Prepare that is asked of the target.
    """
    migration = next_in_line(spec, observed)
    if migration is None or obstacle(spec, observed) is not None:
        return None
    if FINALIZER not in migration.metadata.finalizers:
        return VmDecision(protect_migration=migration)
    choice = chosen(observed, migration)
    if choice is None:
        return VmDecision(place=_place(spec, migration, observed))
    if choice.node is None:
        return None
    target = observed.host(choice.node)
    if target is None:  # it went between the pass and this look
        return VmDecision(requeue_after=LOOK_AGAIN)
    return VmDecision(placement=ReplacePlacement(_locked(spec, migration, observed, target, now, fresh_id)))


def chosen(observed: Observed, migration: Migration) -> Choice | None:
    """What the scheduling pass has answered for it, if it was asked."""
    choice = observed.choice
    return choice if choice is not None and choice.migration_uid == migration.metadata.uid else None


def _place(spec: PlacementSpec, migration: Migration, observed: Observed) -> Place:
    uid = spec.virtual_machine.uid
    marked = {copy.node for copy in spec.copies if copy.discard is not None}
    # A host whose state was copied from another's has that one's identity: the two could not be told apart.
    ids = {copy.host_id for copy in spec.copies}
    told = {h.name for h in observed.hosts if h.holds(uid) or h.status.host_id in ids}
    return Place(
        migration_uid=migration.metadata.uid,
        vm_uid=uid,
        source=spec.node_name,
        target=migration.spec.target_node,
        attempted=frozenset(),
        holders=frozenset(marked | told) - {spec.node_name},
        memory=spec.domain.memory,
    )


def _locked(spec: PlacementSpec, migration: Migration, observed: Observed, target: Host, now: datetime, fresh_id: str) -> PlacementSpec:
    meta = migration.metadata
    source = observed.host(spec.node_name)
    held = None if source is None else source.copy_of(spec.virtual_machine.uid)
    if observed.vm is None or held is None or held.allocated is None:
        raise ValueError("a lock is taken only where nothing is in the way")
    timeout = migration.spec.shutdown_timeout_seconds
    move = Move(
        direction=Direction.FORWARD,
        source=spec.node_name,
        target=target.name,
        domain=spec.domain,
        bytes=held.allocated,
        shutdown_timeout_seconds=observed.vm.spec.template.spec.termination_grace_period_seconds if timeout is None else timeout,
    )
    spec = ledger.raise_epoch(spec, fresh_id)
    lock = Lock(kind=LockKind.MIGRATION, namespace=meta.namespace, name=meta.name, uid=meta.uid)
    copies = (*spec.copies, Copy(node=target.name, host_id=target.status.host_id, epoch_id=fresh_id))
    spec = dataclasses.replace(spec, lock=lock, move=move, copies=copies)
    return ledger.ask(spec, Verb.PREPARE, target.name, target.status.host_id, now)


# While it holds the lock


def advance(spec: PlacementSpec, observed: Observed, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement with the next step of the migration that holds the lock; unchanged while it must wait.

    Args:
        spec: the outcomes of its tasks stand in the ledger.
        observed: what was read.
        now: the time, in UTC.
        fresh_id: an id that was never used, for an epoch that may begin here.
    """
    migration, move = holder(spec, observed), spec.move
    if migration is None or move is None or stopped(spec) is not None:
        return spec
    if move.direction == Direction.BACK:
        return _back(spec, move, now)
    return _forward(spec, move, migration, observed, now, fresh_id)


def stopped(spec: PlacementSpec) -> Step | None:
    """The step whose failure has stopped the migration that holds the lock."""
    if spec.move is None:
        return None
    failures = (StepState.FAILED, StepState.SUPERSEDED)
    return next((s for s in spec.steps if s.verb != Verb.DISCARD and s.epoch == spec.epoch and s.state in failures), None)


def state_of(spec: PlacementSpec, verb: Verb) -> StepState | None:
    """How the newest step of that verb at the current epoch stands; None: not asked."""
    step = ledger.last(spec, verb)
    return step.state if step is not None and step.epoch == spec.epoch else None


def _forward(spec: PlacementSpec, move: Move, migration: Migration, observed: Observed, now: datetime, fresh_id: str) -> PlacementSpec:
    source, target = copy_on(spec, move.source), copy_on(spec, move.target)
    for verb, where in (
        (Verb.PREPARE, target),
        (Verb.PREFLIGHT, source),
        (Verb.SEAL, source),
        (Verb.COPY, source),
        (Verb.ACTIVATE, target),
    ):
        state = state_of(spec, verb)
        if state is None:
            # From here on only the target may start the VM; the task that tells it so is created after this is stored.
            moved = dataclasses.replace(spec, node_name=target.node, host_id=target.host_id) if verb == Verb.ACTIVATE else spec
            return ledger.ask(moved, verb, where.node, where.host_id, now)
        if state == StepState.PENDING:
            return spec
    if move.awaiting_since is None:
        return dataclasses.replace(spec, move=dataclasses.replace(move, awaiting_since=now))
    if migration.spec.decision == DecisionValue.CONFIRM and confirm_obstacle(spec, observed) is None:
        return _confirmed(spec, move, source, now)
    if migration.spec.decision == DecisionValue.REVERT:
        return _reverting(spec, move, target, now, fresh_id)
    return spec


def confirm_obstacle(spec: PlacementSpec, observed: Observed) -> Obstacle | None:
    """Why a Confirm can't be carried out now: it is the last moment at which the source's copy can still be gone back to."""
    target = observed.host(spec.node_name)
    if not guards.confirm_running(spec):
        return Obstacle(reasons.TARGET_NOT_ACTIVE, f"the VM was not seen running on {spec.node_name} at epoch {spec.epoch}")
    if guards.confirm_fresh(spec, target):
        return None
    if target is not None and target.lease_fresh is None:
        return Obstacle(reasons.AGENTS_NOT_SEEN_YET, f"whether the agent of {spec.node_name} lives is not known yet")
    if target is None or not target.lease_fresh:
        message = (
            f"the agent of {spec.node_name} does not renew its Lease, so whether the VM is there is not known; the source's copy is kept"
        )
        return Obstacle(reasons.TARGET_SILENT, message)
    message = f"{spec.node_name} does not tell, now, of an ACTIVE copy at epoch {spec.epoch}; the source's copy is kept"
    return Obstacle(reasons.TARGET_NOT_ACTIVE, message)


def confirm_is_wished(spec: PlacementSpec, migrations: Iterable[Migration]) -> bool:
    """Whether the Migration that holds the lock awaits its decision, and is to be confirmed."""
    awaits = spec.move is not None and spec.move.awaiting_since is not None
    return awaits and any(holds(spec, m) and m.spec.decision == DecisionValue.CONFIRM for m in migrations)


def _decision(value: DecisionValue, now: datetime) -> Decision:
    return Decision(value=value, source=DecisionSource.USER, time=now)


def _confirmed(spec: PlacementSpec, move: Move, source: Copy, now: datetime) -> PlacementSpec:
    decision = _decision(DecisionValue.CONFIRM, now)
    message = f"the VM lives on {move.target}"
    spec = dataclasses.replace(spec, domain=move.domain, move=dataclasses.replace(move, decision=decision))
    return _unlocked(spec, source, Outcome.CONFIRMED, reasons.CONFIRMED, message, now)


def _reverting(spec: PlacementSpec, move: Move, target: Copy, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement that goes back: from here on no host may start the VM, until the target is proved stopped."""
    decision = _decision(DecisionValue.REVERT, now)
    spec = ledger.raise_epoch(spec, fresh_id)
    move = dataclasses.replace(move, direction=Direction.BACK, decision=decision, awaiting_since=None)
    spec = dataclasses.replace(spec, node_name="", host_id="", move=move)
    return ledger.ask(spec, Verb.SEAL, target.node, target.host_id, now)


def _back(spec: PlacementSpec, move: Move, now: datetime) -> PlacementSpec:
    source, target = copy_on(spec, move.source), copy_on(spec, move.target)
    if state_of(spec, Verb.SEAL) != StepState.SUCCEEDED:
        return spec
    if (activated := state_of(spec, Verb.ACTIVATE)) is None:
        spec = dataclasses.replace(spec, node_name=source.node, host_id=source.host_id)
        return ledger.ask(spec, Verb.ACTIVATE, source.node, source.host_id, now)
    if activated != StepState.SUCCEEDED:
        return spec
    message = f"the VM lives on {source.node} again, as it was before; what was written on {target.node} is given up"
    return _unlocked(spec, target, Outcome.REVERTED, reasons.REVERTED, message, now)


def _unlocked(spec: PlacementSpec, loser: Copy, outcome: Outcome, reason: str, message: str, now: datetime) -> PlacementSpec:
    """The Placement without lock, in one write with the outcome and with the mark on the copy that has lost."""
    if spec.lock is None or spec.move is None:
        raise ValueError("there is no lock to give up")
    uid = spec.lock.uid
    marked = dataclasses.replace(loser, discard=DiscardMode.TRASH, migration_uid=uid)
    entry = Settled(
        migration_uid=uid,
        outcome=outcome,
        reason=reason,
        message=message,
        decision=spec.move.decision,
        attempts=spec.move.attempts,
        time=now,
    )
    return dataclasses.replace(
        spec,
        lock=None,
        move=None,
        copies=tuple(marked if copy.host_id == loser.host_id else copy for copy in spec.copies),
        settled=(*spec.settled, entry)[-OUTCOMES_KEPT:],
    )


# After it


def forget_told(spec: PlacementSpec, observed: Observed) -> PlacementSpec:
    """The Placement without the outcomes that were read back with Finished=True and whose copies are gone."""
    told = {m.metadata.uid for m in observed.migrations if finished(m)}
    held = {copy.migration_uid for copy in spec.copies if copy.discard is not None}
    kept = tuple(s for s in spec.settled if s.migration_uid not in told or s.migration_uid in held)
    return spec if kept == spec.settled else dataclasses.replace(spec, settled=kept)
