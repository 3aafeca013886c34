"""The controller: what it is made of, and how watching, listing and the Leases wake the work on a VM."""

from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.names import CONTROLLER_ACCOUNT
from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.controller.herald import Herald
from kubeferry.controller.metrics import Metrics, StoreCollector
from kubeferry.controller.placer import Placer
from kubeferry.controller.reconcile import Reconciler
from kubeferry.controller.relist import Relister
from kubeferry.controller.settings import ControllerSettings
from kubeferry.controller.store import KINDS, Store
from kubeferry.core.vm import step
from kubeferry.kube.client import Cluster, Stored
from kubeferry.kube.leases import RENEWED_EVERY, LeaseWatch, boottime, read_leases
from kubeferry.kube.operator import require_kinds, told_to_kopf
from kubeferry.kube.queue import Clock, WorkQueue
from kubeferry.kube.server import Server
from kubeferry.kube.telemetry import MetricsServer, ProcessCollector

RELIST_EVERY = timedelta(minutes=10)
RELIST_SETTLES = timedelta(seconds=5)
"""A watch that was lost announces its objects one by one: one list follows them, not one each."""
NEW_NODE = timedelta(seconds=1)
"""How soon the Leases are looked at after a node appeared: its agent makes its Lease once its ComputeNode stands in the API."""
LEASES_UNDECIDED = timedelta(seconds=2)
"""How soon Leases are looked at again while one of them was not seen to change yet: VMs may wait for that node."""
STOP_GRACE = timedelta(seconds=2)

RELIST = "relist"
LEASES = "leases"

log = structlog.get_logger(__name__)


class Controller:
    """Everything between kopf's events and the API server. Two of them at once do no harm: every write is conditional."""

    def __init__(self, server: Server, settings: ControllerSettings, clock: Clock) -> None:
        self._settings = settings
        self._server = server
        self._cluster = Cluster(server, CONTROLLER_ACCOUNT)
        self._store = Store()
        self._leases = LeaseWatch()
        self._relister = Relister(self._cluster, self._store)
        gatherer = Gatherer(self._cluster, self._store, self._leases, boottime)
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        self._herald = Herald(server, metrics)
        executor = Executor(self._cluster, self._store, self._herald, self._wake)
        scheduler = Placer(self._store, self._leases, boottime, settings.scheduler.profile(), metrics)
        reconciler = Reconciler(gatherer, partial(step, limits=settings.limits()), executor, scheduler)
        self._vms = WorkQueue(reconciler.reconcile, clock)
        self._chores = WorkQueue(self._do_chore, clock, longest_retry=RENEWED_EVERY)
        registry.register(ProcessCollector((self._vms, self._chores)))
        registry.register(StoreCollector(self._store))
        self._metrics = MetricsServer(settings.metrics, registry)

    async def start(self) -> None:
        """Fill the Store, then begin to work.

        Raises:
            kopf.PermanentError: the cluster lacks our kinds, or the rights to list them; or metrics can't be served.
            kopf.TemporaryError: the API server does not answer yet.
        """
        await require_kinds(self._cluster, KINDS)
        await self._metrics.start()
        with told_to_kopf():
            await self._relist()
            await self._look_at_leases()
        self._herald.start()
        self._vms.start(self._settings.workers)
        self._chores.add_after(RELIST, RELIST_EVERY)
        self._chores.add_after(LEASES, RENEWED_EVERY)
        self._chores.start(workers=2)

    async def stop(self) -> None:
        """Let what has begun come to its end, for two seconds; whatever is cut off is done again by the next controller."""
        await self._chores.stop(STOP_GRACE)
        await self._vms.stop(STOP_GRACE)
        await self._herald.stop(STOP_GRACE)
        await self._metrics.stop()

    def saw(self, kind: type[Stored], event: Any) -> None:
        """Take in an event of a watch (`metav1.WatchEvent`); kopf's are without a type where it lists."""
        body = event["object"]
        keys = self._store.remove(kind, body) if event["type"] == "DELETED" else self._store.put(kind, body)
        self._wake(keys)
        if event["type"] == "ADDED" and kind is ComputeNode:
            self._chores.add_after(LEASES, NEW_NODE)
        if event["type"] is None:
            self._chores.add_after(RELIST, RELIST_SETTLES)

    def _wake(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._vms.add(key)

    async def _do_chore(self, key: str) -> timedelta:
        if key == RELIST:
            await self._relist()
            return RELIST_EVERY
        await self._look_at_leases()
        return LEASES_UNDECIDED if self._leases.undecided else RENEWED_EVERY

    async def _relist(self) -> None:
        async for keys in self._relister.relist():
            self._wake(keys)

    async def _look_at_leases(self) -> None:
        renewals = await read_leases(self._server, self._settings.namespace)
        now = boottime()
        for node in sorted(self._leases.saw(renewals, now)):
            log.info("agent looked at", node=node, alive=self._leases.fresh(node, now))
            self._wake(self._store.concerned(node))
