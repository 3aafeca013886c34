"""Stopping labs by their records: also those whose starter was killed, at whatever point."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from lab import mountpoint, network, paths
from lab.locks import machine_lock
from lab.processes import children, kill_group, runs, send, wait_gone
from lab.record import FILE, Identity, Link, MountPoint, Netns, Record, Started
from lab.steps import LabError


def remove(directory: Path) -> list[str]:
    """End all that a lab's record names, remove the lab's directory, and say what was there.

    Raises:
        LabError: it is not a lab's directory; a process does not end, or `ip` failed. What is left stays on record, so this can be
            tried again.
    """
    with machine_lock():
        return remove_locked(directory)


def remove_locked(directory: Path) -> list[str]:
    """As `remove`, by someone who holds the machine's lock."""
    return list(_remove(directory)) if directory.exists() else []


def clean(name: str | None) -> list[str]:
    """Remove one lab, or every lab whose owner no longer runs; says what was removed and what was left alone.

    Raises:
        LabError: there is no lab of that name, or it could not be removed.
    """
    if name is not None:
        directory = paths.labs() / name
        if not paths.LAB_NAME.fullmatch(name) or not directory.is_dir():
            there = ", ".join(sorted(lab.name for lab in existing())) or "none"
            raise LabError(
                f"{name!r} is not the name of a lab; the labs in {paths.labs()}: {there}. "
                "Name one of them, or leave the name out to remove all that nobody uses"
            )
        return [f"{name}: {what}" for what in remove(directory)]
    said = []
    for directory in sorted(existing()):
        # Under the lock a lab that is just being made has its owner on record.
        with machine_lock():
            owner = Record(directory).owner()
            if owner and runs(owner.process):
                said.append(f"{directory.name}: left alone, pid {owner.process.pid} is using it (name it to remove it all the same)")
            else:
                said += [f"{directory.name}: {what}" for what in remove_locked(directory)]
    return said


def existing() -> list[Path]:
    """The directories of all labs of this cache."""
    entries = paths.labs().iterdir() if paths.labs().exists() else ()
    return [entry for entry in entries if paths.LAB_NAME.fullmatch(entry.name) and entry.is_dir()]


def _remove(directory: Path) -> Iterator[str]:
    # Everything in it goes, so nobody's slip may bring another directory here. Resolved: the parent of labs/.. is labs/, and it is not.
    if directory.resolve() != paths.labs().resolve() / directory.name or not paths.LAB_NAME.fullmatch(directory.name):
        raise LabError(f"{directory} is left alone: only {paths.labs()}/lab-N is a lab's directory. Remove it by hand, if nothing needs it")
    entries = Record(directory).entries()
    yield from _end([entry for entry in entries if isinstance(entry, Started)])
    for entry in reversed(entries):
        if isinstance(entry, Link) and network.remove_link(entry.name):
            yield f"link {entry.name}"
        if isinstance(entry, Netns) and network.remove_netns(entry.name):
            yield f"network namespace {entry.name}"
    if any(isinstance(entry, MountPoint) for entry in entries) and (said := mountpoint.remove()):
        yield said
    # The record last: whoever is killed here can be followed by another.
    for item in directory.iterdir():
        if item.name != FILE:
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
    shutil.rmtree(directory)
    yield f"directory {directory}"


def _end(started: list[Started]) -> Iterator[str]:
    alive = [entry for entry in started if runs(entry.process)]
    # A host's init is the child of the recorded unshare; its end is the end of all that ran on the host.
    victims: list[Identity] = [victim for entry in alive for victim in (entry.process, *children(entry.process))]
    for entry in alive:
        kill_group(entry.process)
    for victim in victims:
        send(victim, signal.SIGKILL)
    wait_gone("the lab's processes", victims)
    for entry in alive:
        yield f"process {entry.process.pid} ({entry.name})"
