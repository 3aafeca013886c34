"""Whether two hosts see the same instances' file system: each leaves a file there, and looks for the other's.

Nova's `_is_path_shared_with` looks in one direction only, and takes every error for "not shared".
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.api import reasons
from kubeferry.api.model import model

_PREFIX = ".probe-"
"""No VM's: a uid has no dot."""


@model
class Probe:
    """A file that a host has left."""

    name: Annotated[str, Field(max_length=128, pattern=r"^\.probe-[0-9A-Za-z-]+$")]
    content: Annotated[str, Field(min_length=32, max_length=64, pattern=r"^[0-9a-f]+$")]


@contextmanager
def left(instances_path: Path, host_id: str) -> Iterator[Probe]:
    """A file of this host's, durable, for as long as this is held.

    Raises:
        StorageError: the file system refused.
    """
    probe = Probe(name=f"{_PREFIX}{host_id}-{secrets.token_hex(4)}", content=secrets.token_hex(16))
    path = instances_path / probe.name
    with storage_errors(f"leave {path}"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with storage_errors(f"leave {path}"), open(fd, "wb"):
            os.write(fd, probe.content.encode())
            os.fsync(fd)
        yield probe
    finally:
        with storage_errors(f"remove {path}"):
            path.unlink(missing_ok=True)


def is_seen(instances_path: Path, probe: Probe) -> bool:
    """Whether the file that another host has left is here.

    Raises:
        StorageError: it can't be told; also where a file of that name is something else.
    """
    with storage_errors(f"look for {instances_path / probe.name}"):
        if probe.name not in os.listdir(instances_path):  # read anew, where a look at the name could be answered from a cache
            return False
        fd = os.open(instances_path / probe.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            seen = os.read(fd, len(probe.content) + 1)
        finally:
            os.close(fd)
    if seen != probe.content.encode():  # the name is made for one preflight: this may be the file, its content late in a cache
        message = f"{instances_path / probe.name} is there, with another content than the other host has left; see that its mount is sound"
        raise StorageError(reasons.STORAGE_ERROR, message, retryable=True)
    return True


def left_by(host_id: str) -> str:
    """The pattern (of a shell) of the names of what a host leaves."""
    return f"{_PREFIX}{host_id}-*"


def remove_left(instances_path: Path, host_id: str) -> None:
    """Remove what this host's agent left when it was killed.

    Raises:
        StorageError: the file system refused.
    """
    with storage_errors(f"remove old probes from {instances_path}"):
        for name in os.listdir(instances_path):
            if fnmatchcase(name, left_by(host_id)):
                (instances_path / name).unlink(missing_ok=True)
