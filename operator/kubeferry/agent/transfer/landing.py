"""The files of a copy as they land at the target: journaled, written, read back, and only then named.

Blocking, and for one thread at a time; only `stop` may be called by another.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import structlog

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.instance import Instance, check_files, open_instance
from kubeferry.agent.storage.layout import BOOT_LIMIT, INITRD, KERNEL, PART, disk_file
from kubeferry.agent.storage.space import free_bytes
from kubeferry.agent.transfer.digest import combined, digest
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.wire import Data, FileHeader, Request, broken
from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.api.role import Role
from kubeferry.core import guards, host, transitions
from kubeferry.core.journal import Journal, JournalDisk

SYNC_EVERY = 128 << 20
"""Bytes after which what was written is made durable: at the end, the disk would be silent for longer than the sender waits."""

ALIVE_EVERY = 16
"""Chunks (64 MiB) that are read back between two signs of life."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants to fill which copy."""

    peer: str
    """The node that asks, as sshd knows it by its key."""
    request: Request

    def journal(self, journals: JournalStore) -> Journal:
        """This host's journal of the copy.

        Raises:
            RefusedError: `NotIncoming`: it is not for this peer to fill at this epoch.
            StorageError: the journal can't be read.
        """
        asked = self.request
        journal = journals.read(asked.uid)
        refuse = host.receive(journal, asked.uid, asked.epoch, asked.epoch_id, self.peer)
        if refuse is not None:
            raise RefusedError.of(refuse)
        if journal is None:
            raise ValueError(f"the copy of {asked.uid} that was not refused has no journal")
        return journal


@dataclass(slots=True)
class _Part:
    """A file that is being filled."""

    header: FileHeader
    fd: int
    end: int = 0
    """Where the last data ended: what comes next lies behind it."""


@dataclass(slots=True)
class _Filling:
    """What is open."""

    instance: Instance
    parts: list[_Part] = field(default_factory=list)


def make_directory(machine: Machine, journals: JournalStore, claim: Claim) -> None:
    """Make the VM's instance directory, and see that nothing of others lies in it.

    Raises:
        RefusedError: `NotIncoming`.
        StorageError: `ForeignFiles`, or the file system or the journal refused.
    """
    journal = claim.journal(journals)
    with open_instance(machine.settings.instances_path, journal.uid) as instance:
        check_files(instance, journal.created)


