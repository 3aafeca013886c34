"""Make a VM's files: kernel and initrd, if it has them, and every disk, each a copy of its source, blank, or a seed."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubeferry.agent.settings import AllowList
from kubeferry.agent.storage.allow import HOST_PATHS, KERNEL_PATHS, open_allowed
from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.instance import Instance, check_files, instance_exists, open_instance
from kubeferry.agent.storage.layout import BOOT_LIMIT, INITRD, KERNEL, PART, disk_file
from kubeferry.agent.storage.qcow2 import make_blank, resize, virtual_size
from kubeferry.agent.storage.seed import seed_image
from kubeferry.agent.storage.space import allocated_bytes
from kubeferry.agent.storage.sparse import copy_sparse
from kubeferry.api import reasons
from kubeferry.api.domain import DiskFormat, Domain, DomainDisk
from kubeferry.core.journal import JournalDisk

MARGIN = 64 << 20
"""Bytes asked for beyond the sources' own: metadata, the seed, console logs."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of the host that is copied."""

    path: str
    allowed: tuple[str, ...]
    key: str


@dataclass(frozen=True, slots=True)
class _File:
    """A file to make."""

    name: str
    source: _Source | None
    """None: the disk tells what it holds."""
    disk: DomainDisk | None
    """None: it is no disk, and as large as the source."""


def bytes_needed(domain: Domain, allow: AllowList, found: Mapping[str, os.stat_result]) -> int:
    """Bytes that the VM's files will occupy beyond what they do by now: what their sources do, and a margin.

    Args:
        domain: whose files.
        allow: which files of the host may be sources.
        found: what is there by now (`own_files`). Whole files need nothing more; parts make room, since they are made anew.

    Raises:
        StorageError: `PathNotAllowed`, `SourceUnusable`, `InvalidTask`: no files can be made of this domain here.
    """
    missing = [file for file in _files(domain, allow) if file.name not in found]
    needed = MARGIN if missing else 0
    for file in missing:
        with _opened(file) as source:
            needed += 0 if source is None else allocated_bytes(os.fstat(source))
    given_back = sum(allocated_bytes(found[file.name + PART]) for file in missing if file.name + PART in found)
    return max(0, needed - given_back)


def own_files(instances_path: Path, uid: str, created: Collection[str]) -> Mapping[str, os.stat_result]:
    """What a VM's instance directory holds, by name, before anything is journaled or made: nothing that is not its own.

    Args:
        instances_path: where the instances lie.
        uid: the VM's uid.
        created: names that the VM's journal created; empty if it has none.

    Raises:
        StorageError: `ForeignFiles`; `StorageError`: it can't be told.
    """
    if not instance_exists(instances_path, uid):
        return {}
    with open_instance(instances_path, uid) as instance:
        return check_files(instance, created)


def create_files(
    instances_path: Path, domain: Domain, allow: AllowList, created: Collection[str], on_create: Callable[[str], None]
) -> dict[str, JournalDisk]:
    """Make every file that is not there yet, durable when this returns. Called again after an interruption, it goes on.

    A file that has its final name is whole and stays; a part is removed and made again. A failure leaves the whole files,
    and no part of its own.

    Args:
        instances_path: where the instances lie.
        domain: whose files.
        allow: which files of the host may be sources.
        created: names that the journal created before.
        on_create: told the final name of each file that is not in `created`, before it or its part is made; what it raises is passed on.

    Returns:
        The disks by name.

    Raises:
        StorageError: `ForeignFiles` (nothing was touched), `PathNotAllowed`, `SourceUnusable`, `InvalidTask`, `InsufficientDisk`,
            `StorageError`.
    """
    files = _files(domain, allow)
    with open_instance(instances_path, domain.uuid) as instance:
        found = check_files(instance, created)
        for file in files:
            with storage_errors(f"remove {instance.path / file.name}{PART}"):
                instance.remove(file.name + PART)
            if file.name in found:
                continue
            with _opened(file) as source:
                if file.name not in created:
                    on_create(file.name)
                _make(instance, file, source)
        with storage_errors(f"make the names in {instance.path} durable"):
            instance.sync()
            return {disk.name: JournalDisk(inode=instance.stat(disk_file(disk)).st_ino) for disk in domain.disks}


