"""One VM on this host: its tasks in order, then, if it should run and does not, the start gate. Serial per VM."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from kubeferry import __version__
from kubeferry.agent.creator import Creator
from kubeferry.agent.errors import FAILURES, RefusedError, task_error
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.inbox import Inbox
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.starter import Starter
from kubeferry.agent.storage.space import allocated
from kubeferry.api import reasons
from kubeferry.api.placement import Placement
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, HostTaskSpec, HostTaskStatus, TaskPhase, TaskResult, TaskState
from kubeferry.core import host
from kubeferry.core.host import Acknowledge, Act, Effect, Refuse
from kubeferry.core.journal import Journal
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import KubeError, NotFound

STOPPED_RETRY = timedelta(seconds=5)
"""When the gate is asked again for a VM that should run and could not be started."""

log = structlog.get_logger(__name__)


class Worker:
    """Carries out what is asked of this host, and keeps running what is ACTIVE here."""

    def __init__(
        self,
        machine: Machine,
        cluster: Cluster,
        journals: JournalStore,
        hypervisor: HypervisorCalls,
        inbox: Inbox,
        creator: Creator,
        starter: Starter,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when what the ComputeNode tells may have changed."""
        self._machine = machine
        self._cluster = cluster
        self._journals = journals
        self._hypervisor = hypervisor
        self._inbox = inbox
        self._creator = creator
        self._starter = starter
        self._changed = changed

    async def reconcile(self, uid: str) -> timedelta | None:
        """Work on one VM: the handler of the work queue.

        Raises:
            KubeError: the API server did not answer; the same is done again later.
        """
        with structlog.contextvars.bound_contextvars(vm=uid, node=self._machine.node):
            for task in self._inbox.of(uid):
                spec = task.spec
                with structlog.contextvars.bound_contextvars(task=task.metadata.name, verb=spec.verb, epoch=spec.epoch, seq=spec.seq):
                    await self._execute(task)
            return await self._revive(uid)

    async def _execute(self, task: HostTask) -> None:
        begun = None if task.status is None else task.status.started_at
        running = HostTaskStatus(phase=TaskPhase.RUNNING, started_at=begun or datetime.now(UTC), agent_version=__version__)
        if begun is None:
            await self._tell(task, running)
        try:
            result, error = await self._do(task.spec), None
        except FAILURES as failure:
            result, error = None, task_error(failure)
        log.info(
            "task ended", reason=reasons.AS_EXPECTED if error is None else error.reason, message=None if error is None else error.message
        )
        ended = HostTaskStatus(
            phase=TaskPhase.SUCCEEDED if error is None else TaskPhase.FAILED,
            started_at=running.started_at,
            finished_at=datetime.now(UTC),
            result=result,
            error=error,
            agent_version=__version__,
        )
        await self._tell(task, ended)
        self._inbox.drop(task.metadata.name)
        self._changed()

    async def _tell(self, task: HostTask, status: HostTaskStatus) -> None:
        try:
            await self._cluster.patch_status(HostTask, task.metadata, status)
        except NotFound:  # deleting a task cancels nothing: the controller asks it again, and the journal answers
            log.info("the task is gone, its outcome stands in the journal")

    async def _do(self, task: HostTaskSpec) -> TaskResult:
        uid = task.placement.name
        try:
            placement = await self._cluster.get(Placement, uid)
        except NotFound as error:
            raise RefusedError(reasons.PLACEMENT_LOST, f"the task's Placement is gone: nothing is done ({error})") from error
        answer = host.answer(task, self._journals.read(uid), placement.spec, self._machine.host_id)
        match answer:
            case Refuse():
                raise RefusedError.of(answer)
            case Acknowledge(state):
                return self._result(uid, state)
            case Act(journal, effect):
                return await self._act(task, journal, effect)

    async def _act(self, task: HostTaskSpec, journal: Journal, effect: Effect) -> TaskResult:
        match effect:
            case Effect.MAKE_DISKS:
                await self._creator.create(journal)
                return self._result(journal.uid, TaskState.CREATED)
            case Effect.START:
                return await self._start(task, journal)

    async def _start(self, task: HostTaskSpec, journal: Journal) -> TaskResult:
        self._journals.write(journal)
        if not (await self._hypervisor.domains()).get(journal.uid):
            await self._starter.start(journal.uid, task)
        return self._result(journal.uid, TaskState.RUNNING)

    def _result(self, uid: str, state: TaskState) -> TaskResult:
        journal = self._journals.read(uid)
        domain = None if journal is None else journal.domain
        return TaskResult(state=state, disks=() if domain is None else allocated(self._machine.settings.instances_path, domain))

    async def _revive(self, uid: str) -> timedelta | None:
        """Start a VM that is ACTIVE here and does not run; when to try again if the gate is shut or the start failed."""
        try:
            journal = self._journals.read(uid)
            if journal is None or journal.role != Role.ACTIVE or (await self._hypervisor.domains()).get(uid):
                return None
            await self._starter.start(uid, None)
        except (*FAILURES, KubeError) as failure:
            log.warning("the VM does not run here", reason=failure.reason, message=str(failure))
            return STOPPED_RETRY
        self._changed()
        return None
