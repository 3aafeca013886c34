"""One pass for one VM: gather, decide, execute."""

import asyncio
import dataclasses
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from structlog.contextvars import bound_contextvars

from kubeferry.api.migration import Migration
from kubeferry.api.names import FINALIZER
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.core import deletion
from kubeferry.core.migration import finished
from kubeferry.core.observed import Choice, Observed, Place, Stranger, TellMigration, VmDecision
from kubeferry.core.project_migration import without_vm

Step = Callable[[Observed, datetime, str], VmDecision]
"""`core.vm.step`."""

AT_ONCE = timedelta()

log = structlog.get_logger(__name__)


class SchedulingPass(Protocol):
    """Chooses nodes."""

    def place(self, place: Place) -> Choice:
        """The node for a Migration, as things stand now."""


class Reconciler:
    """The work queue's handler; a key is a VM's uid, or namespace and name of a VM that Migrations name and nobody knows."""

    def __init__(self, gatherer: Gatherer, step: Step, executor: Executor, scheduler: SchedulingPass) -> None:
        self._gatherer = gatherer
        self._step = step
        self._executor = executor
        self._scheduler = scheduler
        self._passes = asyncio.Lock()

    async def reconcile(self, key: str) -> timedelta | None:
        """Bring one VM a step further; when to look at it again, whatever happens.

        Raises:
            kubeferry.kube.errors.KubeError: a request failed.
        """
        namespace, slash, name = key.partition("/")
        return await (self._reconcile_without_vm(namespace, name) if slash else self._reconcile_vm(key))

    async def _reconcile_vm(self, uid: str) -> timedelta | None:
        with bound_contextvars(vm_uid=uid):
            now = datetime.now(UTC)
            observed = await self._gatherer.gather(uid, now)
            with bound_contextvars(**_names(observed)):
                if observed.vm is None and observed.placement is not None and not deletion.done(observed.placement.spec):
                    log.warning("the VM of a Placement is gone although it was protected: what is there is left as it is")
                return await self._decide(observed, now)

    async def _decide(self, observed: Observed, now: datetime) -> timedelta | None:
        """Decide by the time that it was gathered for: what falls due in between was not read for."""
        decision = self._step(observed, now, str(uuid.uuid4()))
        if decision.place is None:
            return await self._carry_out(observed, decision, now)
        async with self._passes:  # each pass sees what the one before has written
            with bound_contextvars(**_whose(observed, decision.place)):
                return await self._place(observed, decision.place)

    async def _place(self, observed: Observed, place: Place) -> timedelta | None:
        observed = dataclasses.replace(observed, choice=self._scheduler.place(place))
        now = datetime.now(UTC)  # it may have waited for its turn
        return await self._carry_out(observed, self._step(observed, now, str(uuid.uuid4())), now)

    async def _carry_out(self, observed: Observed, decision: VmDecision, now: datetime) -> timedelta | None:
        met = await self._executor.execute(observed, decision)
        if isinstance(met, Stranger):  # core asks no more for what it stands in the way of, so this comes to an end
            return await self._decide(dataclasses.replace(observed, strangers=(*observed.strangers, met)), now)
        return AT_ONCE if met else decision.requeue_after

    async def _reconcile_without_vm(self, namespace: str, name: str) -> timedelta | None:
        waits: list[timedelta] = []
        with bound_contextvars(vm=f"{namespace}/{name}"):
            for migration in await self._gatherer.without_vm(namespace, name):
                with bound_contextvars(migration=_name(migration)):
                    wait = await self._go_on_without_vm(migration)
                if wait == AT_ONCE:
                    return AT_ONCE
                waits += [] if wait is None else [wait]
        return min(waits, default=None)

    async def _go_on_without_vm(self, migration: Migration) -> timedelta | None:
        status, wait = without_vm(migration, datetime.now(UTC))
        if status is not None and status != migration.status:
            await self._executor.tell_migration(TellMigration(migration, status))
            return AT_ONCE  # what follows from it is looked at anew: no event of our own write wakes this key
        # Of a VM that is gone nothing is left to be done for one that is to go, too.
        done = finished(migration) or migration.metadata.deletion_timestamp is not None
        if done and FINALIZER in migration.metadata.finalizers and not await self._executor.release_migration(migration):
            return AT_ONCE
        return wait


def _name(of: VirtualMachine | Migration) -> str:
    return f"{of.metadata.namespace}/{of.metadata.name}"


def _whose(observed: Observed, place: Place) -> dict[str, str]:
    """What every log line of a scheduling pass tells beside that: its Migration does not hold the VM yet."""
    migration = next((each for each in observed.migrations if each.metadata.uid == place.migration_uid), None)
    return {} if migration is None else {"migration": _name(migration)}


def _names(observed: Observed) -> dict[str, object]:
    """What every log line of the pass tells."""
    names: dict[str, object] = {}
    if observed.vm is not None:
        names["vm"] = _name(observed.vm)
    if observed.placement is not None:
        spec = observed.placement.spec
        names |= {"vm": f"{spec.virtual_machine.namespace}/{spec.virtual_machine.name}", "node": spec.node_name, "epoch": spec.epoch}
        names |= {} if spec.lock is None else {"migration": f"{spec.lock.namespace}/{spec.lock.name}"}
        newest = max(spec.steps, key=lambda step: step.seq, default=None)
        names |= {} if newest is None else {"verb": newest.verb}
    return names
