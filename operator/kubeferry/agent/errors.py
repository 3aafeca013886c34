"""What ends a task as Failed. Everything else (the API server does not answer, say) leaves it to be done again."""

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api.task import TaskError
from kubeferry.core.host import Refuse


class RefusedError(Exception):
    """The role table, the start gate or a check said no; nothing was changed."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable

    @classmethod
    def of(cls, refuse: Refuse) -> "RefusedError":
        """From what `core` decided."""
        return cls(refuse.reason, refuse.message, retryable=refuse.retryable)


Failure = RefusedError | StorageError | HypervisorError
FAILURES = (RefusedError, StorageError, HypervisorError)


def task_error(failure: Failure) -> TaskError:
    """What a failure tells the controller."""
    return TaskError(reason=failure.reason, message=str(failure)[:4096], retryable=failure.retryable)
