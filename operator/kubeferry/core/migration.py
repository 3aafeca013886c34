"""Which Migration is whose, and how one takes the VM's lock; what it does while it holds the lock is in `forward` and `back`."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.meta import is_true
from kubeferry.api.migration import DecisionValue, Migration
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Copy, Direction, Lock, LockKind, Move, Placement, PlacementSpec, Settled, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import Verb
from kubeferry.core import guards, history, ledger, resize
from kubeferry.core.observed import Choice, Host, Observed, Place, ReplacePlacement, VmDecision

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
    return migration.status is not None and is_true(migration.status.conditions, reasons.FINISHED)


def holder(spec: PlacementSpec, observed: Observed) -> Migration | None:
    """The Migration that holds the VM's lock, if it is there."""
    if spec.lock is None or spec.lock.kind != LockKind.MIGRATION:
        return None
    return next((m for m in observed.migrations if m.metadata.uid == spec.lock.uid), None)


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


def start_deadline(migration: Migration) -> datetime | None:
    """Until when it may begin to stop the VM; None: for ever."""
    created, seconds = migration.metadata.creation_timestamp, migration.spec.start_deadline_seconds
    return None if created is None or seconds is None else created + timedelta(seconds=seconds)


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
    if (seen := history.diverged(spec, observed)) is not None:
        return Obstacle(reasons.HISTORY_DIVERGED, seen)
    # Of a copy that is to go nothing is waited for: its host may be dead, and a fence stand for its Seal.
    marked = {copy.host_id for copy in spec.copies if copy.discard is not None}
    waits = [f"{s.verb} of {s.node}" for s in spec.steps if s.state == StepState.PENDING and s.host_id not in marked]
    if waits or not ledger.created(spec):
        return Obstacle(reasons.VM_NOT_READY, f"{', '.join(waits) or 'the making of its disks'} has not ended")
    if any(host.lease_fresh is None for host in observed.hosts):
        return Obstacle(reasons.AGENTS_NOT_SEEN_YET, "which agents live is not known yet")
    source = observed.host(node)
    if source is None or not source_is_ready(spec, observed):
        return Obstacle(
            reasons.VM_NOT_READY, f"the agent of {node}, where the VM is, is not ready: see `kubectl get computenode {node} -o yaml`"
        )
    copy = source.copy_of(spec.virtual_machine.uid)
    state = RunState.RUNNING if spec.running else RunState.STOPPED
    if copy is None or copy.role != Role.ACTIVE or copy.state != state or copy.allocated is None:
        return Obstacle(reasons.VM_NOT_READY, f"{node} does not tell, so far, that the VM is {state.lower()} there")
    return None


def source_is_ready(spec: PlacementSpec, observed: Observed) -> bool:
    """Whether the host where the VM is tells of itself, now."""
    source = observed.host(spec.node_name)
    return source is not None and source.ready and source.status.host_id == spec.host_id


def take(placement: Placement, migration: Migration, observed: Observed, now: datetime, fresh_id: str) -> VmDecision | None:
    """The next move of a Migration on its way to the lock, where nothing is in its way; None: no node can be taken.

    The finalizer comes first, then the scheduling pass, then one compare-and-swap: `lock, epoch + 1, move, copies += target`, and
    the Prepare that is asked of the target.
    """
    spec = placement.spec
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
    locked = _locked(spec, migration, observed, target, now, fresh_id)
    return VmDecision(placement=ReplacePlacement(locked, guards.cas(placement)))


def chosen(observed: Observed, migration: Migration) -> Choice | None:
    """What the scheduling pass has answered for it, if it was asked."""
    choice = observed.choice
    return choice if choice is not None and choice.migration_uid == migration.metadata.uid else None


def _place(spec: PlacementSpec, migration: Migration, observed: Observed) -> Place:
    source = observed.host(spec.node_name)
    held = None if source is None else source.copy_of(spec.virtual_machine.uid)
    return wish(spec, migration, observed, spec.node_name, frozenset(), (held.allocated if held is not None else None) or 0)


