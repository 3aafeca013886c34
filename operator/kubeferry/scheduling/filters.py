"""Filters: each has one duty, and says why it rejects a node. Nova's counterparts are in nova/scheduler/filters."""

from dataclasses import dataclass
from typing import Protocol

from kubeferry.api import reasons
from kubeferry.api.names import GROUP
from kubeferry.api.node import Taint, TaintEffect
from kubeferry.scheduling.snapshot import Candidate, Request

HYPERVISOR_TAINT = f"{GROUP}/hypervisor"
"""The taint that keeps pods off hypervisors: every VM tolerates it."""

_REPELS = (TaintEffect.NO_SCHEDULE, TaintEffect.NO_EXECUTE)


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a node can't be taken."""

    reason: str
    """One of `api.reasons`."""
    message: str
    """What was seen, as a clause that follows the node's name."""


class Filter(Protocol):
    """Decides on one node at a time."""

    name: str
    """Of the row in the table of filters."""

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Why that node can't be taken; None: as far as this filter goes, it can."""


class Ready:
    """The node and its agent are alive, and its hypervisor works (Nova's ComputeFilter)."""

    name = "Ready"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node that is not Ready, or whose agent is not known to live, or says that it can't work."""
        if not candidate.node_ready:
            return Reject(reasons.NODE_NOT_READY, "its Node is gone or not Ready")
        if candidate.lease_fresh is None:
            return Reject(reasons.NODE_NOT_READY, "its agent's Lease was not seen to change yet")
        if not candidate.lease_fresh:
            return Reject(reasons.NODE_NOT_READY, "its agent's Lease is old")
        if not candidate.hypervisor_ready:
            return Reject(reasons.NODE_NOT_READY, "its ComputeNode is not Ready")
        return None


class Schedulable:
    """Administrators let VMs come (Nova's ComputeFilter for disabled services, AggregateMultiTenancyIsolation)."""

    name = "Schedulable"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node that is cordoned, or has a taint of effect NoSchedule or NoExecute."""
        if candidate.unschedulable:
            return Reject(reasons.NODE_NOT_SCHEDULABLE, "it is cordoned")
        for taint in candidate.taints:
            if taint.effect in _REPELS and taint.key != HYPERVISOR_TAINT:
                return Reject(reasons.NODE_NOT_SCHEDULABLE, f"it has the taint {_written(taint)}")
        return None


class NodeSelector:
    """The VM goes only where its owner lets it (Nova's AggregateInstanceExtraSpecsFilter)."""

    name = "NodeSelector"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node that lacks a label that the VM or its Migration asks for."""
        lacking = sorted(f"{key}={value}" for key, value in request.labels if candidate.labels.get(key) != value)
        if not lacking:
            return None
        return Reject(reasons.NODE_SELECTOR_MISMATCH, f"it lacks the label {', '.join(lacking)}")


class TargetNode:
    """A pinned target is obeyed (Nova's requested_destination)."""

    name = "TargetNode"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject every node but the one that the request names, if it names one."""
        if request.target in (None, candidate.name):
            return None
        return Reject(reasons.NOT_THE_TARGET, f"{request.target} is asked for")


class Retry:
    """No node is tried twice (Nova's RetryFilter)."""

    name = "Retry"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node that has refused already."""
        if candidate.name not in request.attempted:
            return None
        return Reject(reasons.ATTEMPTED, "it was tried, and refused")


class StaleCopy:
    """No copy is put where an old one lies (Nova has none: it finds out on the host)."""

    name = "StaleCopy"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject a node that holds a copy of the VM, to be discarded or not named by anybody."""
        if candidate.name not in request.holders:
            return None
        return Reject(reasons.STALE_COPY, "it still holds a copy of the VM")


class SourceNode:
    """A move leads elsewhere (Nova's ignore_hosts, with allow_resize_to_same_host off)."""

    name = "SourceNode"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        """Reject the node where the VM is."""
        if candidate.name != request.source:
            return None
        return Reject(reasons.IS_SOURCE, "the VM is there already")


def _written(taint: Taint) -> str:
    """The taint as `kubectl taint` takes it."""
    return f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
