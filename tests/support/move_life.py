"""A VM that runs on host a, and its Migrations: the API objects as the executor keeps them, and three hosts that do as they are told."""

import dataclasses
from typing import Any

from builders import NOON, UID, after, failed, host, migration, observed, placement, task, vm

from kubeferry.api.meta import Condition, condition
from kubeferry.api.migration import Migration, MigrationStatus
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Copy, PlacementSpec, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.scheduling import Scheduling
from kubeferry.api.task import HostTask, HostTaskStatus, Storage, TaskPhase, TaskProgress, TaskResult, TaskState, Verb
from kubeferry.api.virtualmachine import RunStrategy
from kubeferry.core import ledger
from kubeferry.core.decision import live_reads
from kubeferry.core.observed import Choice, Host, Observed, Place, TellMigration, VmDecision
from kubeferry.core.vm import step

STATES = {
    Verb.PREPARE: TaskState.PREPARED,
    Verb.PREFLIGHT: TaskState.REACHABLE,
    Verb.SEAL: TaskState.SEALED,
    Verb.COPY: TaskState.RELEASED,
    Verb.ACTIVATE: TaskState.RUNNING,
    Verb.DISCARD: TaskState.GONE,
    Verb.START: TaskState.RUNNING,
    Verb.STOP: TaskState.STOPPED,
}
FORWARD = (Verb.PREPARE, Verb.PREFLIGHT, Verb.SEAL, Verb.COPY, Verb.ACTIVATE)
DIGEST = "d" * 64
REPORT = Scheduling(evaluated=3, feasible=1)


def running() -> PlacementSpec:
    """The Placement of a VM that runs on host a."""
    first = ledger.ask(placement().spec, Verb.START, "a", "host-a", NOON)
    steps = tuple(dataclasses.replace(s, state=StepState.SUCCEEDED) for s in first.steps)
    return dataclasses.replace(first, steps=steps)


