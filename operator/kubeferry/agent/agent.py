"""The agent: what it is made of, and how watching, libvirt's events and its own looks wake the work on a VM."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from kubeferry.agent.creator import Creator
from kubeferry.agent.discarder import Discarder
from kubeferry.agent.effects import Effects
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.inbox import Inbox
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.look import Look
from kubeferry.agent.machine import Machine
from kubeferry.agent.metrics import Metrics
from kubeferry.agent.preparer import Preparer
from kubeferry.agent.publisher import Publisher
from kubeferry.agent.report import Report
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.revivals import Revivals
from kubeferry.agent.sealer import Sealer
from kubeferry.agent.starter import Starter
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sweep import being_given_up, sweep
from kubeferry.agent.transfer.children import Children
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.peers import Outbound, Peers, agent_socket
from kubeferry.agent.transfer.receivers import Receivers
from kubeferry.agent.transfer.service import TransferService
from kubeferry.agent.virt.port import Hypervisor, HypervisorError
from kubeferry.agent.worker import Worker
from kubeferry.api.model import load
from kubeferry.api.names import AGENT_ACCOUNT
from kubeferry.api.task import HostTask
from kubeferry.kube.client import Cluster
from kubeferry.kube.leases import RENEWED_EVERY, boottime
from kubeferry.kube.operator import require_kinds
from kubeferry.kube.queue import Clock, WorkQueue
from kubeferry.kube.server import Server
from kubeferry.kube.telemetry import MetricsServer, ProcessCollector

STOP_GRACE = timedelta(seconds=2)
WORKERS = 32
"""VMs that are worked on at a time: most of that is waiting."""
FIRST_RENEWALS = timedelta(seconds=2)
"""The Lease of a new agent is renewed twice soon: it counts as fresh only once it was seen to change."""

AUTHORIZED_EVERY = timedelta(minutes=1)
"""Between two looks at who may call this agent; a Prepare looks, too."""

SWEPT_EVERY = timedelta(minutes=10)
"""Between two looks for what has been in the trash for its time."""

PUBLISH = "publish"
AUTHORIZE = "authorize"
SWEEP = "sweep"

log = structlog.get_logger(__name__)


class Agent:
    """Everything between kopf's events, libvirt and the API server. It keeps no truth: a killed agent goes on from its journals."""

    def __init__(self, machine: Machine, keys: Keys, server: Server, port: Hypervisor, clock: Clock, children: Children) -> None:
        self._machine = machine
        self._cluster = Cluster(server, AGENT_ACCOUNT)
        self._inbox = Inbox()
        journals = JournalStore(machine.settings.state_path)
        receivers = Receivers()
        self._service = TransferService(machine, journals, receivers, children)
        self.hypervisor = HypervisorCalls(port, callers=WORKERS + 2)  # who tells the ComputeNode calls too, and who begins to watch
        self.publisher = Publisher(machine, self._cluster, Report(machine, journals, self.hypervisor), self._wake)
        peers = self._peers = Peers(machine, self._cluster, keys)
        revivals = Revivals(boottime)
        self._outbound = Outbound(machine, peers, keys, children)
        effects = self._effects(journals, peers, revivals)
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        worker = self._worker = Worker(
            machine, self._cluster, journals, self.hypervisor, self._inbox, effects, receivers, revivals, metrics, self._publish_soon
        )
        self._vms = WorkQueue(worker.reconcile, clock)
        self._chores = WorkQueue(self._do_chore, clock, longest_retry=RENEWED_EVERY)
        registry.register(ProcessCollector((self._vms, self._chores)))
        self._metrics = MetricsServer(machine.settings.metrics, registry)
        self._renewals = 0
        path = machine.settings.instances_path
        ttl = machine.settings.trash_ttl_seconds
        self._sweep = Look(f"the trash of {path}", lambda: sweep(path, time.time() - ttl, being_given_up(*journals.all())))

    def _effects(self, journals: JournalStore, peers: Peers, revivals: Revivals) -> Effects:
        machine, hypervisor = self._machine, self.hypervisor
        reserver = Reserver(machine, journals, hypervisor)
        proof = StopProof(machine, hypervisor)
        return Effects(
            machine=machine,
            journals=journals,
            hypervisor=hypervisor,
            creator=Creator(machine, journals, reserver),
            reserver=reserver,
            preparer=Preparer(machine, reserver),
            sealer=Sealer(journals, hypervisor, proof),
            discarder=Discarder(machine, journals, proof),
            proof=proof,
            peers=peers,
            outbound=self._outbound,
            starter=Starter(machine, self._cluster, journals, hypervisor, self.publisher),
            revivals=revivals,
        )

    async def start(self) -> None:
        """Tell who this is, then begin to work.

        Raises:
            kopf.PermanentError: the cluster lacks our kinds, or the rights to list them; or metrics can't be served.
            kopf.TemporaryError: the API server does not answer yet.
        """
        await require_kinds(self._cluster, (HostTask,))
        await self._metrics.start()
        loop = asyncio.get_running_loop()

        def tell(uid: str) -> None:
            loop.call_soon_threadsafe(self._changed, uid)

        try:
            await self.hypervisor.watch(tell)
        except HypervisorError as error:
            log.error("no hypervisor yet", node=self._machine.node, error=str(error))
        await self._service.start(agent_socket(self._machine))
        self._vms.start(WORKERS)
        self._publish_soon()
        self._chores.add(AUTHORIZE)
        self._chores.add(SWEEP)
        self._chores.start(workers=3)  # one for each: what holds up the one must not hold up the Lease

    async def stop(self) -> None:
        """Let what has begun come to its end, for two seconds; whatever is cut off goes on from the journal. VMs run on."""
        await self._service.stop()
        await self._vms.stop(STOP_GRACE)
        await self._chores.stop(STOP_GRACE)
        await self._metrics.stop()

    def saw_task(self, event: Any) -> None:
        """Take in an event of the watch on HostTasks (`metav1.WatchEvent`)."""
        body = event["object"]
        if event["type"] == "DELETED":
            self._inbox.drop(body["metadata"]["name"], body["metadata"]["uid"])
            return
        try:
            task = load(HostTask, body)
        except ValidationError as error:
            log.error("HostTask can't be read: nothing is done about it", task=body["metadata"]["name"], error=str(error))
            return
        self._outbound.saw(task.spec, ended=not self._inbox.put(task))
        self._worker.saw(task)
        self._vms.add(task.spec.placement.name)

    def _changed(self, uid: str) -> None:
        self._publish_soon()
        self._wake(uid)

    def _publish_soon(self) -> None:
        self._chores.add(PUBLISH)

    async def _publish(self) -> timedelta:
        await self.publisher.publish()
        self._renewals += 1
        return FIRST_RENEWALS if self._renewals <= 2 else RENEWED_EVERY

    async def _do_chore(self, key: str) -> timedelta:
        """Tell the ComputeNode and renew the Lease; or let the other nodes' agents in: nodes come, go, and get new keys; or sweep."""
        if key == PUBLISH:
            return await self._publish()
        if key == SWEEP:
            return await self._sweep_trash()
        await self._peers.authorize()
        return AUTHORIZED_EVERY

    async def _sweep_trash(self) -> timedelta:
        try:
            await self._sweep.now()
        except StorageError as error:
            log.warning("the trash is not swept", node=self._machine.node, reason=error.reason, error=str(error))
        return SWEPT_EVERY

    def _wake(self, uid: str) -> None:
        self._vms.add(uid)
