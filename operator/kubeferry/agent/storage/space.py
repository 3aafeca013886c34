"""Room on the file system that holds the disks."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from kubeferry.agent.storage.errors import storage_errors
from kubeferry.agent.storage.layout import PART, disk_file
from kubeferry.api.computenode import InstancesPath
from kubeferry.api.domain import Domain
from kubeferry.api.task import DiskResult

_BLOCK = 512
"""Bytes of a block in `st_blocks` (stat(2)), whatever the file system's own."""


def allocated_bytes(status: os.stat_result) -> int:
    """Bytes that a file occupies."""
    return status.st_blocks * _BLOCK


def instances_file_system(instances_path: Path) -> InstancesPath:
    """Size and room of the instances' file system, as they are now; free is what is left to those who are not root.

    Raises:
        StorageError: `StorageError`.
    """
    with storage_errors(f"look at the instances path {instances_path}"):
        room = os.statvfs(instances_path)
        device = instances_path.stat().st_dev
    return InstancesPath(
        path=str(instances_path),
        total=room.f_blocks * room.f_frsize,
        free=room.f_bavail * room.f_frsize,
        filesystem_id=f"{os.major(device)}:{os.minor(device)}",
    )


def free_bytes(instances_path: Path) -> int:
    """Bytes free on the instances' file system.

    Raises:
        StorageError: `StorageError`.
    """
    return instances_file_system(instances_path).free


def allocated(instances_path: Path, domain: Domain) -> tuple[DiskResult, ...]:
    """What each of the domain's disks occupies.

    Raises:
        StorageError: `StorageError`: a disk is missing.
    """
    directory = instances_path / domain.uuid
    with storage_errors(f"look at the disks in {directory}"):
        return tuple(DiskResult(name=disk.name, allocated=allocated_bytes((directory / disk_file(disk)).lstat())) for disk in domain.disks)


def occupied_bytes(instances_path: Path, uid: str, created: Collection[str]) -> int:
    """Bytes that a VM's files occupy, whole ones and parts.

    Args:
        instances_path: where the instances lie.
        uid: the VM's uid.
        created: final names that the VM's journal created; one that is not there by now, or no more, occupies nothing.

    Raises:
        StorageError: `StorageError`: it can't be told.
    """
    if not created:
        return 0
    directory = instances_path / uid
    found: dict[int, int] = {}  # by inode: a file that is just getting its final name has both
    with storage_errors(f"look at the files in {directory}"):
        directory.stat()
        for name in created:
            for path in (directory / (name + PART), directory / name):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    found[status.st_ino] = allocated_bytes(status)
    return sum(found.values())
