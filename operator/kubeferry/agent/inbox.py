"""The HostTasks of this node that have not ended, as the watch tells them."""

from kubeferry.api.task import HostTask, TaskPhase

_OPEN = (None, TaskPhase.PENDING, TaskPhase.RUNNING)


class Inbox:
    """Open tasks by name; a task's VM is the name of its Placement."""

    def __init__(self) -> None:
        self._tasks: dict[str, HostTask] = {}
        self._ended: set[str] = set()  # uids, until they are gone: news from before they ended may come late

    def put(self, task: HostTask) -> bool:
        """Take in a task as it is now; whether it has not ended."""
        if (None if task.status is None else task.status.phase) not in _OPEN:
            self.end(task)
        elif task.metadata.uid not in self._ended:
            self._tasks[task.metadata.name] = task
            return True
        return False

    def end(self, task: HostTask) -> None:
        """A task has ended: whatever is told of it from now on, it is of no interest."""
        self._ended.add(task.metadata.uid)
        self._remove(task.metadata.name, task.metadata.uid)

    def drop(self, name: str, uid: str) -> None:
        """A task is gone. That cancels nothing: what it began is finished when it is asked again."""
        self._ended.discard(uid)
        self._remove(name, uid)

    def _remove(self, name: str, uid: str) -> None:
        # Only that very object: its name is used again when the controller asks again, and news of the old one may come late.
        if name in self._tasks and self._tasks[name].metadata.uid == uid:
            del self._tasks[name]

    def of(self, uid: str) -> tuple[HostTask, ...]:
        """The open tasks of a VM: those of the highest epoch first, in the order in which they were asked.

        A lower one that came late is refused once the higher one was done; done before, it would hold up what was asked since.
        """
        mine = (task for task in self._tasks.values() if task.spec.placement.name == uid)
        return tuple(sorted(mine, key=lambda task: (-task.spec.epoch, task.spec.seq)))
