"""Weighers: each tells in a number how good a feasible node is. Nova's counterparts are in nova/scheduler/weights."""

from typing import Protocol

from kubeferry.scheduling.snapshot import Candidate


class Weigher(Protocol):
    """Weighs one node at a time; the pipeline makes what it says comparable."""

    name: str
    """Of the row in the table of weighers."""

    def weigh(self, candidate: Candidate) -> int:
        """How good the node is, in whatever unit: more is better."""


class Ram:
    """More free memory is better, so VMs spread (Nova's RAMWeigher)."""

    name = "RAM"

    def weigh(self, candidate: Candidate) -> int:
        """Bytes of memory that no copy holds; below zero where more is held than is there."""
        return candidate.memory.free


class Cpu:
    """More free CPUs are better (Nova's CPUWeigher)."""

    name = "CPU"

    def weigh(self, candidate: Candidate) -> int:
        """Virtual CPUs that no copy holds; below zero where more are held than are there."""
        return candidate.cpu.free


class Disk:
    """More free room for disks is better (Nova's DiskWeigher)."""

    name = "Disk"

    def weigh(self, candidate: Candidate) -> int:
        """Bytes of disk that are free, and not awaited by a copy that is being filled; below zero where more are awaited."""
        return candidate.disk.free
