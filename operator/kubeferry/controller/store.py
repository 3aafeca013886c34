"""What watching has seen and what our own writes were answered: models of what `core` needs, and which VM each belongs to."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration
from kubeferry.api.model import load
from kubeferry.api.node import Node
from kubeferry.api.placement import Direction, LockKind, Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.index import Index
from kubeferry.core.domain import source_nodes
from kubeferry.kube.client import Stored
from kubeferry.kube.server import Body

Keys = frozenset[str]
"""Keys of the work queue: a VM's uid, or NAMESPACE/NAME of one that Migrations name and nobody has seen."""
Place = tuple[str, str]
"""Namespace and name."""

KINDS: tuple[type[Stored], ...] = (VirtualMachine, Placement, HostTask, ComputeNode, Migration, Node)
"""What is watched."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlacedOn:
    """All that is kept of a Placement: `gather` reads the whole one itself, consistently."""

    metadata: Meta
    nodes: frozenset[str]
    """The node that may start the VM, and every node that may hold a copy."""
    cpus: int
    """Virtual CPUs that each copy holds: what the VM runs with or what it is to run with, whichever is more; so is memory."""
    memory: int
    """Bytes that each copy holds."""
    vm: str
    """NAMESPACE/NAME of the VM."""
    holder: str
    """NAMESPACE/NAME of the Migration that has the VM's lock, else of the VM."""
    awaiting_since: datetime | None
    """Since when that Migration awaits its decision."""
    filled: str | None
    """The node whose copy may still be being filled."""
    bytes: int
    """Bytes that the files of that copy are to occupy."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that its model refuses."""

    uid: str
    message: str


