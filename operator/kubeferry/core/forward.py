"""A migration on its way forward: prepared, copied, started at the target, and then confirmed.

What fails before the Seal leads to the next target, what fails after it leads `back`; so does a wish to revert.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.migration import Attempt, Decision, DecisionSource, DecisionValue, Migration
from kubeferry.api.model import MESSAGE_LENGTH
from kubeferry.api.placement import Copy, Direction, Move, Outcome, PlacementSpec, Step, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import DiscardMode, Proof, ProofKind, Verb
from kubeferry.core import back, deadlines, decision, downtime, guards, ledger, migration, resize
from kubeferry.core.limits import Limits
from kubeferry.core.migration import Obstacle
from kubeferry.core.observed import Observed, Place
from kubeferry.core.parameters import copy_on
from kubeferry.core.told import moment

ORDER = (Verb.PREPARE, Verb.PREFLIGHT, Verb.SEAL, Verb.COPY, Verb.ACTIVATE)
_BEFORE_SEAL = (Verb.PREPARE, Verb.PREFLIGHT)
_NOT_OURS = (
    reasons.UNABLE_TO_MIGRATE_TO_SELF,
    reasons.REFUSED_BY_ROLE,
    reasons.STALE_EPOCH,
    reasons.FOREIGN_FILES,
    reasons.FOREIGN_DOMAIN,
    reasons.HOST_REPLACED,
)
"""A host that refuses a Prepare so holds something of the VM already, or is another: nothing of it is this attempt's, to be discarded."""

_GONE = "the Migration is gone, although it was protected"


@dataclass(frozen=True, slots=True)
class Next:
    """What a migration does next."""

    spec: PlacementSpec
    """Unchanged while it must wait."""
    place: Place | None = None
    """Asked of the scheduling pass, before anything else can be done."""
    again: timedelta | None = None
    """When to look again, whatever happens."""


def advance(spec: PlacementSpec, observed: Observed, now: datetime, fresh_id: str, limits: Limits) -> Next:
    """The next step of the migration that holds the lock.

    Args:
        spec: the outcomes of its tasks stand in the ledger.
        observed: what was read.
        now: the time, in UTC.
        fresh_id: an id that was never used, for an epoch that may begin here.
        limits: how long is waited, and how often something is tried.
    """
    move, holder = spec.move, migration.holder(spec, observed)
    if move is None:
        return Next(spec)
    if move.direction == Direction.BACK:
        wanted, again = back.advance(spec, move, observed, now)
        return Next(wanted, again=again)
    if holder is None:
        return Next(spec if kept_without_holder(spec, move) else _withdrawn(spec, move, now, fresh_id, _GONE))
    if move.awaiting_since is not None:
        due = decision.deadline(move, holder)
        again = due - now if due is not None and due > now else None
        return Next(_decided(spec, move, holder, observed, now, fresh_id), again=again)
    if migration.finished(holder):  # an end is final
        return Next(_withdrawn(spec, move, now, fresh_id, "its end was told by another controller while it was given the lock"))
    way = _Way(spec, move, holder, observed, now, fresh_id, limits)
    if holder.spec.decision == DecisionValue.REVERT or holder.metadata.deletion_timestamp is not None:
        return Next(way.cancelled())
    return way.next()


def kept_without_holder(spec: PlacementSpec, move: Move) -> bool:
    """Whether a migration whose Migration is gone stays as it is: the target may have started the VM, so a human decides."""
    return move.direction == Direction.FORWARD and step_of(spec, move, Verb.ACTIVATE) is not None


def awaits_decision(spec: PlacementSpec) -> bool:
    """Whether the VM was seen at its target, and nobody has decided: what its owner wants of its run state is done there."""
    return spec.move is not None and spec.move.direction == Direction.FORWARD and spec.move.awaiting_since is not None


def heir(spec: PlacementSpec, observed: Observed) -> Migration | None:
    """The Migration that takes over the lock of one that is gone: a new one of its name, which asks for nothing else."""
    lock, move = spec.lock, spec.move
    if lock is None or move is None or migration.holder(spec, observed) is not None or not kept_without_holder(spec, move):
        return None
    for each in observed.migrations:
        meta, wanted = each.metadata, each.spec
        same = (meta.namespace, meta.name) == (lock.namespace, lock.name)
        new = not migration.finished(each) and migration.settled(spec, each) is None and meta.deletion_timestamp is None
        fits = wanted.target_node in (None, move.target) and wanted.source_node in (None, move.source)
        if same and new and fits and wanted.virtual_machine.uid in (None, spec.virtual_machine.uid):
            return each
    return None


