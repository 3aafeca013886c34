"""The world: three hosts, two VMs, users, controllers, and what goes wrong, by one seed."""

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import builders
from simulated.api import Api, Node, Refused
from simulated.checks import Checks
from simulated.controller import Controller
from simulated.host import SimHost

from kubeferry.api.meta import Meta
from kubeferry.api.migration import DecisionValue, Migration, MigrationPhase, MigrationSpec
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Copy, Placement, PlacementSpec, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import ledger
from kubeferry.core.journal import Journal, JournalDisk, JournalStep, Reserved
from kubeferry.scheduling.allocation import Allocation, Allocations
from kubeferry.scheduling.registry import FILTER_NAMES, Profile, profile
from simulated.host import Disk

NAMES = ("a", "b", "c")
VMS = ("vm-0", "vm-1")
_ALL = Allocation(ratio=1000, reserved=0)
_SHARED = {uid: builders.vm() for uid in VMS}


@dataclass(frozen=True, slots=True)
class Weights:
    """How often each kind of thing happens, beside the others, and how long it goes on."""

    events: int = 450
    work: int = 50
    deliver: int = 14
    controller: int = 60
    watch: int = 12
    chore: int = 14
    wait: int = 2
    user: int = 5
    revive: int = 3
    agent: float = 1.0
    power: float = 0.7
    network: float = 0.6
    process: float = 0.7
    late: float = 2.0
    lost: float = 0.6
    fence: float = 0.0
    backup: float = 0.0
    delete: float = 0.0
    stray: float = 1.0
    pause: float = 0.0
    reverts: float = 0.5
    controllers: int = 1
    self_target: bool = False
    migrations: int = 3
    vms: int = 2
    refusals: float = 0.06
    corruption: float = 0.05
    capacity: tuple[int, ...] = (2, 2, 1)


PROFILES = {
    "plain": Weights(),
    "two": Weights(controllers=2, process=1.0, pause=5, refusals=0.02, agent=0.5, power=0.3, network=0.3),
    "fence": Weights(events=600, fence=8, power=2.5, wait=5, reverts=0.85, refusals=0.0, agent=0.3, network=0.2, corruption=0.0),
    "delete": Weights(delete=1.0, power=1.0),
    "delete_fence": Weights(delete=2.0, fence=8, power=2.5, wait=4, refusals=0.0, agent=0.3, network=0.2),
    "restore": Weights(events=600, backup=6.0, refusals=0.0, agent=0.4, network=0.2, power=0.4),
    "self": Weights(self_target=True, refusals=0.15, capacity=(2, 1, 1), migrations=4),
    "storm": Weights(agent=4, power=3, network=3, process=3, lost=3, late=6, controllers=2),
    "calm": Weights(agent=0, power=0, network=0, process=0, late=0, lost=0, wait=0, refusals=0, corruption=0),
}
"""What a seed may be like; seeds take them in turn."""
TURNS = tuple(PROFILES)


