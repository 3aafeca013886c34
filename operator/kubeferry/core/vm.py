"""A VM's life: placed, created, started, moved, deleted. One step from what was observed to what is to be written."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.migration import Migration
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Placement, PlacementSpec
from kubeferry.api.task import Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import (
    bandwidth,
    creation,
    deletion,
    discards,
    forward,
    guards,
    history,
    ledger,
    migration,
    outlook,
    power,
    project,
    project_migration,
    resize,
    trouble,
)
from kubeferry.core.limits import LIMITS, Limits
from kubeferry.core.observed import Observed, ReplacePlacement, TellMigration, VmDecision


def step(observed: Observed, now: datetime, fresh_id: str, limits: Limits = LIMITS) -> VmDecision:
    """What to write next for one VM.

    Args:
        observed: what was read; the Placement consistently, in this pass.
        now: the time, in UTC.
        fresh_id: an id that was never used, for an epoch that may begin here.
        limits: how long is waited, and how often something is tried.
    """
    vm, placement = observed.vm, observed.placement
    if vm is None:
        # Gone although protected: what is there runs on, and nothing is concluded from its absence.
        return VmDecision(remove_placement=placement is not None and deletion.done(placement.spec))
    if placement is None:
        return _unplaced(vm, observed, now, fresh_id)
    observed = migration.with_usable_choice(placement.spec, observed)
    settled = migration.forget_told(resize.told(ledger.settle(placement, observed.tasks, now), vm), observed)
    if (seen := history.diverged(settled, observed)) is not None:
        return _halted(vm, placement, settled, observed, trouble.Trouble(reasons.HISTORY_DIVERGED, seen), now)
    if (heir := forward.heir(settled, observed)) is not None:
        if FINALIZER not in heir.metadata.finalizers:
            return VmDecision(protect_migration=heir)
        return VmDecision(placement=ReplacePlacement(forward.inherited(settled, heir), guards.cas(placement)))
    following = _following(settled, observed, now, fresh_id, limits)
    if following.spec != placement.spec:
        written = ReplacePlacement(following.spec, guards.cas(placement))
        return VmDecision(placement=written, migrations=_report(observed, now))
    if following.place is not None:
        return VmDecision(place=following.place)
    if (taken := _taken(placement, observed, now, fresh_id)) is not None:
        return dataclasses.replace(taken, migrations=_report(observed, now))
    return _told(vm, placement, observed, following.again, now)


def _taken(placement: Placement, observed: Observed, now: datetime, fresh_id: str) -> VmDecision | None:
    """How the Migration that comes next takes the lock; None: there is none, or something is in its way."""
    first = migration.next_in_line(placement.spec, observed)
    if first is None or outlook.of(first, placement.spec, observed, now) is not None:
        return None
    return migration.take(placement, first, observed, now, fresh_id)


def _following(spec: PlacementSpec, observed: Observed, now: datetime, fresh_id: str, limits: Limits) -> forward.Next:
    """The Placement with what comes next in the VM's life, or in whatever holds it, and with the discards that are due."""
    following = _next(spec, observed, now, fresh_id, limits)
    if deletion.holds(following.spec) and not all(copy.discard for copy in following.spec.copies):
        return following
    wanted, again = discards.work_off(following.spec, now)
    return dataclasses.replace(following, spec=wanted, again=_soonest(following.again, again))


def _next(spec: PlacementSpec, observed: Observed, now: datetime, fresh_id: str, limits: Limits) -> forward.Next:
    if observed.vm is not None and deletion.wanted(spec, observed):
        return forward.Next(deletion.taken_over(spec, observed.vm, now, fresh_id))
    if deletion.holds(spec):
        wanted, again = deletion.advance(spec, observed, now)
        return forward.Next(wanted, again=again)
    if spec.lock is not None:
        following = forward.advance(spec, observed, now, fresh_id, limits)
        return _powered(following, observed, now) if forward.awaits_decision(following.spec) else following
    if observed.vm is not None and observed.vm.metadata.deletion_timestamp is not None:
        return forward.Next(_held(spec))
    if not ledger.created(spec):
        wanted, again = creation.advance(spec, now)
        return forward.Next(wanted, again=again)
    return _powered(forward.Next(spec), observed, now)


def _powered(following: forward.Next, observed: Observed, now: datetime) -> forward.Next:
    if observed.vm is None:
        return following
    wanted, again = power.advance(following.spec, observed.vm, now)
    return dataclasses.replace(following, spec=wanted, again=_soonest(following.again, again))


