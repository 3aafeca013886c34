"""One VM on this host: its tasks in order, then, if it should run and does not, the start gate. Serial per VM."""

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from kubeferry import __version__
from kubeferry.agent.effects import Effects, OnProgress
from kubeferry.agent.errors import FAILURES, RefusedError, defect_error, task_error
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.inbox import Inbox
from kubeferry.agent.interruption import Interruption, SupersededError
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.log_names import bind_names, unbind_names
from kubeferry.agent.machine import Machine
from kubeferry.agent.metrics import Metrics
from kubeferry.agent.progress import told
from kubeferry.agent.revivals import REFUSED_WAIT, Revivals
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer.receivers import Receivers
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.placement import Placement, PlacementSpec
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, HostTaskSpec, HostTaskStatus, TaskError, TaskPhase, TaskProgress, TaskResult
from kubeferry.core import guards, host
from kubeferry.core.host import Acknowledge, Act, Answer, Refuse
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import Forbidden, Invalid, KubeError, NotFound, Unreadable
from kubeferry.kube.leases import boottime

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Running:
    task: HostTaskSpec
    interruption: Interruption


class Worker:
    """Carries out what is asked of this host, and keeps running what is ACTIVE here."""

    def __init__(
        self,
        machine: Machine,
        cluster: Cluster,
        journals: JournalStore,
        hypervisor: HypervisorCalls,
        inbox: Inbox,
        effects: Effects,
        receivers: Receivers,
        revivals: Revivals,
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when what the ComputeNode tells may have changed."""
        self._machine = machine
        self._cluster = cluster
        self._journals = journals
        self._hypervisor = hypervisor
        self._inbox = inbox
        self._effects = effects
        self._receivers = receivers
        self._revivals = revivals
        self._metrics = metrics
        self._changed = changed
        self._running: dict[str, _Running] = {}

    def saw(self, task: HostTask) -> None:
        """A task of this node came, or is told of again: a lower one of its VM that runs is ended for it."""
        running = self._running.get(task.spec.placement.name)
        if running is not None and guards.supersede(running.task, task.spec):
            running.interruption.end(task.spec)

    async def reconcile(self, uid: str) -> timedelta | None:
        """Work on one VM: the handler of the work queue.

        Raises:
            KubeError: the API server did not answer; the same is done again later.
        """
        with structlog.contextvars.bound_contextvars(vm_uid=uid, node=self._machine.node):
            while tasks := self._inbox.of(uid):
                task, spec = tasks[0], tasks[0].spec
                with structlog.contextvars.bound_contextvars(task=task.metadata.name, verb=spec.verb, epoch=spec.epoch, seq=spec.seq):
                    await self._execute(task)
            return await self._revive(uid)

    async def _execute(self, task: HostTask) -> None:
        uid, running = task.spec.placement.name, self._running.get(task.spec.placement.name)
        if running is not None and guards.one_job(running.task, task.spec):
            raise RuntimeError(f"{running.task.verb} of epoch {running.task.epoch} runs: the work queue takes each VM once at a time")
        self._running[uid] = _Running(task.spec, Interruption())
        try:
            await self._run(task, self._running[uid].interruption)
        finally:
            del self._running[uid]
            unbind_names()

    async def _run(self, task: HostTask, interruption: Interruption) -> None:
        begun = None if task.status is None else task.status.started_at
        running = HostTaskStatus(phase=TaskPhase.RUNNING, started_at=begun or datetime.now(UTC), agent_version=__version__)
        if begun is None:
            await self._tell(task, running)
        since = boottime()
        ended = dataclasses.replace(await self._attempt(task, running, interruption), finished_at=datetime.now(UTC))
        self._metrics.ended(task.spec.verb, ended.phase, boottime() - since)
        error = ended.error
        log.info(
            "task ended",
            phase=ended.phase,
            reason=reasons.AS_EXPECTED if error is None else error.reason,
            message=None if error is None else error.message,
        )
        await self._tell(task, ended)
        self._inbox.end(task)
        self._changed()

    async def _attempt(self, task: HostTask, running: HostTaskStatus, interruption: Interruption) -> HostTaskStatus:
        """What came of a task; without an answer of the API server nothing comes of it, and it is done again."""

        async def tell(progress: TaskProgress) -> None:
            await self._tell(task, dataclasses.replace(running, progress=progress))

        phase, result = TaskPhase.FAILED, None
        try:
            async with told(tell) as on_progress:
                result = await self._do(task.spec, self._metrics.counted(on_progress), interruption)
            phase, error = TaskPhase.SUCCEEDED, None
        except SupersededError as superseded:
            phase, error = TaskPhase.SUPERSEDED, TaskError(reason=reasons.SUPERSEDED, message=str(superseded))
        except FAILURES as failure:
            error = task_error(failure)
        except KubeError:
            raise
        except Exception as defect:  # done again it would meet the same, for ever, and nobody would be told
            log.exception("task failed unexpectedly")
            error = defect_error(defect)
        return dataclasses.replace(running, phase=phase, result=result, error=error)

    async def _tell(self, task: HostTask, status: HostTaskStatus) -> None:
        try:
            await self._cluster.patch_status(HostTask, task.metadata, status)
        except NotFound:  # deleting a task cancels nothing: the controller asks it again, and the journal answers
            log.info("the task is gone, its outcome stands in the journal")

    async def _do(self, task: HostTaskSpec, on_progress: OnProgress, interruption: Interruption) -> TaskResult:
        placement = (await self._placement(task)).spec
        bind_names(placement)
        answer = await self._answer(task, placement)
        if not isinstance(answer, Act) and (isinstance(answer, Refuse) or answer.note is None):
            return await self._tell_answer(task, answer)
        # Whoever fills this copy is ended, and gone, before its journal is judged by: nothing changes it from here on.
        async with self._receivers.barred(task.placement.name):
            while isinstance(answer := await self._answer(task, placement), Act):
                result = await self._effects.carry_out(task, answer.journal, answer.effect, on_progress, interruption)
                if result is not None:
                    return result
            return await self._tell_answer(task, answer)

    async def _answer(self, task: HostTaskSpec, placement: PlacementSpec) -> Answer:
        journal = await asyncio.to_thread(self._journals.read, task.placement.name)
        return host.answer(task, journal, placement, self._machine.host_id)

    async def _tell_answer(self, task: HostTaskSpec, answer: Refuse | Acknowledge) -> TaskResult:
        if isinstance(answer, Refuse):
            raise RefusedError.of(answer)
        if answer.note is not None:
            await asyncio.to_thread(self._journals.write, answer.note)
        return await self._effects.result(task.placement.name, answer.state)

    async def _placement(self, task: HostTaskSpec) -> Placement:
        """The task's Placement, read consistently."""
        try:
            placement = await self._cluster.get(Placement, task.placement.name)
        except NotFound as error:
            raise RefusedError(reasons.PLACEMENT_LOST, f"the task's Placement is gone: nothing is done ({error})") from error
        except (Forbidden, Invalid, Unreadable) as error:  # waiting changes nothing
            raise RefusedError(error.reason, f"the task's Placement can't be read: nothing is done ({error})") from error
        if placement.metadata.uid != task.placement.uid:
            message = (
                f"the task serves the Placement of uid {task.placement.uid}, the one that bears the name now is {placement.metadata.uid}: "
                f"it was made anew, nothing is done"
            )
            raise RefusedError(reasons.HISTORY_DIVERGED, message)
        return placement

    async def _revive(self, uid: str) -> timedelta | None:
        """Start a VM that is ACTIVE here and does not run; when to look again if it could not be started, or must wait."""
        try:
            if not await self._is_stopped(uid):
                return None
        except (StorageError, HypervisorError) as failure:
            log.warning("it can't be told whether the VM runs", reason=failure.reason, message=str(failure))
            return REFUSED_WAIT
        # Asked at each pass: events of the hypervisor and the publisher wake a VM whenever they like.
        if wait := self._revivals.remaining(uid):
            return wait
        try:
            await self._effects.start_and_note(uid, None)
        except (KubeError, *FAILURES) as failure:
            telling = log.info if failure.reason == reasons.HALTED else log.warning
            telling("the VM is not started", reason=failure.reason, message=str(failure))
            return self._revivals.remaining(uid)
        finally:
            unbind_names()
        self._revivals.tried(uid)
        self._changed()
        return None

    async def _is_stopped(self, uid: str) -> bool:
        """Whether a copy is ACTIVE here and does not run."""
        journal = await asyncio.to_thread(self._journals.read, uid)
        return journal is not None and journal.role == Role.ACTIVE and not (await self._hypervisor.domains()).get(uid)
