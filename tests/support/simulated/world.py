"""The world: three hosts, two VMs, users, controllers, and what goes wrong, by one seed."""

import dataclasses
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import builders

from kubeferry.api import reasons
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration, MigrationPhase
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Copy, Placement, PlacementSpec, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core import ledger
from kubeferry.core.journal import Journal, JournalDisk, JournalStep, Reserved
from kubeferry.scheduling.allocation import Allocation, Allocations
from kubeferry.scheduling.registry import FILTER_NAMES, Profile, profile
from simulated.api import Api, RefusedError
from simulated.base import NAMES, VMS
from simulated.checks import Checks
from simulated.controller import Controller
from simulated.faults import Faults
from simulated.host import Disk, SimHost
from simulated.plots import Plots
from simulated.profiles import Weights
from simulated.users import Users

_ALL = Allocation(ratio=1000, reserved=0)
_SHARED = {uid: builders.vm() for uid in VMS}


class World(Checks, Users, Faults, Plots):
    """One run. Nothing in it depends on anything but the seed, the profile and what is left out (`without`)."""

    def __init__(
        self, seed: int, weights: Weights, without: frozenset[str] = frozenset(), log: Callable[[str], None] | None = None
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.profile, self.without, self.log = weights, without, log
        self.now, self._numbers = 0.0, 0
        self.api = Api()
        self.hosts = {name: SimHost(name, self, weights.capacity[i]) for i, name in enumerate(NAMES)}
        for sim in self.hosts.values():
            sim.publish()
            self.api.leases[sim.name] = 1
        for number, uid in enumerate(VMS[: weights.vms]):
            self._add_vm(uid, NAMES[number])
        filters = [n for n in FILTER_NAMES if not (weights.self_target and n == "SourceNode")]
        packs = {"RAM": -1} if weights.self_target else {}
        made: Profile = profile(filters, packs, Allocations(_ALL, _ALL, _ALL))
        self.controllers = [Controller(self, made) for _ in range(weights.controllers)]
        for sim in self.hosts.values():
            sim.begin()
            self.api.leases[sim.name] = 2
        for controller in self.controllers:
            controller.look_at_leases()
        self.backups: list[dict[type, dict[str, Any]]] = []
        self.fenced: set[str] = set()
        self.paused: Controller | None = None
        self.made = 0
        self.vanished: dict[str, Migration] = {}

    def _add_vm(self, uid: str, node: str) -> None:
        vm = _SHARED[uid]
        meta = Meta(name=uid, namespace="shop", uid=uid, generation=1, finalizers=(FINALIZER,))
        self.api.put(dataclasses.replace(vm, metadata=meta))
        base = builders.placement().spec
        domain = dataclasses.replace(base.domain, uuid=uid)
        reference = dataclasses.replace(base.virtual_machine, name=uid, uid=uid)
        first = f"{uid}-e1"
        spec = PlacementSpec(
            virtual_machine=reference,
            epoch=1,
            lineage=(first,),
            node_name=node,
            host_id=f"host-{node}",
            running=True,
            domain=domain,
            seq=0,
            copies=(Copy(node=node, host_id=f"host-{node}", epoch_id=first),),
        )
        for verb in (Verb.CREATE, Verb.START):
            spec = ledger.ask(spec, verb, node, f"host-{node}", self.time())
        done = tuple(dataclasses.replace(s, state=StepState.SUCCEEDED) for s in spec.steps)
        stored = self.api.put(Placement(metadata=Meta(name=uid, uid=f"placement-{uid}"), spec=dataclasses.replace(spec, steps=done)))
        sim = self.hosts[node]
        step = JournalStep(seq=2, verb=Verb.START)
        sim.journals[uid] = Journal(
            uid=uid,
            epoch=1,
            epoch_id=first,
            role=Role.ACTIVE,
            step=step,
            domain=domain,
            reserved=Reserved(cpu=1, memory=1, disk=1),
            disks={"root": JournalDisk(inode=1)},
        )
        sim.disks[uid] = Disk(True, True, f"{uid}-0")
        sim.run.add(uid)
        sim.with_domain[uid] = domain
        sim.defined.add(uid)
        self.remember_steps(stored)

    # What everybody asks for

    def time(self) -> datetime:
        return builders.after(self.now)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def fresh_id(self) -> str:
        return f"id-{self.number()}"

    def vm_name(self, uid: str) -> str:
        return uid

    # One event

    def play(self) -> None:
        """Everything that the profile lets happen, then calm until all is settled."""
        kinds = self._kinds()
        names = list(kinds)
        weights = [kinds[name][0] for name in names]
        self._create_migration()
        if self.profile.prologue:
            self._prologue(self.profile.prologue)
        happened = 0
        while happened < self.profile.events:
            (name,) = self.rng.choices(names, weights)
            happened += self._happen(name, kinds[name][1])
        self.settle()

    def _happen(self, name: str, what: Callable[[], str | None]) -> bool:
        said = what()
        if said is None:
            return False
        self.now += self.rng.random() * 0.6
        if self.log is not None:
            self.log(f"{self.now:8.1f} {name}: {said}")
        self.check()
        return True

    def _kinds(self) -> dict[str, tuple[float, Callable[[], str | None]]]:
        p = self.profile
        return {
            "work": (p.work, self._work),
            "deliver": (p.deliver, self._deliver),
            "controller": (p.controller, self._controller),
            "watch": (p.watch, self._watch),
            "chore": (p.chore, self._chore),
            "wait": (p.wait, self._wait),
            "user": (p.user, self._user),
            "revive": (p.revive, self._revive),
            "agent dies": (p.agent, self._agent_dies),
            "agent starts": (max(p.agent, p.power) * 3, self._agent_starts),
            "power": (p.power, self._power),
            "power on": (p.power * 0.8, self._power_on),
            "network": (p.network, self._network),
            "controller dies": (p.process, self._controller_dies),
            "pause": (p.pause, self._pause),
            "intrigue": (p.intrigue, self._intrigue),
            "conspiracy": (p.conspiracy, self._conspiracy),
            "late task": (p.late, self._late_task),
            "lost": (p.lost, self._lost),
            "fence": (p.fence, self._fence),
            "backup": (p.backup, self._backup),
            "delete": (p.delete, self._delete_vm),
            "vanish": (p.vanish, self._vanish),
            "halt": (p.halt, self._halt_or_start),
            "edit": (p.edit, self._edit),
            "stray": (p.stray, self._stray),
            "plant": (p.plant, self._plant),
        }

    def _work(self) -> str | None:
        jobs = [(sim, job) for sim in self.hosts.values() if sim.reaches_api or self.rng.random() < 0.2 for job in sim.jobs]
        if not jobs:
            return None
        sim, job = self.rng.choice(jobs)
        for _ in range(self.rng.randint(1, 4)):
            if job in sim.jobs:
                sim.advance(job)
                self.check()
            if job.fills is not None:  # a copy takes its time
                break
        journal = sim.journals.get(job.uid)
        return f"{sim.name} {job.task.spec.verb if job.task else 'own start'} {job.uid} {journal and journal.role}"

    def _deliver(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not (sim.up and sim.alive):
            return None
        if sim.reaches_api:
            sim.view.advance(self.rng.randint(1, 12))
        tasks = sim.open_tasks()
        if not tasks:
            return None
        task, jobs = tasks[0] if self.rng.random() < 0.8 else self.rng.choice(tasks), list(sim.jobs)
        sim.deliver(task)
        if sim.jobs == jobs:
            return None
        return f"{sim.name} {task.spec.verb} {task.metadata.name} epoch {task.spec.epoch}"

    def _controller(self) -> str | None:
        controller, uid = self.rng.choice(self.controllers), self.rng.choice(VMS[: self.profile.vms])
        if controller is self.paused and self.rng.random() < 0.97:
            return None
        if self.rng.random() < 0.1:
            controller.look_at_leases()
        for _ in range(self.rng.choice(self.profile.burst)):
            controller.advance(uid)
            if uid not in controller.work:
                break
        return f"{self.controllers.index(controller)} {uid}"

    def _watch(self) -> str:
        self.rng.choice(self.controllers).view.advance(self.rng.randint(1, 20))
        return "events"

    def _chore(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not sim.reaches_api:
            return None
        sim.chore = sim.chore or sim.renewing()
        try:
            next(sim.chore)
        except StopIteration:
            sim.chore = None
        for uid in sorted(sim.run):
            if self.rng.random() < 0.2:
                sim.disks[uid].content = f"{uid}-{self.number()}"
        return f"{sim.name} tells"

    def _wait(self) -> str:
        self.now += self.rng.choice((3, 10, 25, 45))
        return "time passes"

    def _revive(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        uid = self.rng.choice(VMS)
        if not sim.up or not sim.alive:
            return None
        jobs = len(sim.jobs)
        sim.revive(uid)
        return f"{sim.name} {uid}" if len(sim.jobs) > jobs else None

    # Calm

    def settle(self) -> None:
        """No more faults: within a bounded time everything comes to its end."""
        for sim in self.hosts.values():
            sim.cut_off = False
            if not sim.up and not (self.restored and sim.name in self.fenced):
                sim.power_on()
            if sim.up and not sim.alive:
                sim.begin()
        self.controllers = self.controllers[:1]
        self.controllers[0].restart()
        for round_ in range(220):
            self._round(3.0 if round_ < 60 else 20.0)
            self._decide_for_all()
            self._make_anew_for_all()
            if self.at_rest() or (self.restored and round_ > 25 and self.all_told()):
                break
        self.check_end()

    def _make_anew_for_all(self) -> None:
        """A person does what is told of a lock whose Migration has vanished."""
        for placement in list(self.api.objects[Placement].values()):
            lock = placement.spec.lock
            told = self.attention(placement.metadata.name) or ""
            if lock is not None and told.startswith(reasons.MIGRATION_GONE) and lock.name not in self.api.objects[Migration]:
                self.make_anew(lock.name)

    def _round(self, seconds: float) -> None:
        self.now += seconds
        for sim in self.hosts.values():
            if sim.alive:
                self._works_off(sim)
        self.check()
        controller = self.controllers[0]
        controller.view.advance(10**9)
        controller.look_at_leases()
        for uid in VMS[: self.profile.vms]:
            for _ in range(6):
                before = self.api.version
                self._whole_pass(controller, uid)
                if self.api.version == before:
                    break

    def _works_off(self, sim: SimHost) -> None:
        sim.view.advance(10**9)
        for _ in sim.renewing():
            pass
        for task in sim.open_tasks():
            sim.deliver(task)
            sim.go_on(40)
        for uid in VMS:
            sim.revive(uid)
        sim.go_on(12)

    def _prologue(self, backup_at: str) -> None:
        """A migration comes to where the backup is taken, goes on to another epoch or host, and etcd is as it was in the backup."""
        self._rounds_until(lambda spec: self._is_at(spec, backup_at))
        self.backups.append(self.api.backup())
        self._rounds_until(lambda spec: self._is_at(spec, "awaiting"))
        if backup_at == "awaiting":
            self._everybody_reverts()
            self._rounds_until(lambda spec: spec.lock is None)
        self._restore()
        self._somebody_decides()

    @staticmethod
    def _is_at(spec: PlacementSpec, where: str) -> bool:
        if where == "awaiting":
            return spec.move is not None and spec.move.awaiting_since is not None
        return any(s.verb == Verb.COPY and s.state == StepState.PENDING for s in spec.steps)

    def _rounds_until(self, there: Callable[[PlacementSpec], bool]) -> None:
        for _ in range(30):
            for placement in list(self.api.objects[Placement].values()):
                if there(placement.spec):
                    return
            self._round(3.0)

    def _whole_pass(self, controller: Controller, uid: str) -> None:
        controller.work.pop(uid, None)
        controller.placing = None
        for _ in range(60):
            try:
                controller.advance(uid)
            except RefusedError:
                return
            self.check()
            if uid not in controller.work:
                return

    def _decide_for_all(self) -> None:
        for migration in sorted(self.api.objects[Migration].values(), key=lambda m: m.metadata.name):
            awaits = migration.status is not None and migration.status.phase == MigrationPhase.AWAITING_DECISION
            if awaits and migration.spec.decision is None:
                self.decide(migration, self._value())
