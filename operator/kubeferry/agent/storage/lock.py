"""QEMU's lock of an image: whether any QEMU on this host has it open to write."""

import re
import subprocess
from pathlib import Path

from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

_TIMEOUT = 10
"""Seconds for one look."""

_HELD = re.compile(r'Failed to get (shared )?"[^"]+" lock')
"""QEMU's words (block/file-posix.c); its exit status is 1 for every error."""


def image_is_free(path: Path) -> bool:
    """Whether no QEMU holds the image: an open to write as raw, which writes nothing and reads no format's header.

    `qemu-img info` is no such look: it succeeds beside a running guest.

    Raises:
        StorageError: `StorageError`: it can't be told, which is never "free".
    """
    try:
        look = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "quit", str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StorageError(
            reasons.STORAGE_ERROR, f"qemu-io did not open {path} within {_TIMEOUT} s; see that its file system answers", retryable=True
        ) from error
    except OSError as error:
        raise StorageError(reasons.STORAGE_ERROR, f"qemu-io can't be run: {error.strerror}; install qemu-utils") from error
    if look.returncode == 0:
        return True
    if _HELD.search(look.stderr):
        return False
    raise StorageError(
        reasons.STORAGE_ERROR,
        f"qemu-io ended with {look.returncode} on {path}: {look.stderr.strip()}; 0, or its words on a held lock, was expected",
    )
