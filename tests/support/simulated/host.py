"""A simulated host: journals and disks that last, an agent, QEMU processes and a boot that don't. Every `yield` may be the last."""

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.api.placement import Placement
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, HostTaskSpec, HostTaskStatus, TaskError, TaskPhase, TaskProgress, TaskResult, TaskState
from kubeferry.core import gate, guards, host, transitions
from kubeferry.core.host import Acknowledge, Effect, Refuse
from kubeferry.core.journal import Journal, JournalDisk
from simulated.api import Api, Node, View
from simulated.teller import Teller

if TYPE_CHECKING:
    from simulated.world import World

Steps = Generator[None, None, None]
Result = Generator[None, None, TaskResult | None]
CHUNKS = 3
GATE_VALID = 5.0


class FailedError(Exception):
    """A task ends as Failed, or a start comes to nothing."""

    def __init__(self, reason: str, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.error = TaskError(reason=reason, message=message, retryable=retryable)


@dataclass(slots=True)
class Disk:
    """A VM's disk. `fresh`: it holds what the VM is to go on with."""

    whole: bool
    fresh: bool
    content: str


@dataclass(slots=True)
class Job:
    """What the agent is at. `task` None: it starts by itself a VM that is ACTIVE."""

    uid: str
    task: HostTask | None
    steps: Steps
    fills: tuple[str, HostTaskSpec] | None = None
    """The host that it fills a copy on."""


@dataclass(eq=False)
class SimHost(Teller):
    """One hypervisor."""

    name: str
    world: "World"
    memory: int
    boot: int = 1
    up: bool = True
    alive: bool = True
    cut_off: bool = False
    journals: dict[str, Journal] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    sealed: dict[str, str] = field(default_factory=dict)
    """Content of each disk when its copy was sealed."""
    run: set[str] = field(default_factory=set)
    with_domain: dict[str, Domain] = field(default_factory=dict)
    """What each VM that ran here was started with, the last time."""
    defined: set[str] = field(default_factory=set)
    jobs: list[Job] = field(default_factory=list)
    receiving: dict[str, object] = field(default_factory=dict)
    strays: list[tuple[HostTaskSpec, str]] = field(default_factory=list)
    """Copiers, with the node they came from, that outlived their agent and write here."""
    foreign: set[str] = field(default_factory=set)
    """VMs of which an older copy lies here that no Prepare has made."""
    chore: Steps | None = None

    def __post_init__(self) -> None:
        self.view = View(self.api)

    @property
    def api(self) -> Api:
        return self.world.api

    @property
    def host_id(self) -> str:
        return f"host-{self.name}"

    @property
    def boot_id(self) -> str:
        return f"boot-{self.name}-{self.boot}"

    @property
    def reaches_api(self) -> bool:
        return self.up and self.alive and not self.cut_off

    # What happens to it

    def die(self) -> None:
        """The agent is killed; its copiers die with it."""
        for job in self.jobs:
            if job.fills is not None and "children_die" in self.world.without:
                self.world.hosts[job.fills[0]].strays.append((job.fills[1], self.name))
        self.alive, self.jobs, self.chore = False, [], None
        self.receiving.clear()

    def lose_power(self) -> None:
        self.die()
        self.up, self.strays = False, []
        self.run.clear()

    def power_on(self) -> None:
        self.up, self.boot, self.alive = True, self.boot + 1, False
        if "transient" in self.world.without:
            for uid in sorted(self.defined & self.disks.keys()):
                self.world.begins_to_run(self, uid)

    def begin(self) -> None:
        """The agent starts, and finds whatever is open."""
        self.alive = True
        self.view.relist()

    # Its work

    def open_tasks(self) -> list[HostTask]:
        """What it has seen and not ended: the highest epoch first."""
        mine = [
            t
            for t in self.view.all(HostTask)
            if t.spec.node == self.name and (t.status is None or t.status.phase in (TaskPhase.PENDING, TaskPhase.RUNNING))
        ]
        return sorted(mine, key=lambda t: (t.spec.placement.name, -t.spec.epoch, t.spec.seq))

    def deliver(self, task: HostTask) -> None:
        """The agent takes a task up, or lets it wait."""
        uid = task.spec.placement.name
        for job in [j for j in self.jobs if j.uid == uid]:
            if job.task is not None and job.task.spec == task.spec:
                return
            running = task.spec if job.task is None else job.task.spec
            if task.spec.epoch > running.epoch:
                if guards.supersede(running, task.spec):
                    self._end(job)
            elif guards.one_job(running, task.spec):
                return
        self._take_up(Job(uid, task, self._execute(task)))

    def revive(self, uid: str) -> None:
        """An ACTIVE VM does not run, and nothing else is done with it."""
        journal = self.journals.get(uid)
        if journal is not None and journal.role == Role.ACTIVE and uid not in self.run and all(j.uid != uid for j in self.jobs):
            self._take_up(Job(uid, None, self._revival(uid)))

    def _take_up(self, job: Job) -> None:
        self.jobs.append(job)
        self.world.check_jobs(self)

    def _end(self, job: Job) -> None:
        self.jobs.remove(job)
        if job.task is not None:
            error = TaskError(reason=reasons.SUPERSEDED, message="")
            self._tell(job.task, HostTaskStatus(phase=TaskPhase.SUPERSEDED, error=error))

    def advance(self, job: Job) -> None:
        """One step of a job."""
        try:
            next(job.steps)
        except StopIteration:
            if job in self.jobs:
                self.jobs.remove(job)

    def go_on(self, steps: int) -> None:
        """So many steps of every job."""
        for _ in range(steps):
            for job in list(self.jobs):
                self.advance(job)

    def _revival(self, uid: str) -> Steps:
        yield
        try:
            yield from self._start(uid, None)
        except FailedError:
            return

    def _execute(self, task: HostTask) -> Steps:
        uid = task.spec.placement.name
        self._tell(task, HostTaskStatus(phase=TaskPhase.RUNNING))
        yield
        while not self.reaches_api:
            yield
        placement = self.api.get(Placement, uid)
        yield
        self.receiving.pop(uid, None)  # whoever fills this copy is gone before its journal is judged by
        try:
            result = None
            while result is None:
                result = yield from self._answer(task, placement)
        except FailedError as failed:
            self._tell(task, HostTaskStatus(phase=TaskPhase.FAILED, error=failed.error))
        else:
            self._tell(task, HostTaskStatus(phase=TaskPhase.SUCCEEDED, result=result))

    def _tell(self, task: HostTask, status: HostTaskStatus) -> None:
        there = self.api.get(HostTask, task.metadata.name)
        if there is not None and self.reaches_api:
            self.view.remember(self.api.put(dataclasses.replace(there, status=status)))

    def _answer(self, task: HostTask, placement: Placement | None) -> Result:
        uid, spec = task.spec.placement.name, task.spec
        if placement is None:
            raise FailedError(reasons.PLACEMENT_LOST)
        answer = host.answer(spec, self.journals.get(uid), placement.spec, self.host_id)
        if isinstance(answer, Refuse):
            raise FailedError(answer.reason, answer.message, retryable=answer.retryable)
        if isinstance(answer, Acknowledge):
            if answer.note is not None:
                self._write(answer.note)
                yield
            if answer.state == TaskState.READY:
                self.world.is_ready(self, uid)
            return TaskResult(state=answer.state)
        return (yield from self._effect(task, answer.journal, answer.effect))

    def _effect(self, task: HostTask, journal: Journal, effect: Effect) -> Result:
        uid, spec = journal.uid, task.spec
        match effect:
            case Effect.START:
                self._write(journal)
                yield
                if uid not in self.run:
                    yield from self._start(uid, spec)
                return TaskResult(state=TaskState.RUNNING)
            case Effect.RESERVE:
                return (yield from self._reserve(journal))
            case Effect.REACH:
                return self._reach(spec)
            case Effect.POWER_OFF:
                self._write(journal)
                yield
                self.run.discard(uid)
                yield
                return TaskResult(state=TaskState.STOPPED)
            case Effect.STOP | Effect.FINISH_SEAL:
                yield from self._seal(journal)
                return TaskResult(state=TaskState.SEALED) if effect == Effect.STOP else None
            case Effect.SEND:
                return (yield from self._send(task, journal))
            case Effect.DISCARD:
                return (yield from self._discard(journal))
            case _:
                raise AssertionError(f"{effect} is not simulated")

    def _reserve(self, journal: Journal) -> Result:
        held = sum(1 for j in self.journals.values() if j.reserved is not None and j.uid != journal.uid)
        if held >= self.memory:
            raise FailedError(reasons.INSUFFICIENT_MEMORY)
        if journal.uid in self.disks:
            raise FailedError(reasons.FOREIGN_FILES)
        self._write(transitions.reserve(journal, 1))
        yield
        return TaskResult(state=TaskState.PREPARED)

    def _reach(self, spec: HostTaskSpec) -> TaskResult:
        target = spec.preflight.target if spec.preflight is not None else ""
        if not self.world.hosts[target].alive or self.world.rng.random() < self.world.profile.refusals:
            raise FailedError(reasons.SSH_UNREACHABLE)
        return TaskResult(state=TaskState.REACHABLE)

    def _write(self, journal: Journal) -> None:
        stored = self.journals.get(journal.uid)
        if stored is not None and journal.epoch < stored.epoch:
            self.world.violated(7, f"the journal of {journal.uid} on {self.name} would go from epoch {stored.epoch} to {journal.epoch}")
        self.journals[journal.uid] = journal
        if journal.role == Role.SEALED and (stored is None or stored.role != Role.SEALED) and journal.uid in self.disks:
            self.sealed[journal.uid] = self.disks[journal.uid].content

    def _start(self, uid: str, task: HostTaskSpec | None) -> Steps:
        for _ in range(3):
            if "publish_first" not in self.world.without:
                yield from self._publish_boot()
            if not self.reaches_api:
                raise FailedError(reasons.GATE_SHUT)
            asked, placement, journal = self.world.now, self.api.get(Placement, uid), self.journals[uid]
            if placement is None:
                raise FailedError(reasons.PLACEMENT_LOST)
            refused = gate.start(placement.spec, journal, self.name, self.host_id, task)
            if refused is not None:
                raise FailedError(refused.reason, refused.message, retryable=refused.retryable)
            yield
            if self.world.rng.random() < self.world.profile.refusals:
                raise FailedError(reasons.HYPERVISOR_ERROR, retryable=True)
            if self.world.now - asked <= GATE_VALID:
                if uid not in self.run:
                    self.world.begins_to_run(self, uid)
                yield
                return
        raise FailedError(reasons.GATE_SHUT, retryable=True)

    def _publish_boot(self) -> Steps:
        node = self.api.get(Node, self.name)
        if node is None or node.status.boot_id != self.boot_id:
            if not self.reaches_api:
                raise FailedError(reasons.GATE_SHUT)
            self.publish()
            yield

    def _seal(self, journal: Journal) -> Steps:
        uid = journal.uid
        self._write(journal)
        yield
        if not ("stop_proved" in self.world.without and self.world.rng.random() < 0.5):
            self.run.discard(uid)
            yield
            if uid in self.run:
                raise FailedError(reasons.NOT_STOPPED, retryable=True)
        self._write(transitions.seal(journal))
        yield

    def _send(self, task: HostTask, journal: Journal) -> Result:
        uid, spec = journal.uid, task.spec
        self._write(journal)
        yield
        if spec.copy is None:
            raise FailedError(reasons.INVALID_TASK)
        target = self.world.hosts[spec.copy.target]
        yield from self._fill(task, target, uid)
        self._write(transitions.release(journal))
        yield
        return TaskResult(state=TaskState.RELEASED, bytes_copied=CHUNKS)

    def _fill(self, task: HostTask, target: "SimHost", uid: str) -> Steps:
        spec, mine = task.spec, object()
        if not (self.alive and target.alive and target.up):
            raise FailedError(reasons.TRANSFER_BROKEN, retryable=True)
        self._may_fill(target, spec)
        if target.journals[uid].role == Role.VERIFIED:
            return
        target.receiving[uid] = mine
        content, whole, fresh = self.disks[uid].content, True, self.disks[uid].fresh
        job = next((j for j in self.jobs if j.task is task), None)
        if job is not None:
            job.fills = (target.name, spec)
        for chunk in range(CHUNKS):
            target.write_chunk(uid)
            whole = whole and uid not in self.run and self.disks[uid].content == content
            self._tell(task, HostTaskStatus(phase=TaskPhase.RUNNING, progress=TaskProgress(bytes_total=CHUNKS, bytes_done=chunk)))
            yield
            if target.receiving.get(uid) is not mine:
                raise FailedError(reasons.TRANSFER_BROKEN, retryable=True)
        if self.world.rng.random() < self.world.profile.refusals:
            raise FailedError(reasons.INSUFFICIENT_DISK if self.world.rng.random() < 0.3 else reasons.TRANSFER_BROKEN)
        intact = self.world.rng.random() > self.world.profile.corruption
        if not guards.verified(whole=intact):
            raise FailedError(reasons.DIGEST_MISMATCH, retryable=True)
        self._may_fill(target, spec)
        target.disks[uid] = Disk(whole and intact, fresh and whole and intact, content)
        target._write(transitions.verify(target.journals[uid], {"root": JournalDisk(inode=self.world.number())}))
        del target.receiving[uid]
        if job is not None:
            job.fills = None
        yield

    def _may_fill(self, target: "SimHost", spec: HostTaskSpec) -> None:
        uid = spec.placement.name
        refuse = gate.receive(target.journals.get(uid), uid, spec.epoch, spec.epoch_id, self.name)
        if refuse is not None:
            raise FailedError(refuse.reason, refuse.message, retryable=refuse.retryable)

    def write_chunk(self, uid: str) -> None:
        """A copier writes to the disk here."""
        journal = self.journals.get(uid)
        if journal is not None and journal.role in (Role.VERIFIED, Role.ACTIVE):
            self.world.violated(4, f"a copier writes to the {journal.role} disk of {uid} on {self.name}")
        self.disks[uid] = Disk(whole=False, fresh=False, content=f"torn-{self.world.number()}")

    def stray_write(self) -> None:
        """A copier that outlived its agent goes on."""
        spec, source = self.strays[0]
        uid = spec.placement.name
        journal = self.journals.get(uid)
        refused = gate.receive(journal, uid, spec.epoch, spec.epoch_id, source)
        filling = journal is not None and (journal.role == Role.INCOMING or "receiver_checks" in self.world.without)
        if refused is None and filling and uid in self.disks:
            self.write_chunk(uid)

    def _discard(self, journal: Journal) -> Result:
        uid = journal.uid
        if uid in self.run:
            raise FailedError(reasons.NOT_STOPPED, retryable=True)
        self._write(journal)
        yield
        if uid in self.disks:
            self.world.check_trash(self, uid)
            del self.disks[uid]
        self.defined.discard(uid)
        yield
        self._write(transitions.bury(journal))
        yield
        return TaskResult(state=TaskState.GONE)
