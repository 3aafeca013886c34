"""Reserves what a VM takes of this host: one thread looks for room and journals it, so that none is given twice."""

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.sweep import being_given_up, make_room
from kubeferry.agent.virt.port import HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import INVENTORY_LENGTH
from kubeferry.api.domain import Domain
from kubeferry.api.role import Role
from kubeferry.core import transitions
from kubeferry.core.journal import Journal

Needed = Callable[[Domain, HypervisorFacts], int]
"""Bytes that a domain's files will take of the instances' file system. What it raises refuses the VM."""


class Reserver:
    """The one for all that reserve on this host."""

    def __init__(self, machine: Machine, journals: JournalStore, hypervisor: HypervisorCalls) -> None:
        self._machine = machine
        self._journals = journals
        self._hypervisor = hypervisor
        # One thread: two that looked for room at the same time would both be given the same.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reserving")

    async def reserve(self, journal: Journal, needed: Needed) -> Journal:
        """Check that the host has what the VM needs, and journal it.

        Args:
            journal: INCOMING, as the role table wants it written.
            needed: asked first, in the thread of reservations.

        Returns:
            The journal as it is written now.

        Raises:
            RefusedError: there is no room, a domain of that uuid is known to the hypervisor, or `needed` refuses. Nothing was journaled.
            StorageError: `needed` raised it, or the file system or the journals can't be looked at, or not be written.
            HypervisorError: the hypervisor does not answer.
        """
        domain = journal.domain
        if domain is None:
            raise RefusedError(reasons.INVALID_TASK, "the task tells of no domain")
        if domain.uuid in await self._hypervisor.domains():
            message = f"libvirt knows a domain with uuid {domain.uuid} that no journal tells of; none was expected: see `virsh list --all`"
            raise RefusedError(reasons.FOREIGN_DOMAIN, message)
        facts = await self._hypervisor.facts()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._hold, journal, domain, facts, needed)

    async def hold_again(self, journal: Journal) -> Journal:
        """Check that the host has the CPUs and the memory that a copy of its own is to have now, and journal them.

        Raises:
            RefusedError: there is no room. Nothing was journaled.
            StorageError: the journals can't be looked at, or not be written.
            HypervisorError: the hypervisor does not answer.
        """
        facts = await self._hypervisor.facts()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._hold_again, journal, facts)

    def _hold_again(self, journal: Journal, facts: HypervisorFacts) -> Journal:
        if journal.domain is None or journal.reserved is None:
            raise RefusedError(reasons.INVALID_TASK, "this host's journal tells of no domain, or of nothing that is reserved")
        held, _ = self._journals.all()
        self._check_processors(journal.domain, facts, [other for other in held if other.uid != journal.uid and other.role != Role.GONE])
        journal = transitions.reserve(journal, journal.reserved.disk)
        self._journals.write(journal)
        return journal

    def _hold(self, journal: Journal, domain: Domain, facts: HypervisorFacts, needed: Needed) -> Journal:
        """Check and journal what the VM takes of this host; runs in the thread of reservations."""
        disk = needed(domain, facts)
        held, unreadable = self._journals.all()
        # Of a copy that is gone only the epoch is kept.
        others = [other for other in held if other.uid != journal.uid and other.role != Role.GONE]
        if len(others) + len(unreadable) >= INVENTORY_LENGTH:
            message = f"this host's journals tell of {INVENTORY_LENGTH} copies, as many as its ComputeNode can list: take another host"
            raise RefusedError(reasons.INVENTORY_FULL, message)
        self._check_room(domain, facts, disk, others, being_given_up(held, unreadable))
        journal = transitions.reserve(journal, disk)
        self._journals.write(journal)
        return journal

    @staticmethod
    def _check_processors(domain: Domain, facts: HypervisorFacts, others: list[Journal]) -> None:
        if domain.cpu_cores > facts.cpu.count:
            raise RefusedError(reasons.INSUFFICIENT_CPU, f"{domain.cpu_cores} CPUs are asked, this host has {facts.cpu.count}")
        memory = sum(other.reserved.memory for other in others if other.reserved is not None)
        if memory + domain.memory > facts.memory:
            message = f"{domain.memory} bytes of memory are asked; of this host's {facts.memory}, VMs hold {memory}"
            raise RefusedError(reasons.INSUFFICIENT_MEMORY, message)

    def _check_room(self, domain: Domain, facts: HypervisorFacts, needed: int, others: list[Journal], busy: Collection[str]) -> None:
        self._check_processors(domain, facts, others)
        # Counted whole, although part of it may be written by now: how much is still to come is not known.
        filling = sum(other.reserved.disk for other in others if other.reserved is not None and other.role == Role.INCOMING)
        free = make_room(self._machine.settings.instances_path, needed + filling, busy)
        if needed > free - filling:
            message = (
                f"{needed} bytes are needed in {self._machine.settings.instances_path}, {free} are free, "
                f"and copies that are being filled hold {filling} of them"
            )
            raise RefusedError(reasons.INSUFFICIENT_DISK, message)