class World(Checks):
    """One run. Nothing in it depends on anything but the seed, the profile and what is left out (`without`)."""

    def __init__(
        self, seed: int, weights: Weights, without: frozenset[str] = frozenset(), log: Callable[[str], None] | None = None
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)  # noqa: S311
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
        self.backups: list[object] = []
        self.fenced: set[str] = set()
        self.paused: Controller | None = None
        self.made = 0

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
        for _ in range(self.profile.events):
            (name,) = self.rng.choices(names, weights)
            self.now += self.rng.random() * 0.6
            self._happen(name, kinds[name][1])
        self.settle()

    def _happen(self, name: str, what: Callable[[], str | None]) -> None:
        said = what()
        if said is not None and self.log is not None:
            self.log(f"{self.now:8.1f} {name}: {said}")
        if said is not None:
            self.check()

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
            "late task": (p.late, self._late_task),
            "lost": (p.lost, self._lost),
            "fence": (p.fence, self._fence),
            "backup": (p.backup, self._backup),
            "delete": (p.delete, self._delete_vm),
            "stray": (p.stray, self._stray),
        }

    def _work(self) -> str | None:
        jobs = [(sim, job) for sim in self.hosts.values() for job in sim.jobs]
        if not jobs:
            return None
        sim, job = self.rng.choice(jobs)
        for _ in range(self.rng.randint(1, 4)):
            if job in sim.jobs:
                sim.advance(job)
                self.check()
        return f"{sim.name} {job.task.spec.verb if job.task else 'own start'} {job.uid} {sim.journals.get(job.uid) and sim.journals[job.uid].role}"

    def _deliver(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not (sim.up and sim.alive):
            return None
        if sim.reaches_api:
            sim.view.advance(self.rng.randint(1, 12))
        tasks = sim.open_tasks()
        if not tasks:
            return None
        task = tasks[0] if self.rng.random() < 0.8 else self.rng.choice(tasks)
        sim.deliver(task)
        return f"{sim.name} {task.spec.verb} {task.metadata.name} epoch {task.spec.epoch}"

    def _controller(self) -> str | None:
        controller, uid = self.rng.choice(self.controllers), self.rng.choice(VMS[: self.profile.vms])
        if controller is self.paused and self.rng.random() < 0.97:
            return None
        if self.rng.random() < 0.1:
            controller.look_at_leases()
        for _ in range(self.rng.randint(1, 8)):
            controller.advance(uid)
            if uid not in controller.work:
                break
        return f"{self.controllers.index(controller)} {uid}"

    def _watch(self) -> str | None:
        self.rng.choice(self.controllers).view.advance(self.rng.randint(1, 20))
        return None

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
        self.now += self.rng.choice((5, 20, 45, 70))
        return "time passes"

    def _revive(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        uid = self.rng.choice(VMS)
        if not sim.up or not sim.alive:
            return None
        sim.revive(uid)
        return f"{sim.name} {uid}"

    # Users

    def _user(self) -> str | None:
        roll = self.rng.random()
        if roll < 0.4 and self.made < self.profile.migrations:
            return self._create_migration()
        open_ones = [m for m in self.api.objects[Migration].values() if m.spec.decision is None]
        if not open_ones:
            return None
        chosen = self.rng.choice(sorted(open_ones, key=lambda m: m.metadata.name))
        if roll > 0.97:
            return self._delete_migration(chosen)
        awaits = chosen.status is not None and chosen.status.phase == MigrationPhase.AWAITING_DECISION
        if not awaits and self.rng.random() < 0.93:
            return None
        return self.decide(chosen, self._value())

    def _create_migration(self) -> str:
        self.made += 1
        uid = self.rng.choice(VMS[: self.profile.vms])
        wish: dict[str, object] = {"virtualMachine": {"name": uid}}
        if self.rng.random() < 0.25:
            wish["targetNode"] = self.rng.choice(NAMES)
        meta = Meta(name=f"m-{self.made}", namespace="shop", uid=f"m-{self.made}", generation=1, creation_timestamp=self.time())
        self.api.create(Migration(metadata=meta, spec=load(MigrationSpec, wish)))
        return f"{meta.name} of {uid} {wish.get('targetNode', '')}"

    def decide(self, of: Migration, value: DecisionValue) -> str:
        """A person patches spec.decision."""
        meta = dataclasses.replace(of.metadata, generation=of.metadata.generation + 1)
        self.api.put(dataclasses.replace(of, metadata=meta, spec=dataclasses.replace(of.spec, decision=value)))
        return f"{of.metadata.name} {value}"

    def _value(self) -> DecisionValue:
        return DecisionValue.REVERT if self.rng.random() < self.profile.reverts else DecisionValue.CONFIRM

    def _delete_migration(self, of: Migration) -> str:
        meta = of.metadata
        if meta.finalizers:
            self.api.put(dataclasses.replace(of, metadata=dataclasses.replace(meta, deletion_timestamp=self.time())))
        else:
            self.api.drop(Migration, meta.name)
        return f"{meta.name} deleted"

    def _delete_vm(self) -> str | None:
        vm = self.api.get(VirtualMachine, self.rng.choice(VMS[: self.profile.vms]))
        if vm is None or vm.metadata.deletion_timestamp is not None or self.rng.random() > 0.3:
            return None
        self.api.put(dataclasses.replace(vm, metadata=dataclasses.replace(vm.metadata, deletion_timestamp=self.time())))
        self.deleted.add(vm.metadata.uid)
        return vm.metadata.uid

    def _fence(self) -> str | None:
        down = [sim for sim in self.hosts.values() if not sim.up]
        if not down:
            return None
        sim = self.rng.choice(down)
        node = self.api.get(Node, sim.name)
        if node is None or node.fence == sim.boot_id:
            return None
        self.api.put(dataclasses.replace(node, fence=sim.boot_id))
        self.fenced.add(sim.name)
        return f"{sim.name} {sim.boot_id}"

    # What goes wrong

    def _agent_dies(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not sim.alive:
            return None
        sim.die()
        return sim.name

    def _agent_starts(self) -> str | None:
        dead = [sim for sim in self.hosts.values() if sim.up and not sim.alive]
        if not dead:
            return None
        sim = self.rng.choice(dead)
        sim.begin()
        return sim.name

    def _power(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not sim.up:
            return None
        sim.lose_power()
        return f"{sim.name} lost"

    def _power_on(self) -> str | None:
        down = [sim for sim in self.hosts.values() if not sim.up and not (self.restored and sim.name in self.fenced)]
        if not down:
            return None
        sim = self.rng.choice(down)
        sim.power_on()
        return sim.name

    def _network(self) -> str:
        sim = self.hosts[self.rng.choice(NAMES)]
        sim.cut_off = not sim.cut_off and self.rng.random() < 0.7
        return f"{sim.name} {'cut off' if sim.cut_off else 'connected'}"

    def _pause(self) -> str:
        """One of the controllers sleeps in mid-pass; what it is about to write gets old."""
        self.paused = self.rng.choice((*self.controllers, None))
        return str(self.paused and self.controllers.index(self.paused))

    def _controller_dies(self) -> str:
        controller = self.rng.choice(self.controllers)
        controller.restart()
        return str(self.controllers.index(controller))

    def _late_task(self) -> str | None:
        if not self.api.tasks_ever:
            return None
        task: HostTask = self.rng.choice(self.api.tasks_ever)
        sim = self.hosts[task.spec.node]
        if not (sim.up and sim.alive):
            return None
        sim.deliver(task)
        return f"{sim.name} {task.spec.verb} {task.metadata.name} epoch {task.spec.epoch}"

    def _lost(self) -> str:
        watchers = [c.view for c in self.controllers] + [sim.view for sim in self.hosts.values()]
        view = self.rng.choice(watchers)
        if self.rng.random() < 0.5:
            view.lose()
            return "an event"
        view.relist()
        return "a watch, and listed anew"

    def _backup(self) -> str | None:
        if not self.backups:
            if self.rng.random() > 0.25:
                return None
            self.backups.append(self.api.backup())
            self.note_backup()
            return "taken"
        if self.restored or self.rng.random() > 0.12:
            return None
        self.api.restore(self.backups[0])  # type: ignore[arg-type]
        for controller in self.controllers:
            controller.restart()
        self.note_restore()
        return "restored"

    def _stray(self) -> str | None:
        sims = [sim for sim in self.hosts.values() if sim.up and sim.strays]
        if not sims:
            return None
        sim = self.rng.choice(sims)
        sim.stray_write()
        return sim.name

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
            if self.at_rest():
                break
        self.check_end()

    def _round(self, seconds: float) -> None:
        self.now += seconds
        for sim in self.hosts.values():
            if not sim.alive:
                continue
            sim.view.advance(10**9)
            for _ in sim.renewing():
                pass
            for task in sim.open_tasks():
                sim.deliver(task)
                for _ in range(40):
                    for job in list(sim.jobs):
                        sim.advance(job)
            for uid in VMS:
                sim.revive(uid)
            for _ in range(12):
                for job in list(sim.jobs):
                    sim.advance(job)
        self.check()
        controller = self.controllers[0]
        controller.view.advance(10**9)
        controller.look_at_leases()
        for uid in VMS[: self.profile.vms]:
            for _ in range(6):
                self._whole_pass(controller, uid)
        self._decide_for_all()

    def _whole_pass(self, controller: Controller, uid: str) -> None:
        controller.work.pop(uid, None)
        controller.placing = None
        for _ in range(60):
            try:
                controller.advance(uid)
            except Refused:
                return
            self.check()
            if uid not in controller.work:
                return

    def _decide_for_all(self) -> None:
        for migration in sorted(self.api.objects[Migration].values(), key=lambda m: m.metadata.name):
            awaits = migration.status is not None and migration.status.phase == MigrationPhase.AWAITING_DECISION
            if awaits and migration.spec.decision is None:
                self.decide(migration, self._value())