def inherited(spec: PlacementSpec, by: Migration) -> PlacementSpec:
    """The Placement whose lock, and whatever the one before has asked to be discarded, is that Migration's."""
    if spec.lock is None:
        raise ValueError("there is no lock to take over")
    gone, uid = spec.lock.uid, by.metadata.uid
    copies = tuple(dataclasses.replace(c, migration_uid=uid) if c.migration_uid == gone else c for c in spec.copies)
    return dataclasses.replace(spec, lock=dataclasses.replace(spec.lock, uid=uid), copies=copies)


def step_of(spec: PlacementSpec, move: Move, verb: Verb) -> Step | None:
    """The newest step of a verb of the way forward, at the current epoch; None: it was not asked."""
    node = move.target if verb in (Verb.PREPARE, Verb.ACTIVATE) else move.source
    return ledger.at_epoch(spec, verb, copy_on(spec, node).host_id)


@dataclass(frozen=True, slots=True)
class _Way:
    """A migration that goes forward, as it is looked at in one pass."""

    spec: PlacementSpec
    move: Move
    holder: Migration
    observed: Observed
    now: datetime
    fresh_id: str
    limits: Limits

    def next(self) -> Next:
        again: list[timedelta] = []
        if (by := migration.start_deadline(self.holder)) is not None and not self._asked(Verb.SEAL):
            if by <= self.now:
                return self._too_late(by)
            again.append(by - self.now)
        for verb in ORDER:
            step = step_of(self.spec, self.move, verb)
            if step is None or step.state == StepState.SUCCEEDED:
                continue
            if step.state != StepState.PENDING:
                return self._failed(step, *_failure(step))
            due = deadlines.due(self.spec, step, self.observed.tasks, self.limits, self.now)
            if due is not None and due <= self.now:
                return self._failed(step, reasons.DEADLINE_EXCEEDED, _late(step, self.now))
            again += [] if due is None else [due - self.now]
            if (note := ledger.to_be_noted(self.spec, step, self.observed.tasks)) is not None:
                again.append(max(note - self.now, timedelta()))
        return Next(self._ask_next(), again=min(again, default=None))

    def _ask_next(self) -> PlacementSpec:
        """The Placement with what comes next, if what must come before was acknowledged."""
        spec, source = self.spec, copy_on(self.spec, self.move.source)
        if not self._done(Verb.PREPARE):  # asked with the lock
            return spec
        if not self._asked(Verb.PREFLIGHT):
            return ledger.ask(spec, Verb.PREFLIGHT, source.node, source.host_id, self.now)
        preflight = step_of(spec, self.move, Verb.PREFLIGHT)
        if preflight is None or preflight.state != StepState.SUCCEEDED:
            return spec
        if not self._asked(Verb.SEAL):
            found = None if preflight.result is None else preflight.result.storage
            off = dataclasses.replace(self.move, storage=found, downtime=downtime.off(self.move.downtime, self.now, running=spec.running))
            spec = dataclasses.replace(spec, move=off)
            return ledger.ask(spec, Verb.SEAL, source.node, source.host_id, self.now, grace=self.move.shutdown_timeout_seconds)
        if not self._asked(Verb.COPY) and guards.sealed_first(Role.SEALED if self._done(Verb.SEAL) else Role.ACTIVE):
            return ledger.ask(spec, Verb.COPY, source.node, source.host_id, self.now)
        if not self._asked(Verb.ACTIVATE) and guards.activate_needs_release(released=self._done(Verb.COPY)):
            return self._switched_over(source)
        if self._asked(Verb.ACTIVATE) and guards.confirm_running(spec):
            seen = dataclasses.replace(self.move, awaiting_since=self.now, downtime=downtime.on(self.move.downtime, self.now))
            return dataclasses.replace(spec, move=seen)
        return spec

    def _asked(self, verb: Verb) -> bool:
        return step_of(self.spec, self.move, verb) is not None

    def _done(self, verb: Verb) -> bool:
        step = step_of(self.spec, self.move, verb)
        return step is not None and step.state == StepState.SUCCEEDED

    def _switched_over(self, source: Copy) -> PlacementSpec:
        """From here on only the target may start the VM; the task that tells it so is created after this is stored."""
        target, copied = copy_on(self.spec, self.move.target), step_of(self.spec, self.move, Verb.COPY)
        seq = self.spec.seq if copied is None else copied.seq
        proof = Proof(kind=ProofKind.RELEASED, node=source.node, host_id=source.host_id, epoch=self.spec.epoch, seq=seq)
        spec = dataclasses.replace(self.spec, node_name=target.node, host_id=target.host_id)
        return ledger.ask(spec, Verb.ACTIVATE, target.node, target.host_id, self.now, proof=proof)

    def _failed(self, step: Step, reason: str, message: str) -> Next:
        attempt = Attempt(node=self.move.target, reason=reason, message=message[:MESSAGE_LENGTH], time=self.now)
        tried = dataclasses.replace(self.move, attempts=(*self.move.attempts, attempt))
        if step.verb in _BEFORE_SEAL:
            return self._next_target(tried)
        resumes = step.state != StepState.PENDING and reason != reasons.INSUFFICIENT_DISK
        if step.verb == Verb.COPY and resumes and self.move.copy_tries + 1 < self.limits.copy_tries:
            return self._copy_again(step)
        return Next(back.turned(self.spec, tried, self.now, self.fresh_id))

    def _copy_again(self, broken: Step) -> Next:
        due = ledger.retry_due(self.move.copy_tries + 1, broken, self.now)
        if due > self.now:
            return Next(self.spec, again=due - self.now)
        spec = dataclasses.replace(self.spec, move=dataclasses.replace(self.move, copy_tries=self.move.copy_tries + 1))
        return Next(ledger.ask(spec, Verb.COPY, broken.node, broken.host_id, self.now))

    def _next_target(self, move: Move) -> Next:
        """The attempt is given up; the node that the scheduling pass finds is next, or the Migration has failed (Nova's reschedule)."""
        last = move.attempts[-1]
        spec = _given_up(self.spec, move)
        if len(move.attempts) >= self.limits.max_attempts:
            return self._end(spec, last.reason, f"{last.message}. That was the last of {len(move.attempts)} attempts")
        if any(host.lease_fresh is None for host in self.observed.hosts):  # who lives is not known yet: no node would be taken
            return Next(self.spec, again=migration.LOOK_AGAIN)
        choice = migration.chosen(self.observed, self.holder)
        if choice is None:
            attempted = frozenset(a.node for a in move.attempts)
            return Next(self.spec, place=migration.wish(spec, self.holder, self.observed, move.source, attempted, move.bytes))
        target = None if choice.node is None else self.observed.host(choice.node)
        if target is None:
            return self._end(spec, last.reason, f"{last.message}. No other node can be taken: {choice.message}")
        spec = dataclasses.replace(spec, move=dataclasses.replace(move, target=target.name))
        return Next(migration.aimed(spec, target, self.now, self.fresh_id))

    def cancelled(self) -> PlacementSpec:
        wish = Decision(value=DecisionValue.REVERT, source=DecisionSource.USER, time=self.now)
        move = dataclasses.replace(self.move, decision=wish)
        if self._asked(Verb.SEAL):
            return back.turned(self.spec, move, self.now, self.fresh_id)
        spec = _given_up(self.spec, move)
        message = "it was reverted, or deleted, before the VM was stopped"
        return _unlocked(spec, move, Outcome.REVERTED, reasons.CANCELLED, message, self.now, self.fresh_id)

    def _too_late(self, by: datetime) -> Next:
        """A controller that was away, or targets that refused, must not stop the VM outside of the time that its owner has chosen."""
        spec = _given_up(self.spec, self.move)
        return self._end(spec, reasons.DEADLINE_EXCEEDED, f"it was to stop the VM by {moment(by)}, which is over")

    def _end(self, spec: PlacementSpec, reason: str, message: str) -> Next:
        return Next(_unlocked(spec, self.move, Outcome.FAILED, reason, message, self.now, self.fresh_id))


