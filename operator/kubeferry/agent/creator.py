"""Makes the disks of a new VM: room is reserved first, every file is journaled before it is made."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog

from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.networks import require_networks
from kubeferry.agent.reserver import Needed, Reserver
from kubeferry.agent.storage.create import bytes_needed, create_files, own_files
from kubeferry.agent.virt.port import HypervisorFacts
from kubeferry.api.domain import Domain
from kubeferry.core import transitions
from kubeferry.core.journal import Journal

log = structlog.get_logger(__name__)


class Creator:
    """Carries out `Effect.MAKE_DISKS`."""

    def __init__(self, machine: Machine, journals: JournalStore, reserver: Reserver) -> None:
        self._machine = machine
        self._journals = journals
        self._reserver = reserver
        self._disks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="disks")

    async def create(self, journal: Journal) -> None:
        """Make every file of the VM; its journal is ACTIVE afterwards.

        Args:
            journal: INCOMING, as the role table wants it written; what an earlier try wrote is gone on from.

        Raises:
            RefusedError: there is no room, a network that the VM can't be plugged into, or a domain of that uuid is known to the
                hypervisor. Nothing was made or journaled.
            StorageError: a source can't be used, foreign files lie there, or the file system refused.
            HypervisorError: the hypervisor does not answer.
        """
        journal = await self._reserver.reserve(journal, self._needed(journal))
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._disks, self._make, journal)
        log.info("disks made", disks=sorted(made.disks))

    def _needed(self, journal: Journal) -> Needed:
        def needed(domain: Domain, facts: HypervisorFacts) -> int:
            settings = self._machine.settings
            require_networks(domain, settings.allow.bridges, facts.networks)
            found = own_files(settings.instances_path, journal.uid, journal.created)
            return bytes_needed(domain, settings.allow, found)

        return needed

    def _make(self, journal: Journal) -> Journal:
        """Make the files, each named in the journal before it is made, and journal them; runs in a thread."""
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        kept = journal

        def note(name: str) -> None:
            nonlocal kept
            kept = transitions.note_created(kept, name)
            self._journals.write(kept)

        settings = self._machine.settings
        disks = create_files(settings.instances_path, journal.domain, settings.allow, journal.created, note)
        kept = transitions.activate(kept, disks)
        self._journals.write(kept)
        return kept
