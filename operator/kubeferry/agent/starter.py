"""The start gate, and the one place where a VM is started."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.log_names import bind_names
from kubeferry.agent.machine import Machine
from kubeferry.agent.networks import require_bridges
from kubeferry.agent.storage.layout import disk_file
from kubeferry.agent.storage.lock import image_is_free
from kubeferry.agent.virt.port import ExpiredError, HypervisorError
from kubeferry.agent.virt.xml import render
from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTaskSpec
from kubeferry.core import gate
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import NotFound
from kubeferry.kube.leases import boottime

ANSWER_VALID = 5.0
"""Seconds for which an answer of the gate may be acted on."""
ASKED_AGAIN = 3

log = structlog.get_logger(__name__)


class BootPublisher(Protocol):
    """Tells this boot's id."""

    async def ensure_boot_published(self) -> None:
        """Return once the ComputeNode was seen to name this boot.

        Raises:
            RefusedError: it names another.
            KubeError: it can't be told now.
        """


class Starter:
    """Starts VMs of which the gate says that this host may start them."""

    def __init__(
        self,
        machine: Machine,
        cluster: Cluster,
        journals: JournalStore,
        hypervisor: HypervisorCalls,
        publisher: BootPublisher,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`clock` gives seconds and goes on while the host sleeps."""
        self._machine = machine
        self._cluster = cluster
        self._journals = journals
        self._hypervisor = hypervisor
        self._publisher = publisher
        self._clock = clock
        self._looks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="image-lock")

    async def start(self, uid: str, task: HostTaskSpec | None) -> None:
        """Start the VM, if the gate opens, and see it run.

        Args:
            uid: the VM.
            task: the task that asks; None: the agent itself.

        Raises:
            RefusedError: the gate is shut, a disk is in use, or a bridge can't be had; nothing was started.
            StorageError: the journal or a disk can't be looked at; nothing was started.
            HypervisorError: the hypervisor refused, or the VM was not seen running.
            KubeError: the API server gave no answer, and without one nothing starts.
        """
        for _ in range(ASKED_AGAIN):
            try:
                await self._start(uid, task)
            except ExpiredError:
                log.warning("the gate's answer was too old to act on, asking again", valid_seconds=ANSWER_VALID)
            else:
                return await self._observe(uid)
        raise RefusedError(reasons.GATE_SHUT, f"each of {ASKED_AGAIN} answers of the gate was too old to act on", retryable=True)

    async def _start(self, uid: str, task: HostTaskSpec | None) -> None:
        # The order is the proof: whoever fences this host first clears nodeName, then reads the bootId; this boot's id is told
        # before the Placement is read, so one of the two readers sees the other.
        await self._publisher.ensure_boot_published()
        journal = await asyncio.to_thread(self._journals.read, uid)
        if journal is None or journal.domain is None:
            raise RefusedError(reasons.GATE_SHUT, "this host has no journal of the VM, or it tells of no domain")
        await self._require_free_images(journal.domain)
        await asyncio.to_thread(require_bridges, journal.domain, self._machine.settings.allow.bridges)
        asked = self._clock()
        try:
            placement = await self._cluster.get(Placement, uid)
        except NotFound as error:
            raise RefusedError(reasons.PLACEMENT_LOST, f"the VM has no Placement: nothing is started ({error})") from error
        bind_names(placement.spec)
        refused = gate.start(placement.spec, journal, self._machine.node, self._machine.host_id, task)
        if refused is not None:
            raise RefusedError.of(refused)
        xml = render(journal.domain, str(self._machine.instance(uid)), self._machine.settings.virtualization_type)
        log.info("start gate open", node=self._machine.node, epoch=placement.spec.epoch)
        await self._hypervisor.create(xml, lambda: self._clock() - asked <= ANSWER_VALID)

    async def _require_free_images(self, domain: Domain) -> None:
        """Look that nothing holds the VM's disks."""
        loop = asyncio.get_running_loop()
        for disk in domain.disks:
            image = self._machine.instance(domain.uuid) / disk_file(disk)
            if not await loop.run_in_executor(self._looks, image_is_free, image):
                message = f"another process holds the write lock of {image}: it was expected to be free while the VM is stopped"
                raise RefusedError(reasons.IMAGE_IN_USE, message, retryable=True)

    async def _observe(self, uid: str) -> None:
        if not (await self._hypervisor.domains()).get(uid):
            message = f"the VM was started and was gone a moment later: see {self._machine.instance(uid)} and libvirt's log on this node"
            raise HypervisorError(reasons.HYPERVISOR_ERROR, message, retryable=True)
        log.info("VM runs", node=self._machine.node)
