"""Weighers: each tells in a number how good a feasible node is. Nova's counterparts are in nova/scheduler/weights."""

from typing import Protocol

from kubeferry.scheduling.snapshot import Candidate


class Weigher(Protocol):
    """Weighs one node at a time; the pipeline makes what it says comparable."""

    name: str
    """Of the row in the table of weighers."""
    multiplier: int
    """What its weight counts beside those of the others."""

    def weigh(self, candidate: Candidate) -> int:
        """How good the node is, in whatever unit: more is better."""


class Ram:
    """More free memory is better, so VMs spread (Nova's RAMWeigher, its ram_weight_multiplier)."""

    name = "RAM"
    multiplier = 1

    def weigh(self, candidate: Candidate) -> int:
        """Bytes of memory that no copy holds; below zero where more is held than is there."""
        return candidate.memory - candidate.memory_held
