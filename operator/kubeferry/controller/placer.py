"""The scheduling pass of a Migration: a snapshot of what was seen, the pipeline, and the line that tells what it did."""

from collections.abc import Callable, Iterable

import structlog

from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Status, is_true
from kubeferry.api.node import Node
from kubeferry.api.reasons import READY
from kubeferry.api.scheduling import NODES_TOLD
from kubeferry.controller.metrics import Metrics
from kubeferry.controller.store import PlacedOn, Store
from kubeferry.core.observed import Choice, Place
from kubeferry.kube.leases import LeaseWatch
from kubeferry.scheduling.pipeline import Result, run
from kubeferry.scheduling.registry import Profile
from kubeferry.scheduling.snapshot import Candidate, Holder, Request, Snapshot

log = structlog.get_logger(__name__)


class Placer:
    """Chooses the node that a VM moves to, from what watching has seen and our own writes were answered."""

    def __init__(self, store: Store, leases: LeaseWatch, clock: Callable[[], float], profile: Profile, metrics: Metrics) -> None:
        """Look at these, as the profile says; `clock` is that of `leases`, in seconds."""
        self._metrics = metrics
        self._store = store
        self._leases = leases
        self._clock = clock
        self._profile = profile

    def place(self, place: Place) -> Choice:
        """Run one pass, and log it. It reads memory alone, and holds nothing: the reservation of Prepare is the arbiter."""
        begun = self._clock()
        result = run(self._snapshot(place.vm_uid), request_of(place), self._profile.filters, self._profile.weighers)
        self._metrics.passed(result, self._clock() - begun)
        _tell(place, result)
        node = result.feasible[0].name if result.feasible else None
        return Choice(migration_uid=place.migration_uid, node=node, message=result.explain(), report=result.report())

    def _snapshot(self, vm_uid: str) -> Snapshot:
        """The nodes as this VM finds them: what its own copies hold does not keep it from a node."""
        nodes = {node.metadata.name: node for node in self._store.nodes()}
        now = self._clock()
        return Snapshot(
            tuple(
                self._candidate(host, host.status, nodes.get(host.metadata.name), vm_uid, now)
                for host in self._store.hosts()
                if host.status is not None
            )
        )

    def _candidate(self, host: ComputeNode, told: ComputeNodeStatus, node: Node | None, vm_uid: str, now: float) -> Candidate:
        name = host.metadata.name
        others = [placed for placed in self._store.placed(name) if placed.metadata.name != vm_uid]
        filling = sum(placed.bytes for placed in others if placed.filled == name)
        processors = told.cpu.count if told.cpu is not None else None
        disk, given = told.instances, self._profile.allocations
        return Candidate(
            name=name,
            node_ready=node is not None and _ready(node),
            lease_fresh=self._leases.fresh(name, now),
            hypervisor_ready=is_true(told.conditions, READY),
            unschedulable=node is not None and node.spec.unschedulable,
            taints=node.spec.taints if node is not None else (),
            labels=node.metadata.labels if node is not None else {},
            architecture=told.architecture,
            machine_types=frozenset(offered for machine in told.machine_types for offered in (machine.name, machine.canonical) if offered),
            bridges=frozenset(told.bridges),
            networks=frozenset(told.networks),
            processors=processors,
            cpu=given.cpu.supply(processors, sum(placed.cpus for placed in others)),
            memory=given.memory.supply(told.memory, sum(placed.memory for placed in others)),
            # Counted whole, although part of it may be written by now: how much is still to come is not known.
            disk=given.disk.supply(disk.total, disk.total - disk.free + filling) if disk is not None else given.disk.supply(None, filling),
            holders=_holders(name, told, others),
        )


def request_of(place: Place) -> Request:
    """What the pass is asked, as the pipeline takes it."""
    return Request(
        vm_uid=place.vm_uid,
        source=place.source,
        target=place.target,
        attempted=place.attempted,
        holders=place.holders,
        labels=place.labels,
        architecture=place.architecture,
        machine_type=place.machine_type,
        bridges=place.bridges,
        networks=place.networks,
        cpus=place.cpus,
        memory=place.memory,
        bytes=place.bytes,
    )


def _holders(node: str, told: ComputeNodeStatus, placed: Iterable[PlacedOn]) -> tuple[Holder, ...]:
    allocated = {item.uid: item.allocated or 0 for item in told.inventory}
    return tuple(
        Holder(
            name=each.holder,
            awaiting_since=each.awaiting_since,
            cpus=each.cpus,
            memory=each.memory,
            disk=each.bytes if each.filled == node else allocated.get(each.metadata.name, 0),
        )
        for each in placed
    )


def _ready(node: Node) -> bool:
    return any(told.type == READY and told.status == Status.TRUE for told in node.status.conditions)


def _tell(place: Place, result: Result) -> None:
    failed: dict[tuple[str, str], list[str]] = {}
    for failure in result.errors:
        failed.setdefault((failure.filter, failure.error), []).append(failure.node)
    for (name, error), nodes in failed.items():
        log.error("filter failed: the nodes are not taken", filter=name, error=error, nodes=nodes)
    best = result.feasible[0] if result.feasible else None
    log.info(
        "scheduling pass",
        migration_uid=place.migration_uid,
        candidates=result.evaluated,
        left={each.filter: each.candidates for each in result.left},
        weights={each.name: dict(each.weights) for each in result.feasible[:NODES_TOLD]},
        node=best.name if best is not None else None,
        score=best.score if best is not None else None,
        explanation=result.explain(),
    )