def _files(domain: Domain, allow: AllowList) -> list[_File]:
    boot = {} if domain.kernel_boot is None else {KERNEL: domain.kernel_boot.kernel_path, INITRD: domain.kernel_boot.initrd_path}
    files = [_File(name, _Source(path, allow.kernel_paths, KERNEL_PATHS), None) for name, path in boot.items() if path is not None]
    files += [_File(disk_file(disk), _disk_source(disk, allow), disk) for disk in domain.disks]
    names = [file.name for file in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StorageError(reasons.INVALID_TASK, f"more than one disk would be {', '.join(sorted(twice))}; name each disk once")
    return files


def _disk_source(disk: DomainDisk, allow: AllowList) -> _Source | None:
    source = disk.source
    if (source.host_path, source.blank, source.cloud_init_no_cloud).count(None) != 2:
        raise StorageError(
            reasons.INVALID_TASK, f"disk {disk.name} must have exactly one source; name one of hostPath, blank and cloudInitNoCloud"
        )
    return None if source.host_path is None else _Source(source.host_path.path, allow.host_paths, HOST_PATHS)


@contextmanager
def _opened(file: _File) -> Iterator[int | None]:
    if file.source is None:
        yield None
        return
    path = file.source.path
    fd = open_allowed(path, file.source.allowed, file.source.key)
    try:
        with storage_errors(f"read {path}"):
            size = _size(fd, path, file.disk)
        if file.disk is None and size > BOOT_LIMIT:
            raise StorageError(
                reasons.SOURCE_UNUSABLE, f"{path} has {size} bytes, a kernel or an initrd may have {BOOT_LIMIT}; see what it is"
            )
        if file.disk is not None and size > file.disk.capacity:
            raise StorageError(
                reasons.SOURCE_UNUSABLE, f"{path} has {size} bytes, the disk's capacity is {file.disk.capacity}; raise the capacity"
            )
        yield fd
    finally:
        os.close(fd)


def _size(fd: int, path: str, disk: DomainDisk | None) -> int:
    """Bytes of a source, of a disk as its guest sees them."""
    if disk is not None and disk.format == DiskFormat.QCOW2:
        return virtual_size(fd, path)
    return os.fstat(fd).st_size


def _make(instance: Instance, file: _File, source: int | None) -> None:
    part = file.name + PART
    origin = "" if file.source is None else f" from {file.source.path}"
    with storage_errors(f"make {instance.path / file.name}{origin}"):
        target = instance.create(part)
        try:
            if source is not None:
                copy_sparse(source, target)
            if file.disk is not None:
                _furnish(target, file.disk, instance, copied=source is not None)
            os.fsync(target)
            instance.publish(target, file.name)
            instance.remove(part)
        except (OSError, StorageError):
            instance.remove(part)
            raise
        finally:
            os.close(target)


def _furnish(fd: int, disk: DomainDisk, instance: Instance, *, copied: bool) -> None:
    """Have the guest see the disk's capacity, and on a seed its words. The instance directory bears the VM's uid."""
    path = str(instance.path / f"{disk_file(disk)}{PART}")
    if disk.source.cloud_init_no_cloud is not None:
        image = seed_image(disk.source.cloud_init_no_cloud, instance.path.name)
        if len(image) > disk.capacity:
            raise StorageError(reasons.INVALID_TASK, f"{path} would have {len(image)} bytes, its capacity is {disk.capacity}; raise it")
        with open(fd, "wb", closefd=False) as file:
            file.write(image)
    if disk.format == DiskFormat.RAW:
        os.ftruncate(fd, disk.capacity)
    elif not copied:
        make_blank(fd, disk.capacity, path)
    elif virtual_size(fd, path) < disk.capacity:  # looked at anew: it is this file that QEMU opens
        resize(fd, disk.capacity, path)
