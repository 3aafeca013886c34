"""A simulated controller: gathers as the real one does, decides with the real `step`, and may end between any two of its writes."""

import dataclasses
from collections.abc import Generator
from datetime import datetime
from typing import TYPE_CHECKING

from kubeferry.api.domain import Cpu, Memory
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import LockKind, Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.placer import request_of
from kubeferry.core.decision import live_reads
from kubeferry.core.migration import finished, unaccounted
from kubeferry.core.observed import Choice, CreatePlacement, Host, NewTask, Observed, Place, ReplacePlacement, Stranger, VmDecision
from kubeferry.core.vm import step
from kubeferry.scheduling.allocation import Allocation
from kubeferry.scheduling.pipeline import run
from kubeferry.scheduling.registry import Profile
from kubeferry.scheduling.snapshot import Candidate, Snapshot
from simulated.api import Api, Node, RefusedError, View
from simulated.users import with_domain

if TYPE_CHECKING:
    from simulated.world import World

Steps = Generator[None, None, None]
FRESH = 40.0
_ALL = Allocation(ratio=1000, reserved=0)


class Controller:
    """One process; a VM is worked on once at a time, the passes are serial."""

    def __init__(self, world: "World", profile: Profile) -> None:
        self.world = world
        self.profile = profile
        self.restart()

    @property
    def api(self) -> Api:
        return self.world.api

    def restart(self) -> None:
        """A new life: nothing of the old one is kept."""
        self.view = View(self.api)
        self.work: dict[str, Steps] = {}
        self.leases: dict[str, tuple[int, float, bool]] = {}
        self.placing: str | None = None
        self.look_at_leases()

    def look_at_leases(self) -> None:
        """Note which Leases have changed."""
        for name, renewals in self.api.leases.items():
            seen = self.leases.get(name)
            if seen is None or seen[0] != renewals:
                self.leases[name] = (renewals, self.world.now, seen is not None)

    def fresh(self, name: str) -> bool | None:
        if name not in self.leases:
            return False
        _, at, changed = self.leases[name]
        recent = self.world.now - at <= FRESH
        return recent if changed else (None if recent else False)

    def advance(self, uid: str) -> None:
        """One step of the work on a VM; begun, if there is none."""
        work = self.work.setdefault(uid, self._reconcile(uid))
        try:
            next(work)
        except StopIteration:
            del self.work[uid]
            if self.placing == uid:
                self.placing = None

    def _reconcile(self, uid: str) -> Steps:
        placement = self.api.get(Placement, uid)
        yield
        seen = self.view.held[VirtualMachine].get(uid)
        vm = seen if seen is not None and placement is not None else self.api.get(VirtualMachine, uid)
        migrations = []
        ended = set() if placement is None else {entry.migration_uid for entry in placement.spec.settled}
        for known in self.view.all(Migration):
            if known.spec.virtual_machine.name == self.world.vm_name(uid):
                newest = known if finished(known) and known.metadata.uid not in ended else self.api.get(Migration, known.metadata.name)
                if newest is not None:
                    self.view.remember(newest)
                    migrations.append(newest)
        lock = None if placement is None else placement.spec.lock
        if lock is not None and lock.kind == LockKind.MIGRATION and all(m.metadata.uid != lock.uid for m in migrations):
            found = self.api.get(Migration, lock.name)
            migrations += [] if found is None or found.metadata.uid != lock.uid else [found]
        yield
        unknown = frozenset() if placement is None else unaccounted(placement.spec, migrations)
        gone = unknown - {m.metadata.uid for m in self.api.objects[Migration].values()}
        now = self.world.time()
        live = frozenset() if placement is None else live_reads(placement.spec, migrations, now)
        nodes: dict[str, Node | None] = {n.metadata.name: n for n in self.view.all(Node)}
        nodes |= {name: self.api.get(Node, name) for name in sorted(live)}
        if live:
            yield
        observed = Observed(
            vm=vm,
            placement=placement,
            tasks=tuple(t for t in self.view.all(HostTask) if t.spec.placement.name == uid),
            hosts=tuple(
                Host(name=name, status=n.status, lease_fresh=self.fresh(name), fence=n.fence)
                for name, n in sorted(nodes.items())
                if n is not None
            ),
            migrations=tuple(sorted(migrations, key=lambda m: (m.metadata.creation_timestamp, m.metadata.name))),
            live=live,
            deletable=True,
            gone=gone,
        )
        yield from self._decide(uid, observed, now)

    def _decide(self, uid: str, observed: Observed, now: datetime) -> Steps:
        decision = step(observed, now, self.world.fresh_id())
        if decision.place is not None:
            if self.placing not in (None, uid):
                return
            self.placing = uid
            observed = dataclasses.replace(observed, choice=self._place(decision.place))
            decision = step(observed, self.world.time(), self.world.fresh_id())
        try:
            stranger = yield from self._execute(uid, observed, decision)
        except RefusedError:
            self.view.advance(10**9)
            return
        if stranger is not None:
            yield from self._decide(uid, dataclasses.replace(observed, strangers=(*observed.strangers, stranger)), now)

    def _place(self, place: Place) -> Choice:
        held: dict[str, int] = {}
        for placement in self.view.all(Placement):
            for name in {c.node for c in placement.spec.copies}:
                held[name] = held.get(name, 0) + (placement.metadata.name != place.vm_uid)
        candidates = tuple(
            Candidate(
                name=n.metadata.name,
                node_ready=True,
                lease_fresh=self.fresh(n.metadata.name),
                hypervisor_ready=True,
                unschedulable=False,
                taints=(),
                labels={},
                architecture=place.architecture,
                machine_types=frozenset({place.machine_type}),
                bridges=frozenset(),
                networks=frozenset(),
                processors=64,
                cpu=_ALL.supply(64, 0),
                memory=_ALL.supply((n.status.memory or 0) * place.memory, held.get(n.metadata.name, 0) * place.memory),
                disk=_ALL.supply(100, 0),
                holders=(),
            )
            for n in self.view.all(Node)
        )
        result = run(Snapshot(candidates), request_of(place), self.profile.filters, self.profile.weighers)
        node = result.feasible[0].name if result.feasible else None
        return Choice(migration_uid=place.migration_uid, node=node, message=result.explain(), report=result.report())

    def _execute(self, uid: str, observed: Observed, decision: VmDecision) -> Generator[None, None, Stranger | None]:
        vm, placement = observed.vm, observed.placement
        if decision.protect and vm is not None:
            self.api.finalize(vm, (*vm.metadata.finalizers, FINALIZER))
            return None
        if (wanted := decision.protect_migration) is not None:
            self.api.finalize(wanted, (*wanted.metadata.finalizers, FINALIZER))
            return None
        if decision.placement is not None:
            for told in decision.migrations:
                self._tell(told.migration, told.status)
                yield
            self._write_placement(observed, decision.placement)
            return None
        if decision.remove_placement and placement is not None:
            yield
            self.world.check_removed(placement)
            self.api.drop(Placement, placement.metadata.name)
            return None
        for new in decision.tasks:
            if placement is None:
                return None
            yield
            if (stranger := self._create_task(placement, new)) is not None:
                return stranger
        for name in decision.forget:
            yield
            self.api.drop(HostTask, name)
            self.view.held[HostTask].pop(name, None)
        yield
        self._tell_people(vm, decision)
        return None

    def _tell_people(self, vm: VirtualMachine | None, decision: VmDecision) -> None:
        if vm is not None and (to := decision.resize) is not None:
            domain = vm.spec.template.spec.domain
            sized = dataclasses.replace(domain, cpu=Cpu(cores=to.cpu), memory=Memory(guest=to.memory))
            self.view.remember(self.api.swap(with_domain(vm, sized), vm.metadata.resource_version))
            return
        if vm is not None and decision.status is not None and decision.status != vm.status:
            vm = self.api.swap(dataclasses.replace(vm, status=decision.status), vm.metadata.resource_version)
            self.view.remember(vm)
        for told in decision.migrations:
            self._tell(told.migration, told.status)
        for done in decision.release_migrations:
            self.api.finalize(done, tuple(f for f in done.metadata.finalizers if f != FINALIZER))
        if vm is not None and decision.release:
            self.api.finalize(vm, ())

    def _tell(self, migration: Migration, status: object) -> None:
        told = self.api.swap(dataclasses.replace(migration, status=status), migration.metadata.resource_version)
        self.world.check_told(told)
        self.view.remember(told)

    def _write_placement(self, observed: Observed, action: CreatePlacement | ReplacePlacement) -> None:
        if isinstance(action, CreatePlacement) or observed.placement is None:
            raise AssertionError("VMs of the simulation are placed from the start")
        before = self.api.get(Placement, observed.placement.metadata.name)
        written = self.api.swap(dataclasses.replace(observed.placement, spec=action.spec), action.resource_version)
        self.world.check_placement(before, written)
        self.view.remember(written)

    def _create_task(self, placement: Placement, new: NewTask) -> Stranger | None:
        there = self.api.get(HostTask, new.name)
        if there is not None and there.spec != new.spec:
            return Stranger(new, there.spec)
        if there is None:
            meta = Meta(name=new.name, uid=f"task-{self.world.number()}", creation_timestamp=self.world.time())
            there = self.api.create(HostTask(metadata=meta, spec=new.spec))
            self.world.check_task(placement, there)
        self.view.remember(there)
        return None
