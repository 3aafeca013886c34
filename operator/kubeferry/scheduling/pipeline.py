"""One pass: the filters one after the other, the weighers over what is left, and why (Nova's FilterScheduler)."""

from collections.abc import Sequence
from dataclasses import dataclass

from kubeferry.api import reasons
from kubeferry.api.model import MESSAGE_LENGTH
from kubeferry.api.scheduling import NODES_TOLD, REASONS_TOLD, WEIGHTS_TOLD, RankedNode, RejectedNodes, Scheduling, Weight
from kubeferry.scheduling.filters import Filter, Reject
from kubeferry.scheduling.snapshot import Candidate, Request, Snapshot
from kubeferry.scheduling.weighers import Weigher

FULL_WEIGHT = 1000
"""What the best node gets of a weigher, before its multiplier; the worst gets 0."""
EXPLANATION_LENGTH = MESSAGE_LENGTH - 512
"""Characters of an explanation: it becomes part of a message."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A node that can be taken."""

    name: str
    score: int
    """The sum of its weights, in thousandths."""
    weights: tuple[tuple[str, int], ...]
    """What each weigher gave it, times its multiplier, in thousandths."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The nodes that were rejected for one reason."""

    reason: str
    nodes: tuple[str, ...]
    """By name."""
    messages: tuple[str, ...]
    """Of each node in turn."""

    def explain(self) -> str:
        """`2 NodeNotReady (worker-2, worker-3: its agent's Lease is old)`; nodes that the same is said of stand together."""
        said: dict[str, list[str]] = {}
        for node, message in list(zip(self.nodes, self.messages, strict=True))[:NODES_TOLD]:
            said.setdefault(message, []).append(node)
        told = [f"{', '.join(nodes)}: {message}" for message, nodes in said.items()]
        if len(self.nodes) > NODES_TOLD:
            told.append(f"and {len(self.nodes) - NODES_TOLD} more")
        return f"{len(self.nodes)} {self.reason} ({'; '.join(told)})"


@dataclass(frozen=True, slots=True)
class FilterFailure:
    """A filter that raised, on one node."""

    filter: str
    node: str
    error: str
    """The exception's repr."""


@dataclass(frozen=True, slots=True)
class Left:
    """How many candidates were left after a filter."""

    filter: str
    candidates: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass found."""

    feasible: tuple[Ranked, ...]
    """The best first; equals by name."""
    rejected: tuple[Rejection, ...]
    """The rarest reason first: beside fifty nodes that were not asked for, the one that was is what the reader looks for."""
    errors: tuple[FilterFailure, ...]
    left: tuple[Left, ...]
    """After each filter, in their order."""

    @property
    def evaluated(self) -> int:
        """How many nodes were looked at."""
        return len(self.feasible) + sum(len(each.nodes) for each in self.rejected)

    def explain(self) -> str:
        """The pass in one line: how many nodes are feasible, and for each reason which ones were rejected, up to ten by name."""
        total = self.evaluated
        if not total:
            return "there is no node to choose from: no agent has told of its node"
        told = ", ".join(each.explain() for each in self.rejected)
        said = f"{len(self.feasible)} of {total} nodes are feasible" + (f": {told}" if told else "")
        return said if len(said) <= EXPLANATION_LENGTH else f"{said[: EXPLANATION_LENGTH - 3]}..."

    def report(self) -> Scheduling:
        """The pass as a Migration's status tells it: the rarest reasons, and the best nodes."""
        return Scheduling(
            evaluated=self.evaluated,
            feasible=len(self.feasible),
            rejected=tuple(
                RejectedNodes(reason=each.reason, count=len(each.nodes), nodes=each.nodes[:NODES_TOLD])
                for each in self.rejected[:REASONS_TOLD]
            ),
            ranking=tuple(
                RankedNode(
                    node=each.name,
                    score=each.score,
                    weights=tuple(Weight(name=name, weight=weight) for name, weight in each.weights[:WEIGHTS_TOLD]),
                )
                for each in self.feasible[:NODES_TOLD]
            ),
        )


def run(snapshot: Snapshot, request: Request, filters: Sequence[Filter], weighers: Sequence[tuple[Weigher, int]]) -> Result:
    """Choose: which nodes can be taken, the best first, and why the others can't.

    A filter that raises rejects the node it raised on, with reason `FilterError`. A weigher that raises ends the pass.

    Args:
        snapshot: the nodes.
        request: what is asked for.
        filters: asked one after the other.
        weighers: each with its multiplier, what it counts beside the others.
    """
    candidates: Sequence[Candidate] = snapshot.candidates
    rejects: dict[str, Reject] = {}
    errors: list[FilterFailure] = []
    left: list[Left] = []
    for each in filters:
        for candidate in candidates:
            if reject := _check(each, candidate, request, errors):
                rejects[candidate.name] = reject
        candidates = [candidate for candidate in candidates if candidate.name not in rejects]
        left.append(Left(each.name, len(candidates)))
    return Result(feasible=_rank(candidates, weighers), rejected=_by_reason(rejects), errors=tuple(errors), left=tuple(left))


def _check(of: Filter, candidate: Candidate, request: Request, errors: list[FilterFailure]) -> Reject | None:
    try:
        return of.check(candidate, request)
    except Exception as error:
        errors.append(FilterFailure(of.name, candidate.name, repr(error)))
        return Reject(reasons.FILTER_ERROR, f"filter {of.name} failed, see the controller's log")


def _by_reason(rejects: dict[str, Reject]) -> tuple[Rejection, ...]:
    nodes: dict[str, list[str]] = {}
    for node in sorted(rejects):
        nodes.setdefault(rejects[node].reason, []).append(node)
    told = [Rejection(reason, tuple(named), tuple(rejects[node].message for node in named)) for reason, named in nodes.items()]
    return tuple(sorted(told, key=lambda each: (len(each.nodes), each.reason)))


def _rank(candidates: Sequence[Candidate], weighers: Sequence[tuple[Weigher, int]]) -> tuple[Ranked, ...]:
    weights: dict[str, list[tuple[str, int]]] = {candidate.name: [] for candidate in candidates}
    for each, multiplier in weighers:
        values = _normalised([each.weigh(candidate) for candidate in candidates])
        for candidate, value in zip(candidates, values, strict=True):
            weights[candidate.name].append((each.name, value * multiplier))
    ranked = [Ranked(name, sum(value for _, value in parts), tuple(parts)) for name, parts in weights.items()]
    return tuple(sorted(ranked, key=lambda each: (-each.score, each.name)))


def _normalised(weights: Sequence[int]) -> list[int]:
    """Min-max: the best gets the full weight, the worst nothing; where all are alike, nobody gets anything (as in Nova)."""
    low, high = min(weights, default=0), max(weights, default=0)
    return [(weight - low) * FULL_WEIGHT // (high - low) if high > low else 0 for weight in weights]
