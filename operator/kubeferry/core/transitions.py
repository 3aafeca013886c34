"""What a copy's journal says next, once an effect was observed on its host."""

import dataclasses
from collections.abc import Mapping

from kubeferry.api.role import Role
from kubeferry.core.journal import Journal, JournalDisk, Reserved


def reserve(journal: Journal, disk: int) -> Journal:
    """The journal with what the copy holds of the host: the entry is the reservation.

    Args:
        journal: of a copy with a domain.
        disk: bytes of the instances' file system.
    """
    if journal.domain is None:
        raise ValueError(f"the journal of {journal.uid} has no domain")
    held = Reserved(cpu=journal.domain.cpu_cores, memory=journal.domain.memory, disk=disk)
    return dataclasses.replace(journal, reserved=held)


def note_created(journal: Journal, name: str) -> Journal:
    """The journal that names a file before it is created."""
    return journal if name in journal.created else dataclasses.replace(journal, created=(*journal.created, name))


def note_part(journal: Journal, name: str, inode: int) -> Journal:
    """The journal that knows the part of a file which is being filled."""
    return dataclasses.replace(journal, parts=journal.parts | {name: inode})


def verify(journal: Journal, disks: Mapping[str, JournalDisk]) -> Journal:
    """The journal of a copy that was filled: it is whole, was read back and found the same, and is fsynced."""
    return dataclasses.replace(journal, role=Role.VERIFIED, disks=dict(disks), parts={})


def seal(journal: Journal) -> Journal:
    """The journal of a copy that was proved stopped."""
    return dataclasses.replace(journal, role=Role.SEALED)


def release(journal: Journal) -> Journal:
    """The journal of a source whose target holds a verified copy."""
    return dataclasses.replace(journal, role=Role.RELEASED)


def bury(journal: Journal) -> Journal:
    """The journal of a copy whose files are in the trash: only its epoch is left, so that lower ones are refused for ever."""
    return dataclasses.replace(journal, role=Role.GONE, source=None, domain=None, reserved=None, disks={}, created=(), parts={})


def activate(journal: Journal, disks: Mapping[str, JournalDisk]) -> Journal:
    """The journal of a created copy: its disks are whole and fsynced."""
    return dataclasses.replace(journal, role=Role.ACTIVE, disks=dict(disks))
