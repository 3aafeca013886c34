"""The files of a copy as they land at the target: journaled, filled by a process of their own (`filling`), and only then named.

Blocking, and for one thread at a time.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.instance import Instance, check_files, open_instance
from kubeferry.agent.storage.layout import BOOT_LIMIT, MANIFEST, PART, boot_files, disk_file
from kubeferry.agent.storage.qcow2 import virtual_size
from kubeferry.agent.storage.space import allocated_bytes
from kubeferry.agent.storage.sweep import being_given_up, make_room
from kubeferry.agent.transfer.digest import combined
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.wire import FileHeader, Request, broken
from kubeferry.api import reasons
from kubeferry.api.domain import DiskFormat, Domain
from kubeferry.api.role import Role
from kubeferry.core import gate, guards, transitions
from kubeferry.core.journal import Journal, JournalDisk


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
        refuse = gate.receive(journal, asked.uid, asked.epoch, asked.epoch_id, self.peer)
        if refuse is not None:
            raise RefusedError.of(refuse)
        if journal is None:
            raise ValueError(f"the copy of {asked.uid} that was not refused has no journal")
        return journal


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is being filled, open."""

    header: FileHeader
    fd: int
    manifest: int
    """Descriptor of its manifest."""
    fresh: bool
    """Nothing was ever written to it."""


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
    """One copy, from the announcement of its files to its VERIFIED journal.

    Begin it, have its parts filled, publish it; close it in any case.
    """

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
        self._instance: Instance | None = None
        self.parts: list[Part] = []
        """Once it was begun."""

    def begin(self) -> bool:
        """Open the part of each file: that of an earlier try, if it is still the very same, else a new one.

        Returns:
            False: the copy is whole already, and nothing may be written to it any more.

        Raises:
            RefusedError: `NotIncoming`.
            TransferError: the announced files are not those of the journal's domain.
            StorageError: `ForeignFiles`, `InsufficientDisk`, or the file system or the journal refused.
        """
        journal = self._claim.journal(self._journals)
        if journal.role == Role.VERIFIED:
            self._tidy(journal)
            return False
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        _check_announced(self._files, journal.domain)
        instance = self._instance = self._opened_instance(journal)
        found = check_files(instance, journal.created)
        left = {header.name: status for header in self._files if (status := _left(header, journal, found)) is not None}
        with storage_errors(f"see what an earlier copy left in {instance.path}"):
            for name in journal.created:  # an end in the middle of `publish` left it under both names
                instance.remove(name)
                if name not in left:
                    instance.remove(name + PART)
                    instance.remove(name + MANIFEST)
        self._check_room(left)
        for header in self._files:
            self.parts.append(self._reopened(instance, header) if header.name in left else self._made(instance, header))
        return True

    def publish(self, digests: Mapping[str, str], sent: Mapping[str, str]) -> str:
        """Give the files their names, and journal that the copy is VERIFIED.

        Args:
            digests: of each file, as it was read back.
            sent: as its sender has read it.

        Returns:
            The digest of all of them together.

        Raises:
            TransferError: `DigestMismatch`: they are not the same, or not of these files.
            RefusedError: `NotIncoming`: the journal is another by now.
            StorageError: the file system or the journal refused.
        """
        if self._instance is None:
            raise ValueError("the copy was not begun")
        if not guards.verified(whole=digests == sent and digests.keys() == {part.header.name for part in self.parts}):
            wrong = sorted(name for name in digests.keys() | sent.keys() if digests.get(name) != sent.get(name))
            message = f"{', '.join(wrong)}: what was read back is not what was sent; see this host's and the source's kernel log"
            raise TransferError(reasons.DIGEST_MISMATCH, message, retryable=True)
        journal = self._claim.journal(self._journals)
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        self._check_images(journal.domain)
        with storage_errors(f"give the files in {self._instance.path} their names"):
            for part in self.parts:
                self._instance.publish(part.fd, part.header.name)
            self._instance.sync()
            inodes = {part.header.name: os.fstat(part.fd).st_ino for part in self.parts}
        images = {disk.name: disk_file(disk) for disk in journal.domain.disks}
        disks = {name: JournalDisk(inode=inodes[image], digest=digests[image]) for name, image in images.items()}
        self._journals.write(transitions.verify(journal, disks))
        self._tidy(journal)  # not before: until it is journaled, the next try goes on with the parts
        return combined(digests)

    def close(self) -> None:
        """Let go of everything. Parts stay: the next try goes on with them, or a discard moves them to the trash."""
        self._stack.close()

    def _opened_instance(self, journal: Journal) -> Instance:
        return self._stack.enter_context(open_instance(self._machine.settings.instances_path, journal.uid))

    def _tidy(self, journal: Journal) -> None:
        """Remove what was needed until the copy was whole."""
        instance = self._instance or self._opened_instance(journal)
        with storage_errors(f"tidy {instance.path}"):
            for name in journal.created:
                instance.remove(name + PART)
                instance.remove(name + MANIFEST)

    def _check_images(self, domain: Domain) -> None:
        """A qcow2 image names what else is to be opened: what came must be one whole image, as large as the guest was told.

        Raises:
            StorageError: `SourceUnusable`: one is not.
        """
        came = {part.header.name: part.fd for part in self.parts}
        for disk in domain.disks:
            if disk.format != DiskFormat.QCOW2:
                continue
            name = disk_file(disk)
            with storage_errors(f"read {name}"):
                size = virtual_size(came[name], f"{name}, as it came,")
            if size != disk.capacity:
                message = (
                    f"{name}, as it came, shows its guest {size} bytes, the disk's capacity is {disk.capacity}: see the image at the source"
                )
                raise StorageError(reasons.SOURCE_UNUSABLE, message)

    def _check_room(self, left: Mapping[str, os.stat_result]) -> None:
        path = self._machine.settings.instances_path
        needed = sum(
            max(0, header.allocated - (allocated_bytes(left[header.name]) if header.name in left else 0)) for header in self._files
        )
        free = make_room(path, needed, being_given_up(*self._journals.all()))
        if needed > free:
            message = f"the files occupy {needed} bytes more than what is here, {free} are free in {path}; make room on its file system"
            raise StorageError(reasons.INSUFFICIENT_DISK, message)

    def _made(self, instance: Instance, header: FileHeader) -> Part:
        self._journals.write(transitions.note_created(self._claim.journal(self._journals), header.name))
        with storage_errors(f"make {instance.path / header.name}"):
            fd = self._opened(instance.create(header.name + PART))
            os.ftruncate(fd, header.size)
            os.fsync(fd)
            manifest = self._opened(instance.create(header.name + MANIFEST))
            instance.sync()
            inode = os.fstat(fd).st_ino
        self._journals.write(transitions.note_part(self._claim.journal(self._journals), header.name, inode))
        return Part(header, fd, manifest, fresh=True)

    def _reopened(self, instance: Instance, header: FileHeader) -> Part:
        with storage_errors(f"open {instance.path / header.name}{PART}"):
            fd = self._opened(instance.reopen(header.name + PART))
            manifest = self._opened(instance.reopen(header.name + MANIFEST))
        return Part(header, fd, manifest, fresh=False)

    def _opened(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd


def _left(header: FileHeader, journal: Journal, found: Mapping[str, os.stat_result]) -> os.stat_result | None:
    """The part of an earlier try that can be filled further: the journal's very file, of the announced size, with its manifest."""
    status = found.get(header.name + PART)
    if status is None or header.name + MANIFEST not in found:
        return None
    return status if (status.st_ino, status.st_size) == (journal.parts.get(header.name), header.size) else None


def _check_announced(files: Sequence[FileHeader], domain: Domain) -> None:
    """Exactly the files that the domain runs with, its raw disks as large as the guest sees them."""
    images = {disk_file(disk) for disk in domain.disks}
    raw = {disk_file(disk): disk.capacity for disk in domain.disks if disk.format == DiskFormat.RAW}
    announced, expected = sorted(header.name for header in files), sorted([*boot_files(domain), *images])
    if announced != expected:
        raise broken(f"the files {', '.join(announced)} were announced, {', '.join(expected)} were expected")
    for header in files:
        if header.name not in images and header.size > BOOT_LIMIT:
            raise broken(f"{header.name} was announced with {header.size} bytes, at most {BOOT_LIMIT} were expected")
        if header.name in raw and header.size != raw[header.name]:
            raise broken(f"{header.name} was announced with {header.size} bytes, the disk's capacity is {raw[header.name]}")
