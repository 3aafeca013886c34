"""Tells the host's ComputeNode, then renews its Lease: who sees a fresh Lease may rely on the inventory that stands in the API."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.machine import Machine
from kubeferry.agent.report import Report
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Meta
from kubeferry.api.role import Role, RunState
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import NotFound
from kubeferry.kube.leases import boottime, renew_lease

TOLD_AGAIN = 60.0
"""Seconds after which an unchanged ComputeNode is told again: it may have been deleted, or restored from a backup."""


class Publisher:
    """Writes this node's ComputeNode and Lease."""

    def __init__(
        self,
        machine: Machine,
        cluster: Cluster,
        report: Report,
        on_stopped: Callable[[str], None],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`on_stopped` is called with each VM that is ACTIVE here and does not run; `clock` gives seconds."""
        self._machine = machine
        self._cluster = cluster
        self._report = report
        self._on_stopped = on_stopped
        self._clock = clock
        self._writing = asyncio.Lock()
        self._seen: ComputeNodeStatus | None = None
        self._told: ComputeNodeStatus | None = None
        self._told_at = 0.0

    async def ensure_boot_published(self) -> None:
        """Return once the ComputeNode was seen to name this boot.

        It is read each time: that it was written once does not say that it stands there now. It is not looked at the host for
        this, which may take long.

        Raises:
            RefusedError: `GateShut`: it names another boot even though this one was written.
            KubeError: it can't be read or told now.
            StorageError: see `Report.now`.
        """
        if await self._told_boot() == self._machine.boot_id:
            return
        seen = self._seen or await self._look()
        async with self._writing:
            node = await self._write(self._seen or seen)
        told = None if node.status is None else node.status.boot_id
        if told != self._machine.boot_id:
            message = f"ComputeNode {self._machine.node} names boot {told}, this is boot {self._machine.boot_id}: see who else writes it"
            raise RefusedError(reasons.GATE_SHUT, message, retryable=True)

    async def publish(self) -> None:
        """Tell the ComputeNode, if it changed or was told long ago, and then renew the Lease.

        Raises:
            KubeError: it was not told; the Lease is not renewed.
            StorageError: see `Report.now`; nothing was told.
        """
        status = await self._look()
        async with self._writing:
            if status != self._told or self._clock() - self._told_at > TOLD_AGAIN:
                await self._write(status)
            await renew_lease(
                self._cluster.server, self._machine.settings.namespace, self._machine.node, self._machine.host_id, datetime.now(UTC)
            )
        for item in status.inventory:
            if item.role == Role.ACTIVE and item.state == RunState.STOPPED:
                self._on_stopped(item.uid)

    async def _look(self) -> ComputeNodeStatus:
        self._seen = await self._report.now()
        return self._seen

    async def _told_boot(self) -> str | None:
        try:
            node = await self._cluster.get(ComputeNode, self._machine.node)
        except NotFound:
            return None
        return None if node.status is None else node.status.boot_id

    async def _write(self, status: ComputeNodeStatus) -> ComputeNode:
        name, now = self._machine.node, self._clock()
        self._told = None  # of a write without an answer it is not known what stands there
        try:
            node = await self._cluster.apply_status(ComputeNode, name, status)
        except NotFound:
            await self._cluster.create(ComputeNode, Meta(name=name))
            node = await self._cluster.apply_status(ComputeNode, name, status)
        self._told, self._told_at = status, now
        return node
