"""The ground a lab stands on: a name and a slot that are its alone, its directory, its record and its bridge."""

from dataclasses import dataclass
from pathlib import Path

from lab import network, paths, removal
from lab.locks import machine_lock
from lab.network import Network
from lab.processes import Processes, myself
from lab.record import Owner, Record
from lab.steps import LabError


@dataclass(frozen=True, slots=True)
class Site:
    """What every part of one lab shares.

    Attributes:
        name: `lab-N`.
        directory: of this lab alone.
    """

    name: str
    directory: Path
    network: Network
    record: Record
    processes: Processes

    def log(self, name: str) -> Path:
        """The log of a part of the lab."""
        return self.directory / "logs" / f"{name}.log"


def take() -> Site:
    """Take the first free slot of this machine.

    Raises:
        LabError: none is free, or its bridge could not be made.
    """
    with machine_lock():
        slot = next((slot for slot in network.SLOTS if network.is_free(slot) and not _directory(slot).exists()), None)
        if slot is None:
            raise LabError("all slots for labs are taken: `python -m lab clean` removes the labs that nobody uses")
        directory = _directory(slot)
        directory.mkdir(parents=True)
        record = Record(directory)
        record.add(Owner(myself(), slot))
        for part in ("logs", "hosts", "config"):
            (directory / part).mkdir()
        site = Site(directory.name, directory, Network(directory.name, slot), record, Processes(record))
        try:
            network.create_bridge(site.network, record, site.processes)
        except BaseException:
            removal.remove_locked(directory)
            raise
    return site


def _directory(slot: int) -> Path:
    return paths.labs() / paths.lab_name(slot)