def _unlocked(spec: PlacementSpec, move: Move, outcome: Outcome, reason: str, message: str, now: datetime, fresh_id: str) -> PlacementSpec:
    """The lock is given up before the VM was stopped; at a higher epoch, so that no late task of this one is obeyed."""
    message = f"{message}. The VM was not touched, and stays on {move.source}"
    return back.unlocked(ledger.raise_epoch(spec, fresh_id), None, outcome, reason, message, now)


def _withdrawn(spec: PlacementSpec, move: Move, now: datetime, fresh_id: str, message: str) -> PlacementSpec:
    """The Migration can't go on, and nobody is left to decide it: the VM stays, or goes back, where it was."""
    move = dataclasses.replace(
        move, attempts=(*move.attempts, Attempt(node=move.target, reason=reasons.CANCELLED, message=message, time=now))
    )
    if step_of(spec, move, Verb.SEAL) is not None:
        return back.turned(spec, move, now, fresh_id)
    return _unlocked(_given_up(spec, move), move, Outcome.FAILED, reasons.CANCELLED, message, now, fresh_id)


def _failure(step: Step) -> tuple[str, str]:
    """Reason and message of a step that failed."""
    if step.error is None:
        return reasons.INTERNAL_ERROR, f"{step.verb} on {step.node} ended {step.state}, and no reason was told"
    return step.error.reason, f"{step.verb} on {step.node}: {step.error.message}"