class Store:
    """The newest version seen of every object of `KINDS`.

    Watch events come later than the answers to our own writes: an older version never takes the place of a newer one
    (resourceVersions of one kind can be compared as numbers: KEP-5504).
    """

    def __init__(self) -> None:
        self._objects: dict[type[Stored], dict[Place, Stored]] = {kind: {} for kind in KINDS}
        self._vms: dict[str, VirtualMachine] = {}
        self._hosts: dict[str, ComputeNode] = {}
        self._tasks = Index()  # task -> its VM
        self._sources = Index()  # VM -> the nodes where its hostPath sources lie
        self._placed = Index()  # VM -> the nodes that its Placement names
        self._addresses = Index()  # VM -> the MAC addresses that its Placement has
        self._migrations = Index()  # Migration -> its VM, both as NAMESPACE/NAME
        self.unreadable: dict[tuple[type[Stored], Place], Unreadable] = {}
        """Objects that nothing is done with until they change: their bodies break the model."""

    def vm(self, uid: str) -> VirtualMachine | None:
        """The VM of that uid."""
        return self._vms.get(uid)

    def vm_named(self, namespace: str, name: str) -> VirtualMachine | None:
        """The VM of that name."""
        found = self._objects[VirtualMachine].get((namespace, name))
        return found if isinstance(found, VirtualMachine) else None

    def migrations(self, namespace: str, vm_name: str) -> tuple[Migration, ...]:
        """The Migrations that name a VM, the oldest first; equals by name."""
        named = (key.partition("/")[2] for key in self._migrations.naming(f"{namespace}/{vm_name}"))
        found = (self._objects[Migration][namespace, name] for name in named)
        return tuple(sorted((each for each in found if isinstance(each, Migration)), key=_age))

    def all_migrations(self) -> Iterator[Migration]:
        """Every Migration."""
        return (each for each in self._objects[Migration].values() if isinstance(each, Migration))

    def all_vms(self) -> Iterable[VirtualMachine]:
        """Every VM."""
        return self._vms.values()

    def tasks(self, vm_uid: str) -> tuple[HostTask, ...]:
        """The HostTasks of a VM, by name."""
        found = (self._objects[HostTask][("", name)] for name in sorted(self._tasks.naming(vm_uid)))
        return tuple(task for task in found if isinstance(task, HostTask))

    def hosts(self) -> tuple[ComputeNode, ...]:
        """Every ComputeNode, by name."""
        return tuple(self._hosts[name] for name in sorted(self._hosts))

    def nodes(self) -> tuple[Node, ...]:
        """Every Node, by name."""
        found = self._objects[Node]
        return tuple(node for place in sorted(found) if isinstance(node := found[place], Node))

    def placed(self, node: str) -> tuple[PlacedOn, ...]:
        """The Placements that name a node: that of a VM on the move names both until its discard is acknowledged."""
        placements = (self._objects[Placement]["", uid] for uid in self._placed.naming(node))
        return tuple(each for each in placements if isinstance(each, PlacedOn))

    def mac_user(self, mac: str, but: str) -> str | None:
        """NAMESPACE/NAME of a VM whose Placement has that MAC address, the VM of uid `but` left out."""
        others = sorted(self._addresses.naming(mac) - {but})
        found = self._objects[Placement].get(("", others[0])) if others else None
        return found.vm if isinstance(found, PlacedOn) else None

    def known(self, kind: type[Stored]) -> Mapping[Place, str]:
        """The uid of every object of that kind that is held, the unreadable ones too."""
        refused = {place: found.uid for (of, place), found in self.unreadable.items() if of is kind}
        return refused | {place: held.metadata.uid for place, held in self._objects[kind].items()}

    def newest(self, kind: type[Stored]) -> int:
        """The highest version that is held of that kind; 0: none is."""
        return max((int(held.metadata.resource_version) for held in self._objects[kind].values()), default=0)

    def concerned(self, node: str) -> Keys:
        """The VMs that are on a node, may have a copy there, or wait for it."""
        host = self._hosts.get(node)
        told = host.status.inventory if host is not None and host.status is not None else ()
        inventory = frozenset(item.uid for item in told if item.uid in self._vms)
        return self._sources.naming(node) | self._placed.naming(node) | inventory

    def put(self, kind: type[Stored], body: Body, *, listed: int = 0) -> Keys:
        """Take in what the API server sent; the VMs to look at, none if it is no news.

        What the model refuses is logged, kept in `unreadable`, and the version held of it is dropped: nothing is to be
        done by what is no longer asked.

        Args:
            kind: its kind.
            body: the whole object.
            listed: the version of the list that shows it: of what is held, only what is newer than the list stays.
        """
        place = _place(body)
        try:
            value = load(kind, body)
        except ValidationError as error:
            return self._refuse(kind, place, Unreadable(uid=body["metadata"].get("uid", ""), message=str(error)))
        self.unreadable.pop((kind, place), None)
        return self.remember(value, listed=listed)

    def remember(self, value: Stored, *, listed: int = 0) -> Keys:
        """Take in the answer to a write of our own, or a parsed body; arguments and result as of `put`."""
        kind, place = type(value), (value.metadata.namespace, value.metadata.name)
        old, kept = self._objects[kind].get(place), _kept(value) if isinstance(value, Placement) else value
        if old is not None:
            was, now = int(old.metadata.resource_version), int(value.metadata.resource_version)
            # A restored etcd gives the same versions once more, to other contents.
            if old == kept or now < was > listed:
                return frozenset()
        keys = self._take(kind, place) | self._keys(value)
        self._objects[kind][place] = kept
        self._enter(value)
        return keys

    def remove(self, kind: type[Stored], body: Body) -> Keys:
        """Take in that the API server told of a deletion; the VMs to look at."""
        return self.drop(kind, _place(body), body["metadata"]["uid"])

    def drop(self, kind: type[Stored], place: Place, uid: str) -> Keys:
        """Hold no longer the object of that uid, if it is still that one; the VMs to look at."""
        refused = self.unreadable.get((kind, place))
        if refused is not None and refused.uid == uid:
            del self.unreadable[kind, place]
        held = self._objects[kind].get(place)
        if held is None or held.metadata.uid != uid:
            return frozenset()
        # Its Migrations are looked at by its name, now that it has no uid any more.
        left = {"/".join(place)} if kind is VirtualMachine and self.migrations(*place) else frozenset()
        return self._take(kind, place) | left

    def _refuse(self, kind: type[Stored], place: Place, found: Unreadable) -> Keys:
        self.unreadable[kind, place] = found
        log.error(
            "object can't be read: nothing is done with it until it changes",
            kind=kind.__name__,
            object="/".join(filter(None, place)),
            uid=found.uid,
            error=found.message,
        )
        return self._take(kind, place)

    def _take(self, kind: type[Stored], place: Place) -> Keys:
        """Take an object out, and out of every index."""
        held = self._objects[kind].pop(place, None)
        if held is None:
            return frozenset()
        keys = self._keys(held)
        match held:
            case VirtualMachine():
                del self._vms[held.metadata.uid]
                self._sources.remove(held.metadata.uid)
            case PlacedOn():
                self._placed.remove(held.metadata.name)
                self._addresses.remove(held.metadata.name)
            case HostTask():
                self._tasks.remove(held.metadata.name)
            case ComputeNode():
                del self._hosts[held.metadata.name]
            case Migration():
                self._migrations.remove("/".join(place))
        return keys

    def _enter(self, value: Stored) -> None:
        """Put an object into every index."""
        match value:
            case VirtualMachine():
                self._vms[value.metadata.uid] = value
                self._sources.put(value.metadata.uid, source_nodes(value))
            case Placement():
                self._placed.put(value.metadata.name, _nodes(value))
                self._addresses.put(value.metadata.name, (interface.mac for interface in value.spec.domain.interfaces))
            case HostTask():
                self._tasks.put(value.metadata.name, (value.spec.placement.name,))
            case ComputeNode():
                self._hosts[value.metadata.name] = value
            case Migration():
                self._migrations.put(f"{value.metadata.namespace}/{value.metadata.name}", (_moved(value),))

    def _keys(self, value: Stored) -> Keys:
        match value:
            case VirtualMachine():
                return frozenset({value.metadata.uid})
            case HostTask():
                return frozenset({value.spec.placement.name})
            case ComputeNode():
                told = value.status.inventory if value.status is not None else ()
                return self.concerned(value.metadata.name) | {item.uid for item in told if item.uid in self._vms}
            case Migration():
                vm = self.vm_named(value.metadata.namespace, value.spec.virtual_machine.name)
                return frozenset({vm.metadata.uid if vm is not None else _moved(value)})
            case Node():  # what it tells is looked at when a pass is run
                return frozenset()
            case _:  # a Placement bears the uid of its VM as its name
                return frozenset({value.metadata.name})


