"""A host's journal of one VM: what this host has promised, written before each effect.

The agent keeps it on host-local storage (`agent.journal`); `core.host` decides what it says next.
"""

import dataclasses
from typing import Annotated

from pydantic import Field

from kubeferry.api.domain import Domain
from kubeferry.api.model import Bytes, Int, Label, Name, Uid, model
from kubeferry.api.role import Role
from kubeferry.api.task import Verb

JOURNAL_VERSION = 1
"""Raised when an older agent could misread a journal; one of a higher version is refused, never guessed at."""


@model
class JournalDisk:
    """A disk that is whole."""

    inode: Annotated[Int, Field(ge=1)]
    """Inode number of the image: a file that took its name later is not this VM's."""
    digest: str | None = None
    """Whole-image digest, known after a verified copy."""


@model
class Reserved:
    """What this copy holds of the host; only a discard frees it."""

    cpu: Int
    memory: Bytes
    """Bytes."""
    disk: Bytes
    """Bytes of the instances' file system."""


@model
class JournalStep:
    """The last task that was acted on."""

    seq: Int
    verb: Verb
    grace_seconds: Int = 0
    """Of a Seal: seconds that the guest gets to shut down, before force; an interrupted one is finished by it."""


@model
class Journal:
    """One VM's copy on one host."""

    version: Annotated[Int, Field(ge=1, le=JOURNAL_VERSION)] = JOURNAL_VERSION
    uid: Uid
    """The VM's uid."""
    epoch: Annotated[Int, Field(ge=1)]
    """Never lowered."""
    epoch_id: Uid
    role: Role
    step: JournalStep
    source: Name | None = None
    """The node whose agent may fill this copy: the source of the migration that prepared it."""
    domain: Domain | None = None
    """What the VM runs with; absent where nothing is here."""
    reserved: Reserved | None = None
    disks: dict[Label, JournalDisk] = dataclasses.field(default_factory=dict)
    created: tuple[str, ...] = ()
    """Names of the files in the instance directory that this journal created: written before each is."""
    parts: dict[str, int] = dataclasses.field(default_factory=dict)
    """Inode number of each of them that is being filled from another host, by its name: only that very file is filled further."""
