"""Roles of a VM's copy on a host. What each may become is the table in `core.host`."""

from enum import StrEnum


class Role(StrEnum):
    """What a copy is, as the host's journal tells."""

    NONE = "NONE"
    """Nothing here, and never was."""
    ACTIVE = "ACTIVE"
    """The VM lives here; it may be started, each time through the start gate."""
    SEALING = "SEALING"
    """On the way to stopped."""
    SEALED = "SEALED"
    """Proved stopped; disks unchanged since; may go back to ACTIVE without asking anybody."""
    RELEASED = "RELEASED"
    """Source only: the target holds a verified copy; ACTIVE again only with proof that the target is sealed or fenced."""
    INCOMING = "INCOMING"
    """Being filled. The journal entry is the reservation of CPU, memory and bytes."""
    VERIFIED = "VERIFIED"
    """Target only: whole, hashed, fsynced."""
    DELETING = "DELETING"
    """On the way to the trash."""
    GONE = "GONE"
    """Discarded; kept so that lower epochs are refused for ever."""


class RunState(StrEnum):
    """Whether the hypervisor runs a VM's domain."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    UNKNOWN = "Unknown"
