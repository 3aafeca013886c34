"""What is done once the role table said so: each effect journals what it must before, and is observed before it is acknowledged."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kubeferry.agent.creator import Creator
from kubeferry.agent.discarder import Discarder
from kubeferry.agent.errors import RefusedError
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.interruption import Interruption
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.preparer import Preparer
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.revivals import Revivals
from kubeferry.agent.sealer import Sealer
from kubeferry.agent.starter import Starter
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.space import allocated
from kubeferry.agent.transfer.peers import Outbound, Peers
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.task import HostTaskSpec, Storage, TaskProgress, TaskResult, TaskState
from kubeferry.core import transitions
from kubeferry.core.host import Effect
from kubeferry.core.journal import Journal
from kubeferry.kube.errors import KubeError

OnProgress = Callable[[TaskProgress], None]


class Effects:
    """Carries out `core.host.Effect`s."""

    def __init__(
        self,
        machine: Machine,
        journals: JournalStore,
        hypervisor: HypervisorCalls,
        creator: Creator,
        reserver: Reserver,
        preparer: Preparer,
        sealer: Sealer,
        discarder: Discarder,
        proof: StopProof,
        peers: Peers,
        outbound: Outbound,
        starter: Starter,
        revivals: Revivals,
    ) -> None:
        self._machine = machine
        self._journals = journals
        self._hypervisor = hypervisor
        self._creator = creator
        self._reserver = reserver
        self._preparer = preparer
        self._sealer = sealer
        self._discarder = discarder
        self._proof = proof
        self._peers = peers
        self._outbound = outbound
        self._starter = starter
        self._revivals = revivals
        self._looks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="disk-size")

    async def carry_out(
        self, task: HostTaskSpec, journal: Journal, effect: Effect, on_progress: OnProgress, interruption: Interruption
    ) -> TaskResult | None:
        """Do it, and give back what was observed; None: that was a part only, the role table is to be asked again.

        Args:
            task: what is asked.
            journal: as the role table wants it written before.
            effect: what is to be done.
            on_progress: told now and then how far a long one is.
            interruption: ends it, where it waits for long.

        Raises:
            RefusedError, StorageError, HypervisorError, TransferError: it failed; the journal tells how far it came.
            KubeError: the API server gave no answer where one is needed.
            SupersededError: it was ended; the journal tells how far it came.
        """
        interruption.check()
        match effect:
            case Effect.MAKE_DISKS:
                await self._creator.create(journal)
                return await self.result(journal.uid, TaskState.CREATED)
            case Effect.START:
                return await self._start(task, journal)
            case Effect.RESERVE:
                return await self._reserve(task, journal)
            case Effect.REACH:
                await interruption.unless(self._outbound.preflight(task))
                return TaskResult(state=TaskState.REACHABLE, storage=Storage.LOCAL)
            case Effect.STOP:
                await self._sealer.seal(journal, interruption)
                return TaskResult(state=TaskState.SEALED)
            case Effect.FINISH_SEAL:
                await self._sealer.seal(journal, interruption)
                return None
            case Effect.POWER_OFF:
                await self._sealer.power_off(journal, interruption)
                return TaskResult(state=TaskState.STOPPED)
            case Effect.SEND:
                return await self._send(task, journal, on_progress, interruption)
            case Effect.DISCARD:
                await self._discarder.discard(journal)
                return TaskResult(state=TaskState.GONE)

    async def _start(self, task: HostTaskSpec, journal: Journal) -> TaskResult:
        runs = (await self._hypervisor.domains()).get(journal.uid)
        if _holds_what_it_needs(journal):
            await asyncio.to_thread(self._journals.write, journal)
        elif runs:
            message = "the VM runs, and was expected to be stopped: it is to be started with other CPUs or memory; see why its Stop failed"
            raise RefusedError(reasons.NOT_STOPPED, message, retryable=True)
        else:
            await self._reserver.hold_again(journal)
        if not runs:
            await self.start_and_note(journal.uid, task)
        return await self.result(journal.uid, TaskState.RUNNING)

    async def _reserve(self, task: HostTaskSpec, journal: Journal) -> TaskResult:
        if task.prepare is None:
            raise RefusedError(reasons.INVALID_TASK, "the task lacks the parameters of Prepare")
        await self._peers.authorize()
        await self._preparer.prepare(journal, task.prepare.bytes)
        return TaskResult(state=TaskState.PREPARED)

    async def _send(self, task: HostTaskSpec, journal: Journal, on_progress: OnProgress, interruption: Interruption) -> TaskResult:
        if journal.domain is None:
            raise RefusedError(reasons.INVALID_TASK, "this host's journal tells of no domain to copy")
        await asyncio.to_thread(self._journals.write, journal)
        await self._proof.require(journal.domain)
        sent = await interruption.unless(self._outbound.copy(task, journal, on_progress))
        await self._proof.require(journal.domain)  # once more: what was sent is what this host gives up
        await asyncio.to_thread(self._journals.write, transitions.release(journal))
        return TaskResult(state=TaskState.RELEASED, bytes_copied=sent.bytes_sent, digest=sent.digest)

    async def result(self, uid: str, state: TaskState) -> TaskResult:
        """What is acknowledged of a copy whose disks are whole: its state, and what they occupy."""
        journal = await asyncio.to_thread(self._journals.read, uid)
        if journal is None or journal.domain is None or state not in (TaskState.CREATED, TaskState.RUNNING, TaskState.READY):
            return TaskResult(state=state)
        path = self._machine.settings.instances_path
        disks = await asyncio.get_running_loop().run_in_executor(self._looks, allocated, path, journal.domain)
        return TaskResult(state=state, disks=disks)

    async def start_and_note(self, uid: str, task: HostTaskSpec | None) -> None:
        """Start the VM; if it could not be started, the next revival waits, whoever asked for this start.

        Raises:
            RefusedError, StorageError, HypervisorError, KubeError: see `Starter.start`.
        """
        try:
            await self._starter.start(uid, task)
        except (RefusedError, KubeError) as error:
            halted = isinstance(error, RefusedError) and error.reason == reasons.HALTED
            self._revivals.halted(uid) if halted else self._revivals.refused(uid)
            raise
        except (StorageError, HypervisorError):
            self._revivals.tried(uid)
            raise


def _holds_what_it_needs(journal: Journal) -> bool:
    held, domain = journal.reserved, journal.domain
    return held is None or domain is None or (held.cpu, held.memory) == (domain.cpu_cores, domain.memory)
