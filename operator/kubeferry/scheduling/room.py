"""The filters that look for room. A copy holds what it needs on its node until its discard is acknowledged."""

from collections.abc import Callable, Iterable

from kubeferry.api import reasons
from kubeferry.scheduling.filters import Reject
from kubeferry.scheduling.snapshot import Candidate, Holder, Request, Supply

HOLDERS_TOLD = 3
"""Who holds most of what is lacking: so many are named."""

_UNITS = tuple((1024**power, f"{prefix}i") for power, prefix in reversed(list(enumerate("KMGTP", start=1))))


class Cpu:
    """There are CPUs for the VM (Nova's placement, VCPU and its max_unit)."""

    name = "CPU"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node with fewer processors, or fewer free CPUs, than the VM has, or whose agent does not tell of any."""
        if candidate.processors is not None and request.cpus > candidate.processors:  # its host refuses that, too
            message = f"it has {candidate.processors} processors, no VM gets more CPUs there, {request.cpus} asked"
            return Reject(reasons.INSUFFICIENT_CPU, message)
        if _fits(candidate.cpu, request.cpus):
            return None
        held = ((holder.cpus, holder) for holder in candidate.holders)
        return Reject(reasons.INSUFFICIENT_CPU, _lack("CPUs", candidate.cpu, str(request.cpus), held, str))


class Memory:
    """There is memory for the VM (Nova's placement, MEMORY_MB)."""

    name = "Memory"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node with less free memory than the VM has, or whose agent does not tell of any."""
        if _fits(candidate.memory, request.memory):
            return None
        held = ((holder.memory, holder) for holder in candidate.holders)
        return Reject(reasons.INSUFFICIENT_MEMORY, _lack("memory", candidate.memory, readable(request.memory, up=True), held, readable))


class Disk:
    """There is room for the VM's files (Nova's placement, DISK_GB)."""

    name = "Disk"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node whose file system has, or will have, less free than the files take, or whose agent does not tell."""
        if _fits(candidate.disk, request.bytes):
            return None
        held = ((holder.disk, holder) for holder in candidate.holders)
        return Reject(reasons.INSUFFICIENT_DISK, _lack("disk", candidate.disk, readable(request.bytes, up=True), held, readable))


def readable(amount: int, *, up: bool = False) -> str:
    """Bytes in the largest binary unit, to a tenth: `12Gi`, `1.5Gi`.

    Args:
        amount: bytes.
        up: round up. What is asked never reads like what is free if it is more.
    """
    size, unit = next((each for each in _UNITS if amount >= each[0]), (1, ""))
    tenths = -(-amount * 10 // size) if up else amount * 10 // size
    return f"{tenths // 10}{unit}" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}{unit}"


def _fits(supply: Supply, asked: int) -> bool:
    return supply.total is not None and asked <= supply.free


def _lack(what: str, supply: Supply, asked: str, held: Iterable[tuple[int, Holder]], written: Callable[[int], str]) -> str:
    """`2Gi of 64Gi memory free, 16Gi asked: 12Gi held by shop/web-0-move, awaiting its decision since 2026-01-01`."""
    if supply.total is None:
        return f"its agent does not tell of its {what}, {asked} asked"
    told = f"{written(max(0, supply.free))} of {written(supply.total)} {what} free, {asked} asked"
    most = sorted((each for each in held if each[0] > 0), key=lambda each: (-each[0], each[1].name))[:HOLDERS_TOLD]
    said = ", ".join(f"{written(amount)} held by {_named(holder)}" for amount, holder in most)
    return f"{told}: {said}" if said else told


def _named(holder: Holder) -> str:
    since = holder.awaiting_since
    return holder.name if since is None else f"{holder.name}, awaiting its decision since {since.date().isoformat()}"
