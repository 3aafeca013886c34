"""Move a VM's files out of the way, so that a person can still bring them back. Nothing is ever unlinked for good here."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.instance import Instance, foreign
from kubeferry.agent.storage.layout import TRASH, final_name, is_console_log
from kubeferry.api import reasons

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def require_disks(instances_path: Path, uid: str, inodes: Mapping[str, int]) -> None:
    """Make sure that every disk is where it should be, before its copy is given up: in the instance directory, or in the trash already.

    That it is in neither does not say that it is gone: its file system may not be mounted.

    Args:
        instances_path: where the instances lie.
        uid: the VM's uid.
        inodes: inode numbers of the disks, by final name.

    Raises:
        StorageError: `StorageError`: one is in neither place, or it can't be told. `ForeignFiles` is for `move_to_trash` to find.
    """
    with storage_errors(f"look for the disks of VM {uid} in {instances_path}"):
        here = _inodes(instances_path / uid)
        found = set(here.items())
        trash = instances_path / TRASH
        for name in os.listdir(trash) if trash.exists() else ():
            if name.startswith(f"{uid}-"):
                found |= set(_inodes(trash / name).items())
    if missing := sorted(name for name, inode in inodes.items() if (name, inode) not in found and name not in here):
        message = (
            f"{', '.join(missing)} of VM {uid} was expected in {instances_path / uid}, and is neither there nor in the trash: "
            f"see that the file system of the instances is mounted. The copy is not given up"
        )
        raise StorageError(reasons.STORAGE_ERROR, message, retryable=True)


def _inodes(directory: Path) -> dict[str, int]:
    """Inode numbers of what a directory holds, by name; one that is missing holds nothing."""
    try:
        return {entry.name: entry.inode() for entry in os.scandir(directory)}
    except FileNotFoundError:
        return {}


def move_to_trash(instances_path: Path, uid: str, epoch: int, created: Collection[str], inodes: Mapping[str, int]) -> tuple[str, ...]:
    """Move a VM's own files to `.trash/UID-EPOCH`, and remove its instance directory if it is empty then.

    Its own are what the journal created, whole or parts, and the guest's console logs. Durable when this returns. Called again
    after an interruption, it goes on.

    Args:
        instances_path: where the instances lie; the trash, of mode 0700, is made there when it is first needed.
        uid: the VM's uid.
        epoch: the journal's.
        created: final names that the VM's journal created; each covers its part and its manifest too.
        inodes: inode numbers of disks that are whole, by final name.

    Returns:
        Names of what is left in the instance directory, since it is not the VM's; empty: the directory is gone.

    Raises:
        StorageError: `ForeignFiles`: a file of a name of the VM's is another one, and nothing was moved; or another file has its
            name in the trash. `StorageError`, `InsufficientDisk`: the file system refused.
    """
    path = instances_path / uid
    with storage_errors(f"move the files in {path} to the trash"), _opened(os.open(instances_path, os.O_RDONLY | os.O_DIRECTORY)) as parent:
        try:
            fd = os.open(uid, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:  # moved by an earlier try, or never made
            return ()
        except NotADirectoryError as error:
            raise foreign(path, "it is no directory, or a link") from error
        with _opened(fd):
            instance = Instance(fd, path)
            own = _own(instance, created, inodes)
            if own:
                _move(instance, own, parent, f"{uid}-{epoch}", instances_path / TRASH)
            left = tuple(sorted(os.listdir(fd)))
        if not left:
            os.rmdir(uid, dir_fd=parent)
            os.fsync(parent)
        return left


def _own(instance: Instance, created: Collection[str], inodes: Mapping[str, int]) -> dict[str, int]:
    """Inode numbers of the VM's files that are here, by name; raises `ForeignFiles` for one that is not the VM's."""
    own = {}
    for name in sorted(os.listdir(instance.fd)):
        status = instance.stat(name)
        is_file = stat.S_ISREG(status.st_mode)
        if final_name(name) not in created:
            if is_file and is_console_log(name):
                own[name] = status.st_ino
            continue
        if not is_file:
            raise foreign(instance.path / name, "it is no regular file")
        if inodes.get(name, status.st_ino) != status.st_ino:
            raise foreign(instance.path / name, f"its inode is {status.st_ino}, the journal tells of {inodes[name]}")
        own[name] = status.st_ino
    return own


def _move(instance: Instance, own: Mapping[str, int], parent: int, name: str, trash_path: Path) -> None:
    """Give the files their names in the trash, then take the old ones.

    Not rename(2), which would replace what lies there; in two rounds, so that after a power cut each file has a name.
    """
    with _made(parent, TRASH) as trash, _made(trash, name) as target:
        for file, inode in own.items():
            _link(instance, file, inode, target, trash_path / name / file)
        os.fsync(target)
        for file, inode in own.items():
            if instance.stat(file).st_ino != inode:
                raise foreign(instance.path / file, "it was put there just now")
            os.unlink(file, dir_fd=instance.fd)
        instance.sync()


def _link(instance: Instance, name: str, inode: int, target: int, there: Path) -> None:
    with suppress(FileExistsError):  # of an interrupted try, if it is this file
        os.link(name, name, src_dir_fd=instance.fd, dst_dir_fd=target, follow_symlinks=False)
    if os.stat(name, dir_fd=target, follow_symlinks=False).st_ino != inode:
        raise foreign(there, f"its inode is not {inode}, that of {instance.path / name}")


@contextmanager
def _made(parent: int, name: str) -> Iterator[int]:
    """A directory of mode 0700, opened, and made durably if it is missing."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    with _opened(os.open(name, _DIRECTORY, dir_fd=parent)) as fd:
        os.fsync(parent)
        yield fd


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
