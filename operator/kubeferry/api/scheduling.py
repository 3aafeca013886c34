"""What a scheduling pass found, as a Migration's status tells it."""

from typing import Annotated

from pydantic import Field

from kubeferry.api.model import Int, Name, Reason, model

NODES_TOLD = 10
"""Nodes that are named of one reason, and nodes that are ranked."""
REASONS_TOLD = 16
"""Reasons that are told of."""
WEIGHTS_TOLD = 16
"""Weighers that are told of, for each node."""


@model
class RejectedNodes:
    """The nodes that were rejected for one reason."""

    reason: Annotated[Reason, Field(description="Why they can't be taken, as one documented CamelCase word.")]
    count: Annotated[Int, Field(ge=1, description="How many there are.")]
    nodes: Annotated[tuple[Name, ...], Field(max_length=NODES_TOLD, description="The first of them, by name.")]


@model
class Weight:
    """What one weigher gave to a node."""

    name: Annotated[str, Field(min_length=1, max_length=63, description="The weigher.")]
    weight: Annotated[Int, Field(description="From 0 for the worst node to 1000 for the best, times the weigher's multiplier.")]


@model
class RankedNode:
    """A node that can be taken."""

    node: Annotated[Name, Field(description="Its name.")]
    score: Annotated[Int, Field(description="The sum of its weights, in thousandths.")]
    weights: Annotated[tuple[Weight, ...], Field(max_length=WEIGHTS_TOLD, description="What each weigher gave it.")] = ()


@model
class Scheduling:
    """What the last scheduling pass found."""

    evaluated: Annotated[Int, Field(ge=0, description="Nodes that were looked at.")]
    feasible: Annotated[Int, Field(ge=0, description="Nodes that can be taken.")]
    rejected: Annotated[
        tuple[RejectedNodes, ...], Field(max_length=REASONS_TOLD, description="The other nodes, by reason, the rarest reason first.")
    ] = ()
    ranking: Annotated[
        tuple[RankedNode, ...], Field(max_length=NODES_TOLD, description="The nodes that can be taken, the best first; equals by name.")
    ] = ()