class Life:
    """What a controller sees. Epochs that begin have the ids e2, e3, ...; the scheduling pass answers `target`."""

    def __init__(self, *migrations: Migration, spec: PlacementSpec | None = None) -> None:
        self.vm = vm()
        self.placement = placement(spec or running())
        self.tasks: dict[str, HostTask] = {}
        self.migrations = {m.metadata.name: m for m in migrations or (migration(),)}
        self.hosts = {"a": host("a", role=Role.ACTIVE), "b": host("b"), "c": host("c")}
        self.target: str | None = "b"
        self.places: list[Place] = []
        self.now = 0.0
        self.deletable = False
        self.gone: frozenset[str] = frozenset()

    @property
    def spec(self) -> PlacementSpec:
        return self.placement.spec

    def seen(self, choice: Choice | None = None) -> Observed:
        oldest = sorted(self.migrations.values(), key=lambda m: (m.metadata.creation_timestamp or after(0), m.metadata.name))
        hosts = tuple(self.hosts.values())
        return observed(
            vm=self.vm,
            placement=self.placement,
            tasks=tuple(self.tasks.values()),
            hosts=hosts,
            migrations=tuple(oldest),
            choice=choice,
            live=live_reads(self.spec, oldest, after(self.now)) & self.hosts.keys(),
            deletable=self.deletable,
            gone=self.gone,
        )

    def decide(self) -> VmDecision:
        """One decision, as the reconciler makes it; nothing is written."""
        fresh = f"e{self.spec.epoch + 1}"
        decision = step(self.seen(), after(self.now), fresh)
        if decision.place is not None:
            self.places.append(decision.place)
            choice = Choice(decision.place.migration_uid, self.target, "0 of 3 nodes are feasible: 3 NodeNotReady (a, b, c)", REPORT)
            decision = step(self.seen(choice), after(self.now), fresh)
        return decision

    def step(self, seconds: float = 0) -> VmDecision:
        """Decides and writes, as the executor does, until nothing more is to be written."""
        self.now += seconds
        for _ in range(20):
            decision = self.decide()
            if not self._write(decision):
                return decision
        raise AssertionError("it never comes to rest")

    def _write(self, decision: VmDecision) -> bool:
        if (wanted := decision.protect_migration) is not None:
            self._meta(wanted.metadata.name, finalizers=(*wanted.metadata.finalizers, FINALIZER))
            return True
        if decision.placement is not None:
            version = str(int(self.placement.metadata.resource_version) + 1)
            meta = dataclasses.replace(self.placement.metadata, resource_version=version)
            for told in decision.migrations:
                self._tell(told)
            self.placement = dataclasses.replace(self.placement, metadata=meta, spec=decision.placement.spec)
            return True
        for new in decision.tasks:
            assert new.name not in self.tasks
            self.tasks[new.name] = task(new)
        for adjusted in decision.adjusted:
            self.tasks[adjusted.metadata.name] = adjusted
        for name in decision.forget:
            del self.tasks[name]
        if decision.status is not None:
            self.vm = dataclasses.replace(self.vm, status=decision.status)
        for told in decision.migrations:
            self._tell(told)
        for done in decision.release_migrations:
            self._meta(done.metadata.name, finalizers=())
        return bool(decision.tasks or decision.adjusted or decision.forget or decision.migrations or decision.release_migrations)

    def _tell(self, told: TellMigration) -> None:
        name = told.migration.metadata.name
        self.migrations[name] = dataclasses.replace(self.migrations[name], status=told.status)

    def _meta(self, name: str, **changes: Any) -> None:
        m = self.migrations[name]
        self.migrations[name] = dataclasses.replace(m, metadata=dataclasses.replace(m.metadata, **changes))

    def open(self) -> list[tuple[Verb, str]]:
        """Verb and node of every task that is asked."""
        return [(t.spec.verb, t.spec.node) for t in self.tasks.values()]

    def asked(self, verb: Verb) -> HostTask:
        """The one open task of that verb."""
        (found,) = (t for t in self.tasks.values() if t.spec.verb == verb)
        return found

    def answer(self, verb: Verb, reason: str | None = None) -> None:
        """The host does what it is asked, tells its inventory, and the controller goes on; with a reason, it fails instead."""
        asked = self.asked(verb)
        status = failed(reason) if reason is not None else self._done(asked)
        self.tasks[asked.metadata.name] = dataclasses.replace(asked, status=status)
        self.step()

    def end(self, verb: Verb, state: TaskState) -> None:
        """The host acknowledges something else than what is usual."""
        asked = self.asked(verb)
        status = HostTaskStatus(phase=TaskPhase.SUCCEEDED, result=TaskResult(state=state))
        self.tasks[asked.metadata.name] = dataclasses.replace(asked, status=status)
        self.step()

    def copy_on(self, node: str) -> Copy | None:
        """What the Placement tells of a copy there."""
        return next((copy for copy in self.spec.copies if copy.node == node), None)

    def _done(self, asked: HostTask) -> HostTaskStatus:
        role = {
            Verb.PREPARE: Role.INCOMING,
            Verb.PREFLIGHT: Role.ACTIVE,
            Verb.SEAL: Role.SEALED,
            Verb.COPY: Role.RELEASED,
            Verb.ACTIVATE: Role.ACTIVE,
            Verb.DISCARD: Role.GONE,
            Verb.START: Role.ACTIVE,
            Verb.STOP: Role.ACTIVE,
        }[asked.spec.verb]
        node = asked.spec.node
        self.hosts[node] = host(node, role=role, epoch_id=asked.spec.epoch_id)
        if role == Role.ACTIVE and not self.spec.running:
            self.holds(node, state=RunState.STOPPED)
        copied = 5 << 20 if asked.spec.verb == Verb.COPY else None
        result = TaskResult(
            state=TaskState.READY if asked.spec.verb == Verb.ACTIVATE and not self.spec.running else STATES[asked.spec.verb],
            storage=Storage.LOCAL if asked.spec.verb == Verb.PREFLIGHT else None,
            bytes_copied=copied,
            digest=None if copied is None else DIGEST,
        )
        return HostTaskStatus(phase=TaskPhase.SUCCEEDED, result=result)

    def progress(self, verb: Verb, progress: TaskProgress) -> None:
        """The host tells how far it is."""
        asked = self.asked(verb)
        status = HostTaskStatus(phase=TaskPhase.RUNNING, started_at=after(self.now), progress=progress)
        self.tasks[asked.metadata.name] = dataclasses.replace(asked, status=status)
        self.step()

    def go_on_to(self, verb: Verb | None = None) -> "Life":
        """Forward until that verb is asked; without one, until the decision is awaited."""
        self.step()
        for each in FORWARD:
            if each == verb:
                return self
            self.answer(each)
        return self

    def want(self, strategy: RunStrategy) -> None:
        """The VM's owner sets its run strategy."""
        meta = dataclasses.replace(self.vm.metadata, generation=self.vm.metadata.generation + 1)
        self.vm = dataclasses.replace(self.vm, metadata=meta, spec=dataclasses.replace(self.vm.spec, run_strategy=strategy))
        self.step()

    def wish(self, decision: str, name: str = "move") -> None:
        """A person patches the Migration."""
        m = self.migrations[name]
        meta = dataclasses.replace(m.metadata, generation=m.metadata.generation + 1)
        changed = migration(name, decision=decision)
        self.migrations[name] = dataclasses.replace(m, metadata=meta, spec=dataclasses.replace(m.spec, decision=changed.spec.decision))
        self.step()

    def status(self, name: str = "move") -> MigrationStatus:
        told = self.migrations[name].status
        assert told is not None
        return told

    def told(self, kind: str, name: str = "move") -> tuple[str, str]:
        """Status and reason of a condition of the Migration."""
        found = self.whole(kind, name)
        return found.status.value, found.reason

    def whole(self, kind: str, name: str = "move") -> Condition:
        found = condition(self.status(name).conditions, kind)
        assert found is not None
        return found

    def of_vm(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition of the VM."""
        assert self.vm.status is not None
        found = condition(self.vm.status.conditions, kind)
        assert found is not None
        return found.status.value, found.reason

    def holds(self, node: str, **changes: Any) -> None:
        """What a host tells is changed."""
        self.hosts[node] = _changed(self.hosts[node], **changes)


def _changed(node: Host, **changes: Any) -> Host:
    (item,) = node.status.inventory
    lease = changes.pop("lease", node.lease_fresh)
    host_id = changes.pop("host_id", node.status.host_id)
    status = dataclasses.replace(node.status, host_id=host_id, inventory=(dataclasses.replace(item, **changes),))
    return dataclasses.replace(node, status=status, lease_fresh=lease)


def reverting() -> Life:
    """A migration that is being reverted: the target is asked to stop."""
    life = Life()
    life.go_on_to()
    life.wish("Revert")
    return life


def discarding() -> Life:
    """A migration that was confirmed: the source is asked to discard its copy."""
    life = Life()
    life.go_on_to()
    life.wish("Confirm")
    return life


__all__ = ["DIGEST", "FORWARD", "UID", "Life", "discarding", "reverting", "running"]
