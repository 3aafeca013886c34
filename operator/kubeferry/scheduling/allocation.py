"""How much of what a node has is given to VMs: allocation ratios and reserves (Nova's `*_allocation_ratio`, `reserved_host_*`)."""

from dataclasses import dataclass

from kubeferry.scheduling.snapshot import Supply

WHOLE = 1000
"""The ratio, in thousandths, by which exactly what is there is given out."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What is given of one resource."""

    ratio: int
    """Thousandths: 4000 gives every CPU four times."""
    reserved: int
    """What the host keeps for itself, in the resource's unit."""

    def supply(self, total: int | None, held: int) -> Supply:
        """What VMs may take: `(total - reserved) * ratio`, as in Nova's placement, rounded down, and never below zero.

        Args:
            total: what the node's agent tells, in the resource's unit; None: it does not tell.
            held: what is taken of it.
        """
        return Supply(None if total is None else max(0, (total - self.reserved) * self.ratio // WHOLE), held)


@dataclass(frozen=True, slots=True)
class Allocations:
    """What is given of each resource."""

    cpu: Allocation
    """Unit: virtual CPUs."""
    memory: Allocation
    """Unit: bytes."""
    disk: Allocation
    """Unit: bytes."""
