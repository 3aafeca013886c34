"""What ends a task as Failed. Everything else (the API server does not answer, say) leaves it to be done again."""

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.model import MESSAGE_LENGTH
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


Failure = RefusedError | StorageError | HypervisorError | TransferError
FAILURES = (RefusedError, StorageError, HypervisorError, TransferError)


def task_error(failure: Failure) -> TaskError:
    """What a failure tells the controller."""
    return TaskError(reason=failure.reason, message=str(failure)[:MESSAGE_LENGTH], retryable=failure.retryable)


def defect_error(defect: Exception) -> TaskError:
    """What an exception that nobody thought of tells the controller."""
    message = f"the agent met what it does not know, {defect!r}: see its log on this node, and report it"
    return TaskError(reason=reasons.INTERNAL_ERROR, message=message[:MESSAGE_LENGTH])
