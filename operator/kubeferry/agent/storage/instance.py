"""One VM's instance directory, held open: what lies in it is named below its descriptor, and no link is followed."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.layout import PART, final_name
from kubeferry.api import reasons

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Instance:
    """The directory `<instances path>/<VM uid>`. Its methods raise `OSError`."""

    fd: int
    path: Path
    """For messages only."""

    def stat(self, name: str) -> os.stat_result:
        """What lies at that name itself; a link is not followed."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def create(self, name: str) -> int:
        """Make an empty file of mode 0600, where none is, and open it; libvirt gives it to QEMU at each start."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)

    def reopen(self, name: str) -> int:
        """Open a file that is there to read and write; a link is not followed."""
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.fd)

    def publish(self, fd: int, name: str) -> None:
        """Give a part its final name too, where none is; not rename(2), which would replace what lies there.

        Args:
            fd: the part as its maker opened it: whatever has the part's name by now, it is this file that is whole.
            name: the final one.
        """
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self.fd, follow_symlinks=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return

    def sync(self) -> None:
        """Make the names durable."""
        os.fsync(self.fd)


@contextmanager
def open_instance(instances_path: Path, uid: str) -> Iterator[Instance]:
    """Open a VM's instance directory, made with mode 0711 if it is missing: QEMU, which is not root, must get to its files.

    Raises:
        StorageError: `ForeignFiles`: something else lies there. `StorageError`, `InsufficientDisk`: the file system refused;
            the instances path is never made, since it would lie on the wrong file system if a mount is missing.
    """
    path = instances_path / uid
    with storage_errors(f"open the instance directory {path}"):
        parent = os.open(instances_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fd = _made(parent, uid)
        except NotADirectoryError as error:
            raise foreign(path, "it is no directory, or a link") from error
        finally:
            os.close(parent)
    try:
        yield Instance(fd, path)
    finally:
        os.close(fd)


def _made(parent: int, uid: str) -> int:
    try:
        os.mkdir(uid, 0o711, dir_fd=parent)
    except FileExistsError:
        fd = os.open(uid, _DIRECTORY, dir_fd=parent)
    else:
        os.fsync(parent)
        fd = os.open(uid, _DIRECTORY, dir_fd=parent)
    os.fchmod(fd, 0o711)  # whatever the umask was, and whoever was ended in between
    return fd


def instance_exists(instances_path: Path, uid: str) -> bool:
    """Whether anything lies where a VM's instance directory would.

    Raises:
        StorageError: `StorageError`: it can't be told.
    """
    with storage_errors(f"look into the instances path {instances_path}"):
        return uid in os.listdir(instances_path)


def check_files(instance: Instance, created: Collection[str]) -> Mapping[str, os.stat_result]:
    """Check that the directory holds nothing but whole files and parts that the journal created. Nothing is touched.

    A file is whole under its final name, since it gets that only after an fsync. One that has both names was
    interrupted while it got the final one: it is whole.

    Args:
        instance: the directory.
        created: final names in the journal; each covers its part and its manifest too.

    Returns:
        What is there, by name; what has its final name is whole.

    Raises:
        StorageError: `ForeignFiles`: a file that the journal does not name, a link, a second name of a file elsewhere, no file at all.
    """
    with storage_errors(f"look into {instance.path}"):
        found = {name: instance.stat(name) for name in os.listdir(instance.fd)}
    for name, status in sorted(found.items()):
        final = final_name(name)
        if final not in created:
            raise foreign(instance.path / name, "no journal of this host tells of it")
        if not stat.S_ISREG(status.st_mode):
            raise foreign(instance.path / name, "it is no regular file")
        names = sum(found[other].st_ino == status.st_ino for other in {name, final, final + PART} if other in found)
        if status.st_nlink != names:
            raise foreign(instance.path / name, f"it has {status.st_nlink} names, and {names} of them here")
    return found


def foreign(path: Path, seen: str) -> StorageError:
    """The refusal to touch something.

    Args:
        path: where it lies.
        seen: why it is not the VM's.
    """
    return StorageError(
        reasons.FOREIGN_FILES,
        f"{path} is not this VM's: {seen}; only files that the VM's journal created are expected; find out whose it is, and move it away",
    )
