"""What a migration that waits is to do: a person's wish, or what the person has said for the case that none comes in time."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from kubeferry.api.migration import Decision, DecisionSource, DecisionValue, Migration
from kubeferry.api.placement import Direction, Move, PlacementSpec, StepState
from kubeferry.api.task import Verb
from kubeferry.core import guards


def deadline(move: Move, holder: Migration) -> datetime | None:
    """When its onDecisionTimeout is done; None: it waits for ever, or does not wait yet.

    Of one that took the lock over, the time counts from when it was created: whoever creates it has not seen it pass.
    """
    since = move.awaiting_since
    if since is None or holder.spec.decision_timeout_seconds is None:
        return None
    return max(since, holder.metadata.creation_timestamp or since) + timedelta(seconds=holder.spec.decision_timeout_seconds)


def wished(move: Move, holder: Migration, now: datetime) -> Decision | None:
    """What the Migration asks for now; a person's wish counts also after the deadline, for as long as nothing is durable."""
    if holder.spec.decision is not None:
        return Decision(value=holder.spec.decision, source=DecisionSource.USER, time=now)
    due = deadline(move, holder)
    if due is None or due > now or holder.spec.on_decision_timeout is None:
        return None
    return Decision(value=holder.spec.on_decision_timeout, source=DecisionSource.TIMEOUT, time=now)


def confirm_is_wished(spec: PlacementSpec, migrations: Iterable[Migration], now: datetime) -> bool:
    """Whether the Migration that holds the lock awaits its decision, and is to be confirmed."""
    move, lock = spec.move, spec.lock
    if move is None or lock is None or move.direction != Direction.FORWARD or move.awaiting_since is None:
        return False
    asked = (wished(move, m, now) for m in migrations if m.metadata.uid == lock.uid)
    return any(each is not None and each.value == DecisionValue.CONFIRM for each in asked)


def live_reads(spec: PlacementSpec, migrations: Iterable[Migration], now: datetime) -> frozenset[str]:
    """The nodes whose ComputeNode must be read consistently, after this Placement: Confirm and a fence go by their word of now."""
    confirmed = {spec.node_name} if confirm_is_wished(spec, migrations, now) else set()
    sealing = {s.node for s in spec.steps if s.verb == Verb.SEAL and s.state == StepState.PENDING}
    return frozenset(confirmed | {node for node in sealing if guards.fence_reread(spec, node)})
