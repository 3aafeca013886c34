"""Gives up a VM's copy: proved stopped, its files go to the trash, and only its epoch is left in the journal.

The trash is emptied by nothing yet: a later version will have a sweeper for that. Until then its bytes stay occupied, and whoever
needs them, or the files, finds both in the instances path under `.trash/UID-EPOCH`.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog

from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.storage.layout import image_inodes
from kubeferry.agent.storage.trash import move_to_trash, require_disks
from kubeferry.core import transitions
from kubeferry.core.journal import Journal

log = structlog.get_logger(__name__)


class Discarder:
    """Carries out `Effect.DISCARD`."""

    def __init__(self, machine: Machine, journals: JournalStore, proof: StopProof) -> None:
        self._machine = machine
        self._journals = journals
        self._proof = proof
        self._files = ThreadPoolExecutor(max_workers=2, thread_name_prefix="trash")

    async def discard(self, journal: Journal) -> Journal:
        """Move the copy's files to the trash. Called again after an interruption, it goes on.

        Args:
            journal: DELETING, as the role table wants it written. The VM is proved stopped before.

        Returns:
            The journal as it is written now: GONE.

        Raises:
            RefusedError: `NotStopped`; nothing was changed, not even the journal.
            StorageError: a disk is neither where it should be nor in the trash, and nothing was changed; `ForeignFiles`: a file is not
                this VM's, and nothing was moved; the file system refused, or a journal can't be written; or the proof can't be had.
            HypervisorError: the hypervisor does not answer; nothing was changed.
        """
        domain = journal.domain
        if domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        await self._proof.require(domain)
        gone, left = await asyncio.get_running_loop().run_in_executor(self._files, self._move, journal)
        if left:
            directory = str(self._machine.instance(journal.uid))
            log.warning("the copy is given up; what is not the VM's own stays where it is", directory=directory, left=left)
        log.info("copy discarded", created=journal.created)
        return gone

    def _move(self, journal: Journal) -> tuple[Journal, tuple[str, ...]]:
        """Journal and move; the journal as it is then, and the names of what is left. Runs in a thread."""
        inodes = image_inodes(journal)
        require_disks(self._machine.settings.instances_path, journal.uid, inodes)
        self._journals.write(journal)
        left = move_to_trash(self._machine.settings.instances_path, journal.uid, journal.epoch, journal.created, inodes)
        gone = transitions.bury(journal)
        self._journals.write(gone)
        return gone, left
