"""The scheduling pass of a Migration: a snapshot of what was seen, the pipeline, and the line that tells what it did."""

from collections.abc import Callable

import structlog

from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Status, condition
from kubeferry.api.node import Node
from kubeferry.api.reasons import READY
from kubeferry.controller.store import Store
from kubeferry.core.observed import Choice, Place
from kubeferry.kube.leases import LeaseWatch
from kubeferry.scheduling.pipeline import Result, run
from kubeferry.scheduling.registry import FILTERS, WEIGHERS
from kubeferry.scheduling.snapshot import Candidate, Request, Snapshot

WEIGHTS_TOLD = 10
"""Nodes, the best first, whose weights are logged."""

log = structlog.get_logger(__name__)


class Placer:
    """Chooses the node that a VM moves to, from what watching has seen and our own writes were answered."""

    def __init__(self, store: Store, leases: LeaseWatch, clock: Callable[[], float]) -> None:
        """Look at these; `clock` is that of `leases`, in seconds."""
        self._store = store
        self._leases = leases
        self._clock = clock

    def place(self, place: Place) -> Choice:
        """Run one pass, and log it. It reads memory alone, and holds nothing: the reservation of Prepare is the arbiter."""
        request = Request(
            vm_uid=place.vm_uid,
            source=place.source,
            target=place.target,
            attempted=place.attempted,
            holders=place.holders,
            memory=place.memory,
        )
        snapshot = self._snapshot()
        result = run(snapshot, request, FILTERS, WEIGHERS)
        node = result.feasible[0].name if result.feasible else None
        _tell(place, len(snapshot.candidates), result, node)
        return Choice(migration_uid=place.migration_uid, node=node, message=result.explain())

    def _snapshot(self) -> Snapshot:
        nodes = {node.metadata.name: node for node in self._store.nodes()}
        now = self._clock()
        return Snapshot(
            tuple(
                self._candidate(host, host.status, nodes.get(host.metadata.name), now)
                for host in self._store.hosts()
                if host.status is not None
            )
        )

    def _candidate(self, host: ComputeNode, told: ComputeNodeStatus, node: Node | None, now: float) -> Candidate:
        name = host.metadata.name
        ready = condition(told.conditions, READY)
        return Candidate(
            name=name,
            node_ready=node is not None and _ready(node),
            lease_fresh=self._leases.fresh(name, now),
            hypervisor_ready=ready is not None and ready.status == Status.TRUE,
            unschedulable=node is not None and node.spec.unschedulable,
            taints=node.spec.taints if node is not None else (),
            memory=told.memory or 0,
            memory_held=self._store.memory_held(name),
        )


def _ready(node: Node) -> bool:
    return any(told.type == READY and told.status == Status.TRUE for told in node.status.conditions)


def _tell(place: Place, candidates: int, result: Result, node: str | None) -> None:
    failed: dict[tuple[str, str], list[str]] = {}
    for failure in result.errors:
        failed.setdefault((failure.filter, failure.error), []).append(failure.node)
    for (name, error), nodes in failed.items():
        log.error("filter failed: the nodes are not taken", filter=name, error=error, nodes=nodes)
    log.info(
        "scheduling pass",
        migration_uid=place.migration_uid,
        candidates=candidates,
        left={each.filter: each.candidates for each in result.left},
        weights={each.name: dict(each.weights) for each in result.feasible[:WEIGHTS_TOLD]},
        node=node,
        explanation=result.explain(),
    )
