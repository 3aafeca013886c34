"""Tells the host's ComputeNode, then renews its Lease: who sees a fresh Lease may rely on the inventory that stands in the API."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from kubeferry import __version__
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.space import instances_file_system
from kubeferry.agent.virt.port import HypervisorError, HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus, Hypervisor, InventoryItem
from kubeferry.api.meta import Condition, Meta, Status, with_condition
from kubeferry.api.names import PROTOCOL_VERSION
from kubeferry.api.role import Role, RunState
from kubeferry.core.journal import Journal
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import NotFound
from kubeferry.kube.leases import renew_lease

FREE_STEP = 64 << 20
"""Free bytes are told rounded down to whole steps of so many bytes, or each heartbeat of a guest would be a write to the API."""

log = structlog.get_logger(__name__)


class Publisher:
    """Writes this node's ComputeNode and Lease."""

    def __init__(
        self, machine: Machine, cluster: Cluster, journals: JournalStore, hypervisor: HypervisorCalls, on_stopped: Callable[[str], None]
    ) -> None:
        """`on_stopped` is called with each VM that is ACTIVE here and does not run."""
        self._machine = machine
        self._cluster = cluster
        self._journals = journals
        self._hypervisor = hypervisor
        self._on_stopped = on_stopped
        self._writing = asyncio.Lock()
        self._told: ComputeNodeStatus | None = None
        self._facts: HypervisorFacts | None = None
        self._conditions: tuple[Condition, ...] = ()

    async def ensure_boot_published(self) -> None:
        """See `starter.BootPublisher`."""
        if self._told is None:
            await self.publish()

    async def publish(self) -> None:
        """Tell the ComputeNode, if it changed, and then renew the Lease.

        Raises:
            KubeError: it was not told; the Lease is not renewed.
        """
        async with self._writing:
            status = await self._status()
            if status != self._told:
                await self._write(status)
                self._told = status
            await renew_lease(
                self._cluster.server, self._machine.settings.namespace, self._machine.node, self._machine.host_id, datetime.now(UTC)
            )
        for item in status.inventory:
            if item.role == Role.ACTIVE and item.state == RunState.STOPPED:
                self._on_stopped(item.uid)

    async def _write(self, status: ComputeNodeStatus) -> None:
        node = self._machine.node
        try:
            await self._cluster.apply_status(ComputeNode, node, status)
        except NotFound:
            await self._cluster.create(ComputeNode, Meta(name=node))
            await self._cluster.apply_status(ComputeNode, node, status)

    async def _status(self) -> ComputeNodeStatus:
        ready = (Status.TRUE, reasons.AGENT_READY, "libvirt answers, the paths can be read")
        domains = room = None
        journals: tuple[Journal, ...] = ()
        try:
            room = instances_file_system(self._machine.settings.instances_path)
            journals = self._readable()
            self._facts = await self._hypervisor.facts()
            domains = await self._hypervisor.domains()
        except (HypervisorError, StorageError) as error:
            ready = (Status.FALSE, error.reason, str(error))
        facts = self._facts
        self._conditions = with_condition(self._conditions, reasons.READY, *ready, 0, datetime.now(UTC))
        return ComputeNodeStatus(
            host_id=self._machine.host_id,
            boot_id=self._machine.boot_id,
            protocol_version=PROTOCOL_VERSION,
            agent_version=__version__,
            hypervisor=None if facts is None else Hypervisor(type=facts.domain_type, version=facts.version),
            architecture=None if facts is None else facts.architecture,
            machine_types=() if facts is None else facts.machine_types,
            cpu=None if facts is None else facts.cpu,
            memory=None if facts is None else facts.memory,
            instances=None if room is None else dataclasses.replace(room, free=room.free - room.free % FREE_STEP),
            inventory=tuple(_item(journal, domains) for journal in journals),
            conditions=self._conditions,
        )

    def _readable(self) -> tuple[Journal, ...]:
        journals, unreadable = self._journals.all()
        for uid, error in unreadable.items():
            log.error("journal unreadable, this VM is left alone", vm=uid, reason=error.reason, error=str(error))
        return journals


def _item(journal: Journal, domains: Mapping[str, bool] | None) -> InventoryItem:
    if domains is None:
        state = RunState.UNKNOWN
    else:
        state = RunState.RUNNING if domains.get(journal.uid) else RunState.STOPPED
    return InventoryItem(uid=journal.uid, state=state, role=journal.role, epoch=journal.epoch, epoch_id=journal.epoch_id)
