"""An API server: compare-and-swap writes, consistent reads, and watches that come late."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from kubeferry.api.computenode import ComputeNodeStatus
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine


@dataclass(frozen=True, slots=True)
class Node:
    """A ComputeNode, with the fence that a human may set."""

    metadata: Meta
    status: ComputeNodeStatus
    fence: str | None = None


T = TypeVar("T", Placement, HostTask, Migration, VirtualMachine, Node)
KINDS: tuple[type, ...] = (Placement, HostTask, Migration, VirtualMachine, Node)


class RefusedError(Exception):
    """Conflict, NotFound or AlreadyExists: the write was not done."""


class Api:
    """Objects by kind and name; VMs by uid."""

    def __init__(self) -> None:
        self.objects: dict[type, dict[str, Any]] = {kind: {} for kind in KINDS}
        self.log: list[tuple[type, str, Any]] = []
        self.version = 0
        self.tasks_ever: list[HostTask] = []
        self.leases: dict[str, int] = {}
        self.era = 0
        """How often it was restored from a backup."""

    def get(self, kind: type[T], name: str) -> T | None:
        """A consistent read."""
        return self.objects[kind].get(name)

    def put(self, value: T) -> T:
        """Write whatever is there."""
        self.version += 1
        meta = dataclasses.replace(value.metadata, resource_version=str(self.version))
        stored = dataclasses.replace(value, metadata=meta)
        self.objects[type(value)][meta.name] = stored
        self.log.append((type(value), meta.name, stored))
        return stored

    def create(self, value: T) -> T:
        """Raises RefusedError if there is one of that name."""
        if value.metadata.name in self.objects[type(value)]:
            raise RefusedError("AlreadyExists")
        stored = self.put(value)
        if isinstance(stored, HostTask):
            self.tasks_ever.append(stored)
        return stored

    def swap(self, value: T, version: str) -> T:
        """Replace by compare-and-swap; an empty version replaces whatever is there, as in Kubernetes."""
        there = self.objects[type(value)].get(value.metadata.name)
        if there is None or there.metadata.uid != value.metadata.uid:
            raise RefusedError("NotFound")
        if version not in ("", there.metadata.resource_version):
            raise RefusedError("Conflict")
        return self.put(value)

    def drop(self, kind: type, name: str) -> None:
        """It is gone."""
        if self.objects[kind].pop(name, None) is not None:
            self.version += 1
            self.log.append((kind, name, None))

    def finalize(self, value: T, finalizers: tuple[str, ...]) -> None:
        """Set the finalizers by compare-and-swap; what is being deleted goes with its last one."""
        stored = self.swap(
            dataclasses.replace(value, metadata=dataclasses.replace(value.metadata, finalizers=finalizers)), value.metadata.resource_version
        )
        if stored.metadata.deletion_timestamp is not None and not finalizers:
            self.drop(type(value), value.metadata.name)

    def backup(self) -> dict[type, dict[str, Any]]:
        """What a backup holds."""
        return {kind: dict(held) for kind, held in self.objects.items()}

    def restore(self, backup: dict[type, dict[str, Any]]) -> None:
        """Everything is as it was then; every watch begins anew."""
        self.objects = {kind: dict(held) for kind, held in backup.items()}
        self.log.clear()
        self.era += 1
        self.version = max(int(value.metadata.resource_version) for held in self.objects.values() for value in held.values())


class View:
    """What one watcher has seen: late, sometimes with a gap, never an older version over a newer one."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.relist()

    def relist(self) -> None:
        """All as it is now."""
        self.held: dict[type, dict[str, Any]] = {kind: dict(held) for kind, held in self.api.objects.items()}
        self.position, self.era = len(self.api.log), self.api.era

    def advance(self, events: int) -> None:
        """The next events arrive."""
        if self.era != self.api.era:
            self.relist()
            return
        for kind, name, value in self.api.log[self.position : self.position + events]:
            if value is None:
                self.held[kind].pop(name, None)
            else:
                self.remember(value)
        self.position = min(self.position + events, len(self.api.log))

    def lose(self) -> None:
        """The next event is lost."""
        self.position = min(self.position + 1, len(self.api.log))

    def remember(self, value: Any) -> None:
        """The answer to an own write, or an event."""
        held = self.held[type(value)].get(value.metadata.name)
        if held is None or int(held.metadata.resource_version) < int(value.metadata.resource_version):
            self.held[type(value)][value.metadata.name] = value

    def all(self, kind: type[T]) -> list[T]:
        """By name."""
        return [self.held[kind][name] for name in sorted(self.held[kind])]
