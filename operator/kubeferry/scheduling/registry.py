"""Which filters and weighers there are, written down: no directory is scanned. A profile says which of them a pass runs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kubeferry.scheduling import hardware, room, weighers
from kubeferry.scheduling.allocation import Allocations
from kubeferry.scheduling.filters import Filter, NodeSelector, Ready, Retry, Schedulable, SourceNode, StaleCopy, TargetNode
from kubeferry.scheduling.weighers import Weigher

FILTERS: tuple[Filter, ...] = (
    Ready(),
    Schedulable(),
    NodeSelector(),
    TargetNode(),
    Retry(),
    StaleCopy(),
    SourceNode(),
    hardware.Architecture(),
    hardware.MachineType(),
    hardware.Network(),
    room.Cpu(),
    room.Memory(),
    room.Disk(),
)
"""In this order: a node is told of with the reason of the first that rejects it."""
WEIGHERS: tuple[Weigher, ...] = (weighers.Ram(), weighers.Cpu(), weighers.Disk())

FILTER_NAMES = tuple(of.name for of in FILTERS)
WEIGHER_NAMES = tuple(of.name for of in WEIGHERS)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a pass runs, and how much of the nodes it gives out."""

    filters: tuple[Filter, ...]
    """In the registry's order."""
    weighers: tuple[tuple[Weigher, int], ...]
    """Each with its multiplier: what it counts beside the others. Below zero it packs: the fullest node is the best."""
    allocations: Allocations


def profile(filters: Collection[str], multipliers: Mapping[str, int], allocations: Allocations) -> Profile:
    """The profile that is made of these.

    Args:
        filters: names of the filters that are asked.
        multipliers: of weighers, by name; 1 of those that are not named.
        allocations: how much of the nodes is given out.

    Raises:
        ValueError: there is no filter or weigher of that name.
    """
    _require_known("filter", filters, FILTER_NAMES)
    _require_known("weigher", multipliers, WEIGHER_NAMES)
    return Profile(
        filters=tuple(of for of in FILTERS if of.name in filters),
        weighers=tuple((of, multipliers.get(of.name, 1)) for of in WEIGHERS),
        allocations=allocations,
    )


def _require_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no {what} {', '.join(unknown)}: there are {', '.join(known)}")