class Landing:
    """One copy, from the announcement of its files to its VERIFIED journal. Begin it, fill it, finish it; close it in any case."""

    def __init__(self, machine: Machine, journals: JournalStore, claim: Claim, files: Sequence[FileHeader]) -> None:
        """Nothing is touched yet.

        Args:
            machine: this host.
            journals: its journals.
            claim: who fills which copy.
            files: as the source announced them.
        """
        self._machine = machine
        self._journals = journals
        self._claim = claim
        self._files = files
        self._stack = ExitStack()
        self._filling: _Filling | None = None
        self._unsynced = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have a call that is under way end soon."""
        self._stopped.set()

    def begin(self) -> bool:
        """Remove what an earlier try left, and make a part for each file.

        Returns:
            False: the copy is whole already, and nothing may be written to it any more.

        Raises:
            RefusedError: `NotIncoming`.
            TransferError: the announced files are not those of the journal's domain.
            StorageError: `ForeignFiles`, `InsufficientDisk`, or the file system or the journal refused.
        """
        journal = self._claim.journal(self._journals)
        if journal.role == Role.VERIFIED:
            return False
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        _check_announced(self._files, journal.domain)
        instance = self._stack.enter_context(open_instance(self._machine.settings.instances_path, journal.uid))
        check_files(instance, journal.created)
        with storage_errors(f"remove what an earlier copy left in {instance.path}"):
            for name in journal.created:
                instance.remove(name + PART)
                instance.remove(name)
        self._check_room()
        self._filling = _Filling(instance)
        for header in self._files:
            self._make(self._filling, header)
        return True

    def write(self, data: Data) -> None:
        """Write a stretch of a file.

        Raises:
            TransferError: `TransferBroken`: it lies outside of what was announced, or not behind what came before.
            StorageError: `InsufficientDisk`, or the file system refused.
        """
        filling = self._begun()
        if data.index >= len(filling.parts):
            raise broken(f"data of file {data.index} came, {len(filling.parts)} files were announced")
        part = filling.parts[data.index]
        end = data.offset + len(data.content)
        if not data.content or data.offset < part.end or end > part.header.size:
            raise broken(
                f"data of {part.header.name} from byte {data.offset} to {end} came; it was expected behind byte {part.end}, "
                f"and the file has {part.header.size}"
            )
        with storage_errors(f"write {filling.instance.path / part.header.name}"):
            _write(part.fd, data)
            part.end = end
            self._unsynced += len(data.content)
            if self._unsynced >= SYNC_EVERY:
                os.fdatasync(part.fd)
                self._unsynced = 0

    def finish(self, theirs: Mapping[str, str], on_alive: Callable[[], None]) -> str:
        """Make the files durable, read them back, give them their names, and journal that the copy is VERIFIED.

        Args:
            theirs: digest of each file, as its sender has read it.
            on_alive: called now and then while files are read back.

        Returns:
            The digest of all of them together.

        Raises:
            TransferError: `DigestMismatch`: what was read back is something else; `TransferBroken`: digests of other files came, or
                `stop` was called.
            RefusedError: `NotIncoming`: the journal is another by now.
            StorageError: the file system or the journal refused.
        """
        filling = self._begun()
        if theirs.keys() != {part.header.name for part in filling.parts}:
            raise broken(f"digests of {', '.join(sorted(theirs))} came; one for each announced file was expected")
        alive = _every(ALIVE_EVERY, on_alive)
        ours = {part.header.name: self._read_back(filling.instance, part, alive) for part in filling.parts}
        wrong = [name for name in sorted(ours) if ours[name] != theirs[name]]
        if not guards.verified(whole=not wrong):
            message = f"{', '.join(wrong)}: what was read back is not what was sent; see this host's and the source's kernel log"
            raise TransferError(reasons.DIGEST_MISMATCH, message, retryable=True)
        self._publish(filling, ours)
        return combined(ours)

    def close(self) -> None:
        """Let go of everything; parts that are left go. Raises nothing."""
        filling, self._filling = self._filling, None
        if filling is not None:
            for part in filling.parts:
                try:
                    filling.instance.remove(part.header.name + PART)
                except OSError as error:  # the next copy removes it, or a discard
                    log.warning("part not removed", file=part.header.name, error=str(error))
        self._stack.close()

    def _begun(self) -> _Filling:
        if self._filling is None:
            raise ValueError("the copy was not begun, or is closed")
        return self._filling

    def _check_room(self) -> None:
        path = self._machine.settings.instances_path
        needed, free = sum(header.allocated for header in self._files), free_bytes(path)
        if needed > free:
            message = f"the files occupy {needed} bytes at the source, {free} are free in {path}; make room on its file system"
            raise StorageError(reasons.INSUFFICIENT_DISK, message)

    def _make(self, filling: _Filling, header: FileHeader) -> None:
        self._journals.write(transitions.note_created(self._claim.journal(self._journals), header.name))
        with storage_errors(f"make {filling.instance.path / header.name}"):
            fd = filling.instance.create(header.name + PART)
            self._stack.callback(os.close, fd)
            filling.parts.append(_Part(header, fd))
            os.ftruncate(fd, header.size)

    def _read_back(self, instance: Instance, part: _Part, alive: Callable[[], None]) -> str:
        def on_chunk() -> None:
            if self._stopped.is_set():
                raise broken("the copy was stopped at the target")
            alive()

        with storage_errors(f"read back {instance.path / part.header.name}"):
            os.fsync(part.fd)
            os.posix_fadvise(part.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            # Whatever has the part's name by now, it is this file that was written and that gets its final name.
            fd = os.open(f"/proc/self/fd/{part.fd}", os.O_RDONLY)
            try:
                return digest(fd, on_chunk)
            finally:
                os.close(fd)

    def _publish(self, filling: _Filling, digests: Mapping[str, str]) -> None:
        instance = filling.instance
        journal = self._claim.journal(self._journals)
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        with storage_errors(f"give the files in {instance.path} their names"):
            for part in filling.parts:
                instance.publish(part.fd, part.header.name + PART, part.header.name)
            instance.sync()
            inodes = {part.header.name: os.fstat(part.fd).st_ino for part in filling.parts}
        images = {disk.name: disk_file(disk) for disk in journal.domain.disks}
        disks = {name: JournalDisk(inode=inodes[image], digest=digests[image]) for name, image in images.items()}
        self._journals.write(transitions.verify(journal, disks))


def _check_announced(files: Sequence[FileHeader], domain: Domain) -> None:
    """Exactly the files that the domain runs with, its disks as large as the guest sees them."""
    capacities = {disk_file(disk): disk.capacity for disk in domain.disks}
    boot = [KERNEL] if domain.kernel_boot.initrd_path is None else [KERNEL, INITRD]
    announced, expected = sorted(header.name for header in files), sorted([*boot, *capacities])
    if announced != expected:
        raise broken(f"the files {', '.join(announced)} were announced, {', '.join(expected)} were expected")
    for header in files:
        if header.name not in capacities and header.size > BOOT_LIMIT:
            raise broken(f"{header.name} was announced with {header.size} bytes, at most {BOOT_LIMIT} were expected")
        if header.size != capacities.get(header.name, header.size):
            raise broken(f"{header.name} was announced with {header.size} bytes, the disk's capacity is {capacities[header.name]}")


def _write(fd: int, data: Data) -> None:
    content, offset = data.content, data.offset
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written


def _every(count: int, call: Callable[[], None]) -> Callable[[], None]:
    """`call`, at every `count`th time."""
    times = 0

    def counted() -> None:
        nonlocal times
        times += 1
        if times % count == 0:
            call()

    return counted
