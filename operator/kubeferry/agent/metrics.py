"""An agent's metrics. No label carries the name of a VM or of a node."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram

from kubeferry.api.task import TaskPhase, TaskProgress, Verb

TASK_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600)


class Metrics:
    """What is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tasks = Histogram(
            "kubeferry_host_task_seconds", "How long a task took.", ["verb", "outcome"], registry=registry, buckets=TASK_SECONDS
        )
        self._bytes = Counter("kubeferry_transfer_bytes", "Bytes of disks that were transferred.", ["kind"], registry=registry)

    def ended(self, verb: Verb, phase: TaskPhase, seconds: float) -> None:
        """A task has ended."""
        self._tasks.labels(verb, phase).observe(seconds)

    def counted(self, on_progress: Callable[[TaskProgress], None]) -> Callable[[TaskProgress], None]:
        """`on_progress` of one Copy, which also counts the bytes that it sends."""
        sent = 0

        def tell(progress: TaskProgress) -> None:
            nonlocal sent
            self._bytes.labels("sent").inc(max(progress.bytes_sent - sent, 0))
            sent = progress.bytes_sent
            on_progress(progress)

        return tell
