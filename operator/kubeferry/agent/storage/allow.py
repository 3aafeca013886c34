"""Which files of the host a VM may name: those below allow-listed directories, whatever links lie between."""

import os
import stat
from collections.abc import Sequence

from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

HOST_PATHS = "allow.hostPaths"
KERNEL_PATHS = "allow.kernelPaths"


def open_allowed(path: str, allowed: Sequence[str], key: str) -> int:
    """Open a regular file for reading.

    Args:
        path: absolute; links in it are followed.
        allowed: directories below which the file must lie once all links are followed; empty: nothing is allowed.
        key: where the agent's configuration holds `allowed`, for messages.

    Returns:
        A file descriptor, the caller's to close.

    Raises:
        StorageError: `PathNotAllowed`, with the same message whether such a file exists or not; `SourceUnusable`: it is
            missing, no regular file, not readable, or was replaced while it was opened.
    """
    real = _resolved(path)
    if not any(_is_below(real, directory) for directory in allowed):
        raise StorageError(reasons.PATH_NOT_ALLOWED, _refusal(path, allowed, key))
    try:
        # O_NONBLOCK: a pipe without a writer would hold the thread for ever.
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StorageError(reasons.SOURCE_UNUSABLE, f"{path} can't be opened: {error.strerror}; put a readable file there") from error
    try:
        _check_opened(path, real, fd)
    except StorageError:
        os.close(fd)
        raise
    return fd


def _resolved(path: str) -> str:
    """Where the path leads; empty if that is not to be asked."""
    # With "..", where it leads would tell whether a name outside of the list is a link. A relative one is the agent's own directory's.
    return os.path.realpath(path) if os.path.isabs(path) and ".." not in path.split("/") else ""


def _is_below(real: str, directory: str) -> bool:
    return os.path.isabs(directory) and real.startswith(os.path.realpath(directory).rstrip("/") + "/")


def _check_opened(path: str, real: str, fd: int) -> None:
    # A directory on the way may have become a link after it was resolved.
    if os.readlink(f"/proc/self/fd/{fd}") != real:
        raise StorageError(
            reasons.SOURCE_UNUSABLE, f"{path} was replaced while it was opened; leave it as it is and try again", retryable=True
        )
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise StorageError(reasons.SOURCE_UNUSABLE, f"{path} is not a regular file; name an image file, not a directory or a device")


def _refusal(path: str, allowed: Sequence[str], key: str) -> str:
    if not allowed:
        return f"{path} is not allowed: {key} of the agent's configuration is empty; the operator of the node must list directories there"
    return (
        f"{path} is not allowed: it must be absolute, without '..', and lead below one of {', '.join(allowed)} "
        f"({key} of the agent's configuration); put the file there, or have the operator of the node extend the list"
    )