def _late(step: Step, now: datetime) -> str:
    waited = (now - (step.moved_at or step.started_at)).total_seconds()
    what = "has not moved" if step.verb == Verb.COPY else "has not ended"
    return f"{step.verb} on {step.node} {what} for {waited:.0f} s: see that {step.node} is up, and the log of its agent"


def _given_up(spec: PlacementSpec, move: Move) -> PlacementSpec:
    """The Placement whose target's copy is marked, or is none of this attempt's; the source's never is.

    Only for a write that raises the epoch: a Prepare that comes late is refused by then.
    """
    holder = spec.lock
    if holder is None:
        raise ValueError("there is no lock to give up")
    spec = dataclasses.replace(spec, move=move)
    if move.target == move.source:
        return spec
    target = copy_on(spec, move.target)
    kept = tuple(copy for copy in spec.copies if copy.host_id != target.host_id)
    prepared = step_of(spec, move, Verb.PREPARE)
    if prepared is not None and prepared.error is not None and prepared.error.reason in _NOT_OURS:
        return dataclasses.replace(spec, copies=kept)
    marked = dataclasses.replace(target, discard=DiscardMode.TRASH, migration_uid=holder.uid)
    return dataclasses.replace(spec, copies=(*kept, marked))


# The decision


def _decided(spec: PlacementSpec, move: Move, holder: Migration, observed: Observed, now: datetime, fresh_id: str) -> PlacementSpec:
    wish = decision.wished(move, holder, now)
    if wish is None:
        return spec
    decided = dataclasses.replace(move, decision=wish)
    if wish.value == DecisionValue.REVERT:
        return back.turned(spec, decided, now, fresh_id)
    return _confirmed(spec, decided, now) if confirm_obstacle(spec, observed) is None else spec


def confirm_obstacle(spec: PlacementSpec, observed: Observed) -> Obstacle | None:
    """Why a Confirm can't be carried out now: it is the last moment at which the source's copy can still be gone back to."""
    target = observed.host(spec.node_name)
    if not guards.confirm_running(spec):
        return Obstacle(reasons.TARGET_NOT_ACTIVE, f"the VM was not seen running on {spec.node_name} at epoch {spec.epoch}")
    if guards.confirm_fresh(spec, target, observed.live):
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


def _confirmed(spec: PlacementSpec, move: Move, now: datetime) -> PlacementSpec:
    source = copy_on(spec, move.source)
    pending = spec.spec_pending if move.was is None else resize.pending(move.domain, move.was)
    spec = dataclasses.replace(spec, domain=move.domain, move=move, spec_pending=pending)
    return back.unlocked(spec, source, Outcome.CONFIRMED, reasons.CONFIRMED, f"the VM lives on {move.target}", now)
