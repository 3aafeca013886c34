"""Why something could not be done with files of this host."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from kubeferry.api import reasons

_FULL = (errno.ENOSPC, errno.EDQUOT)


class StorageError(Exception):
    """A refusal, or a failure of the file system."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        """A reason of `kubeferry.api.reasons`."""
        self.retryable = retryable
        """Whether the same may go well later without anybody's help."""


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Tell what the system refuses as a `StorageError`.

    Args:
        doing: what was being done, to what: "make /instances/1/root.raw".

    Raises:
        StorageError: `InsufficientDisk` or `StorageError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(reasons.INSUFFICIENT_DISK, f"could not {doing}: {error.strerror}; make room on its file system") from error
        raise StorageError(
            reasons.STORAGE_ERROR, f"could not {doing}: {error.strerror or error}; see that its path is mounted and sound"
        ) from error
