"""Makes the disks of a new VM: room is checked and reserved by one thread, every file is journaled before it is made."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.create import bytes_needed, create_files, own_files
from kubeferry.agent.storage.space import free_bytes
from kubeferry.agent.virt.port import HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import INVENTORY_LENGTH
from kubeferry.api.domain import Domain
from kubeferry.api.role import Role
from kubeferry.core import host
from kubeferry.core.journal import Journal

log = structlog.get_logger(__name__)


class Creator:
    """Carries out `Effect.MAKE_DISKS`."""

    def __init__(self, machine: Machine, journals: JournalStore, hypervisor: HypervisorCalls) -> None:
        self._machine = machine
        self._journals = journals
        self._hypervisor = hypervisor
        # One thread: two that looked for room at the same time would both be given the same.
        self._reserving = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reserving")
        self._disks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="disks")

    async def create(self, journal: Journal) -> None:
        """Make every file of the VM; its journal is ACTIVE afterwards.

        Args:
            journal: INCOMING, as the role table wants it written; what an earlier try wrote is gone on from.

        Raises:
            RefusedError: there is no room, or a domain of that uuid is known to the hypervisor. Nothing was made or journaled.
            StorageError: a source can't be used, foreign files lie there, or the file system refused.
            HypervisorError: the hypervisor does not answer.
        """
        journal = await self._reserve(journal)
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._disks, self._make, journal)
        log.info("disks made", disks=sorted(made.disks))

    async def _reserve(self, journal: Journal) -> Journal:
        domain = journal.domain
        if domain is None:
            raise RefusedError(reasons.INVALID_TASK, "the task tells of no domain")
        if domain.uuid in await self._hypervisor.domains():
            message = f"libvirt knows a domain with uuid {domain.uuid} that no journal tells of; none was expected: see `virsh list --all`"
            raise RefusedError(reasons.FOREIGN_DOMAIN, message)
        facts = await self._hypervisor.facts()
        return await asyncio.get_running_loop().run_in_executor(self._reserving, self._hold, journal, domain, facts)

    def _hold(self, journal: Journal, domain: Domain, facts: HypervisorFacts) -> Journal:
        """Check and journal what the VM takes of this host; runs in the thread of reservations."""
        settings = self._machine.settings
        found = own_files(settings.instances_path, journal.uid, journal.created)
        needed = bytes_needed(domain, settings.allow, found)
        held, unreadable = self._journals.all()
        others = [other for other in held if other.uid != journal.uid]
        if len(others) + len(unreadable) >= INVENTORY_LENGTH:
            message = f"this host's journals tell of {INVENTORY_LENGTH} copies, as many as its ComputeNode can list: take another host"
            raise RefusedError(reasons.INVENTORY_FULL, message)
        self._check_room(domain, facts, needed, others)
        journal = host.reserve(journal, needed)
        self._journals.write(journal)
        return journal

    def _check_room(self, domain: Domain, facts: HypervisorFacts, needed: int, others: list[Journal]) -> None:
        if domain.cpu_cores > facts.cpu.count:
            raise RefusedError(reasons.INSUFFICIENT_CPU, f"{domain.cpu_cores} CPUs are asked, this host has {facts.cpu.count}")
        memory = sum(other.reserved.memory for other in others if other.reserved is not None)
        if memory + domain.memory > facts.memory:
            message = f"{domain.memory} bytes of memory are asked; of this host's {facts.memory}, VMs hold {memory}"
            raise RefusedError(reasons.INSUFFICIENT_MEMORY, message)
        filling = sum(other.reserved.disk for other in others if other.reserved is not None and other.role == Role.INCOMING)
        free = free_bytes(self._machine.settings.instances_path)
        if needed > free - filling:
            message = (
                f"{needed} bytes are needed in {self._machine.settings.instances_path}, {free} are free, "
                f"and copies that are being filled hold {filling} of them"
            )
            raise RefusedError(reasons.INSUFFICIENT_DISK, message)

    def _make(self, journal: Journal) -> Journal:
        """Make the files, each named in the journal before it is made, and journal them; runs in a thread."""
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        kept = journal

        def note(name: str) -> None:
            nonlocal kept
            kept = host.note_created(kept, name)
            self._journals.write(kept)

        settings = self._machine.settings
        disks = create_files(settings.instances_path, journal.domain, settings.allow, journal.created, note)
        kept = host.activate(kept, disks)
        self._journals.write(kept)
        return kept