def wish(spec: PlacementSpec, migration: Migration, observed: Observed, source: str, attempted: frozenset[str], disk: int) -> Place:
    """What the scheduling pass is asked for a Migration.

    Args:
        spec: the VM's Placement.
        migration: the Migration.
        observed: what was read.
        source: the node where the VM is.
        attempted: nodes that this Migration has tried.
        disk: bytes that the VM's files occupy.
    """
    domain = spec.domain if observed.vm is None else resize.wished(spec, observed.vm, migration)
    own = {} if observed.vm is None else observed.vm.spec.template.spec.node_selector
    return Place(
        migration_uid=migration.metadata.uid,
        vm_uid=spec.virtual_machine.uid,
        source=source,
        target=migration.spec.target_node,
        attempted=attempted,
        holders=_holders(spec, observed) - {source},
        labels=frozenset(own.items() | (migration.spec.added_node_selector or {}).items()),
        architecture=spec.domain.architecture,
        machine_type=spec.domain.machine_type,
        bridges=spec.domain.bridges,
        networks=spec.domain.libvirt_networks,
        memory=domain.memory,
        cpus=domain.cpu_cores,
        bytes=disk,
    )


def _holders(spec: PlacementSpec, observed: Observed) -> frozenset[str]:
    """The nodes that may hold something of the VM, and so can't take it anew."""
    marked = {copy.node for copy in spec.copies if copy.discard is not None}
    # A host whose state was copied from another's has that one's identity: the two could not be told apart.
    ids = {copy.host_id for copy in spec.copies}
    return frozenset(marked | {h.name for h in observed.hosts if h.holds(spec.virtual_machine.uid) or h.status.host_id in ids})


def with_usable_choice(spec: PlacementSpec, observed: Observed) -> Observed:
    """What was read, with a choice that can be carried out: a profile without the filters StaleCopy and Retry may choose otherwise."""
    choice, move = observed.choice, spec.move
    if choice is None or choice.node is None:
        return observed
    source, host = spec.node_name if move is None else move.source, observed.host(choice.node)
    taken = _holders(spec, observed) | {source} | (frozenset() if move is None else {move.target})
    # The source may be chosen, and refuses; but one that was made anew is another host, whose copy could not be told from the VM's.
    itself = choice.node == source and host is not None and any(copy.host_id == host.status.host_id for copy in spec.copies)
    if itself or choice.node not in taken:
        return observed
    message = (
        f"{choice.node} was chosen, which may still hold a copy of this VM and can't take another; "
        f"let the scheduler's filters StaleCopy and Retry choose, or name another node"
    )
    return dataclasses.replace(observed, choice=dataclasses.replace(choice, node=None, message=message))


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
        domain=resize.wished(spec, observed.vm, migration),
        was=None if migration.spec.resize is None else resize.of_spec(observed.vm),
        bytes=held.allocated,
        shutdown_timeout_seconds=observed.vm.spec.template.spec.termination_grace_period_seconds if timeout is None else timeout,
    )
    lock = Lock(kind=LockKind.MIGRATION, namespace=meta.namespace, name=meta.name, uid=meta.uid)
    return aimed(dataclasses.replace(spec, lock=lock, move=move), target, now, fresh_id)


def aimed(spec: PlacementSpec, target: Host, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement at its next epoch, with a copy on the target of its move and the Prepare that is asked of it.

    Where a copy is known already, as on the source, none is added: that host answers UnableToMigrateToSelf.
    """
    spec = ledger.raise_epoch(spec, fresh_id)
    if all(copy.host_id != target.status.host_id for copy in spec.copies):
        copy = Copy(node=target.name, host_id=target.status.host_id, epoch_id=fresh_id)
        spec = dataclasses.replace(spec, copies=(*spec.copies, copy))
    return ledger.ask(spec, Verb.PREPARE, target.name, target.status.host_id, now)


# After it


def unaccounted(spec: PlacementSpec, migrations: Iterable[Migration]) -> frozenset[str]:
    """The uids of outcomes that could be forgotten if their Migrations, which were not read, are gone: a live list of them tells."""
    return frozenset(s.migration_uid for s in spec.settled) - {m.metadata.uid for m in migrations} - _discarding(spec)


def forget_told(spec: PlacementSpec, observed: Observed) -> PlacementSpec:
    """The Placement without the outcomes that were read back with Finished=True, or of what is gone, and whose copies are gone."""
    told = {m.metadata.uid for m in observed.migrations if finished(m)} | observed.gone
    kept = tuple(s for s in spec.settled if s.migration_uid not in told or s.migration_uid in _discarding(spec))
    return spec if kept == spec.settled else dataclasses.replace(spec, settled=kept)


def _discarding(spec: PlacementSpec) -> frozenset[str]:
    """The uids of the Migrations that have asked for a discard which is not acknowledged yet."""
    return frozenset(copy.migration_uid for copy in spec.copies if copy.discard is not None and copy.migration_uid is not None)