def _halted(
    vm: VirtualMachine, placement: Placement, settled: PlacementSpec, observed: Observed, found: trouble.Trouble, now: datetime
) -> VmDecision:
    """What its hosts answer is still written down and told; nothing is asked of any host."""
    if settled != placement.spec:
        return VmDecision(placement=ReplacePlacement(settled, guards.cas(placement)))
    told = _tell(placement.spec, observed, found, now)
    return VmDecision(
        status=project.placed(vm, placement.spec, observed.host(placement.spec.node_name), found, now),
        migrations=told,
        release_migrations=_done_with(placement.spec, observed),
        requeue_after=_soonest(outlook.look_again(placement.spec, observed, now), _ending(told)),
    )


def _told(vm: VirtualMachine, placement: Placement, observed: Observed, again: timedelta | None, now: datetime) -> VmDecision:
    """The tasks that the ledger wants, and what people are told."""
    spec = placement.spec
    holder = migration.holder(spec, observed)
    found, due = trouble.find(placement, observed, now)
    found = found or trouble.failing(spec) or trouble.gone(spec, holder)
    told = _tell(spec, observed, found, now)
    in_the_way = {stranger.wanted.name for stranger in observed.strangers}
    return VmDecision(
        tasks=tuple(bandwidth.limited(new, holder) for new in ledger.missing(placement, observed.tasks) if new.name not in in_the_way),
        adjusted=bandwidth.adjusted(observed.tasks, holder),
        forget=ledger.recorded(spec, observed.tasks),
        resize=resize.to_tell(spec, vm),
        status=project.placed(vm, spec, observed.host(spec.node_name), found, now),
        migrations=told,
        release_migrations=_done_with(spec, observed),
        release=deletion.done(spec) and FINALIZER in vm.metadata.finalizers,
        requeue_after=_soonest(again, due, outlook.look_again(spec, observed, now), _ending(told)),
    )


def _report(observed: Observed, now: datetime) -> tuple[TellMigration, ...]:
    """What the scheduling pass found, told before the Placement is written: after that nobody knows it any more."""
    choice = observed.choice
    asked = next((m for m in observed.migrations if choice is not None and m.metadata.uid == choice.migration_uid), None)
    if choice is None or asked is None:
        return ()
    status = project_migration.scheduled(asked, choice, now)
    return () if status == asked.status else (TellMigration(asked, status),)


def _tell(spec: PlacementSpec | None, observed: Observed, found: trouble.Trouble | None, now: datetime) -> tuple[TellMigration, ...]:
    told = ((m, project_migration.told(m, spec, observed, found, now)) for m in observed.migrations)
    return tuple(TellMigration(m, status) for m, status in told if status is not None and status != m.status)


def _done_with(spec: PlacementSpec | None, observed: Observed) -> tuple[Migration, ...]:
    ours = (m for m in observed.migrations if FINALIZER in m.metadata.finalizers)
    return tuple(m for m in ours if (migration.finished(m) if spec is None else migration.may_go(spec, m)))


def _ending(told: tuple[TellMigration, ...]) -> timedelta | None:
    """At once, if an end is told now: what follows from it is decided anew, and no event of our own write wakes us."""
    ends = any(migration.finished(dataclasses.replace(t.migration, status=t.status)) and not migration.finished(t.migration) for t in told)
    return timedelta() if ends else None


def _soonest(*delays: timedelta | None) -> timedelta | None:
    return min((delay for delay in delays if delay is not None), default=None)


def _held(spec: PlacementSpec) -> PlacementSpec:
    """The Placement of a VM that is to go: one that was never asked to start is not started any more."""
    asked = spec.epoch > 1 or ledger.last(spec, Verb.START) is not None
    return spec if asked else dataclasses.replace(spec, running=False)


def _unplaced(vm: VirtualMachine, observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
    decision = _first_step(vm, observed, now, fresh_id)
    told = _tell(None, observed, None, now)
    return dataclasses.replace(
        decision,
        migrations=told,
        release_migrations=_done_with(None, observed),
        requeue_after=_soonest(decision.requeue_after, outlook.look_again(None, observed, now), _ending(told)),
    )


def _first_step(vm: VirtualMachine, observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
    uid = vm.metadata.uid
    held = [f"{host.name} ({copy.role})" for host in observed.hosts if host.holds(uid) and (copy := host.copy_of(uid)) is not None]
    if held or (vm.status is not None and vm.status.node_name):
        return VmDecision(status=project.placement_lost(vm, held, now))
    if vm.metadata.deletion_timestamp is not None:
        return VmDecision(release=FINALIZER in vm.metadata.finalizers)
    if FINALIZER not in vm.metadata.finalizers:
        return VmDecision(protect=True)
    return creation.begin(vm, observed, now, fresh_id)
