"""The record of a lab: what it started and made, written down (and on disk) before it exists.

One JSON object per line, appended with one write and an fsync. A line torn by a crash stands for something that was not
started yet, so it is left out.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.steps import LabError

FILE = "record.jsonl"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be taken for another: `born` is its start in clock ticks and the boot of the machine it started in."""

    pid: int
    born: str


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that runs the lab, and the lab's slot (1 to 254), which its subnet and its links are named by."""

    process: Identity
    slot: int


@dataclass(frozen=True, slots=True)
class Started:
    """A process; it leads a process group of its own."""

    name: str
    process: Identity


@dataclass(frozen=True, slots=True)
class Netns:
    """A network namespace in /run/netns."""

    name: str


@dataclass(frozen=True, slots=True)
class Link:
    """A network link in the machine's own network namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A directory of the machine that hosts mount over; the last lab removes it."""

    path: str


Entry = Owner | Started | Netns | Link | MountPoint
_KINDS: dict[str, type[Entry]] = {kind.__name__: kind for kind in (Owner, Started, Netns, Link, MountPoint)}


def dump(entry: Entry) -> bytes:
    """An entry as one line of the record."""
    return json.dumps({"kind": type(entry).__name__} | asdict(entry)).encode() + b"\n"


def parse(content: bytes) -> Iterator[Entry]:
    """The entries of a record, oldest first, without a last line that has no end.

    Raises:
        LabError: a whole line is none of ours.
    """
    for line in content.split(b"\n")[:-1]:
        try:
            values = json.loads(line)
            kind = _KINDS[values.pop("kind")]
            if "process" in values:
                values["process"] = Identity(**values["process"])
            yield kind(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"not a line of a lab's record: {line!r}") from error


class Record:
    """The record in a lab's directory. Adding is safe from several threads."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def add(self, entry: Entry) -> None:
        """Write an entry to disk. Only then may the thing be made or started."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, dump(entry))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """All entries; none when the lab died before it wrote its first."""
        return list(parse(self.path.read_bytes())) if self.path.exists() else []

    def owner(self) -> Owner | None:
        """Who runs the lab."""
        return next((entry for entry in self.entries() if isinstance(entry, Owner)), None)