def _place(body: Body) -> Place:
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _moved(migration: Migration) -> str:
    """The VM that a Migration names, as NAMESPACE/NAME."""
    return f"{migration.metadata.namespace}/{migration.spec.virtual_machine.name}"


def _age(migration: Migration) -> tuple[datetime, str]:
    return migration.metadata.creation_timestamp or datetime.max.replace(tzinfo=UTC), migration.metadata.name


def _kept(placement: Placement) -> PlacedOn:
    spec, lock = placement.spec, placement.spec.lock
    domains = [spec.domain] if spec.move is None else [spec.domain, spec.move.domain]
    vm = f"{spec.virtual_machine.namespace}/{spec.virtual_machine.name}"
    move, holder = None, vm
    if lock is not None and lock.kind == LockKind.MIGRATION:
        move, holder = spec.move, f"{lock.namespace}/{lock.name}"
    if move is not None and move.direction != Direction.FORWARD:  # it fills nothing, and waits for nobody
        move = None
    filling = move if move is not None and move.awaiting_since is None else None
    return PlacedOn(
        metadata=placement.metadata,
        nodes=_nodes(placement),
        cpus=max(domain.cpu_cores for domain in domains),
        memory=max(domain.memory for domain in domains),
        vm=vm,
        holder=holder,
        awaiting_since=move.awaiting_since if move is not None else None,
        filled=filling.target if filling is not None else None,
        bytes=filling.bytes if filling is not None else 0,
    )


def _nodes(placement: Placement) -> frozenset[str]:
    spec = placement.spec
    return frozenset({spec.node_name, *(copy.node for copy in spec.copies)}) - {""}
