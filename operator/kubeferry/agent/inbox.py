"""The HostTasks of this node that have not ended, as the watch tells them."""

from kubeferry.api.task import HostTask, TaskPhase

_OPEN = (None, TaskPhase.PENDING, TaskPhase.RUNNING)


class Inbox:
    """Open tasks by name; a task's VM is the name of its Placement."""

    def __init__(self) -> None:
        self._tasks: dict[str, HostTask] = {}

    def put(self, task: HostTask) -> None:
        """Take in a task as it is now; one that has ended is no longer of interest."""
        if (None if task.status is None else task.status.phase) in _OPEN:
            self._tasks[task.metadata.name] = task
        else:
            self.drop(task.metadata.name, task.metadata.uid)

    def drop(self, name: str, uid: str) -> None:
        """A task is gone. That cancels nothing: what it began is finished when it is asked again.

        Only that very object: its name is used again when the controller asks again, and news of the old one may come late.
        """
        if name in self._tasks and self._tasks[name].metadata.uid == uid:
            del self._tasks[name]

    def of(self, uid: str) -> tuple[HostTask, ...]:
        """The open tasks of a VM, in the order in which they were asked."""
        mine = (task for task in self._tasks.values() if task.spec.placement.name == uid)
        return tuple(sorted(mine, key=lambda task: (task.spec.epoch, task.spec.seq)))
