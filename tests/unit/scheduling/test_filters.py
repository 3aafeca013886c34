"""Each filter: what it rejects, with which reason and in which words, and what it lets pass."""

import dataclasses
from typing import Any

import pytest

from kubeferry.api import reasons
from kubeferry.api.node import Taint, TaintEffect
from kubeferry.scheduling.filters import Filter, Ready, Reject, Retry, Schedulable, SourceNode, StaleCopy, TargetNode
from kubeferry.scheduling.registry import FILTERS
from kubeferry.scheduling.snapshot import Candidate, Request, Supply

GOOD = Candidate(
    name="b",
    node_ready=True,
    lease_fresh=True,
    hypervisor_ready=True,
    unschedulable=False,
    taints=(),
    processors=2,
    cpu=Supply(total=8, held=0),
    memory=Supply(total=100, held=0),
    disk=Supply(total=1000, held=0),
    holders=(),
)
REQUEST = Request(vm_uid="vm-1", source="a", target=None, attempted=frozenset(), holders=frozenset(), cpus=1, memory=10, bytes=100)


def taint(key: str, effect: str, value: str = "") -> Taint:
    return Taint(key=key, value=value, effect=TaintEffect(effect))


def check(of: Filter, candidate: dict[str, Any], request: dict[str, Any]) -> Reject | None:
    return of.check(dataclasses.replace(GOOD, **candidate), dataclasses.replace(REQUEST, **request))


@pytest.mark.parametrize("of", FILTERS, ids=lambda of: of.name)
def test_a_good_node_passes(of: Filter) -> None:
    assert check(of, {}, {}) is None


@pytest.mark.parametrize(
    ("of", "candidate", "request_", "reason", "message"),
    [
        (Ready(), {"node_ready": False}, {}, reasons.NODE_NOT_READY, "its Node is gone or not Ready"),
        (Ready(), {"lease_fresh": False}, {}, reasons.NODE_NOT_READY, "its agent's Lease is old"),
        (Ready(), {"lease_fresh": None}, {}, reasons.NODE_NOT_READY, "its agent's Lease was not seen to change yet"),
        (Ready(), {"hypervisor_ready": False}, {}, reasons.NODE_NOT_READY, "its ComputeNode is not Ready"),
        (Schedulable(), {"unschedulable": True}, {}, reasons.NODE_NOT_SCHEDULABLE, "it is cordoned"),
        (
            Schedulable(),
            {"taints": (taint("dedicated", "NoSchedule", "gpu"),)},
            {},
            reasons.NODE_NOT_SCHEDULABLE,
            "it has the taint dedicated=gpu:NoSchedule",
        ),
        (Schedulable(), {"taints": (taint("x", "NoExecute"),)}, {}, reasons.NODE_NOT_SCHEDULABLE, "it has the taint x:NoExecute"),
        (
            Schedulable(),
            {"taints": (taint("kubeferry.io/hypervisor", "NoExecute"), taint("x", "PreferNoSchedule"), taint("y", "NoSchedule"))},
            {},
            reasons.NODE_NOT_SCHEDULABLE,
            "it has the taint y:NoSchedule",
        ),
        (TargetNode(), {}, {"target": "c"}, reasons.NOT_THE_TARGET, "c is asked for"),
        (Retry(), {}, {"attempted": frozenset("bc")}, reasons.ATTEMPTED, "it was tried, and refused"),
        (StaleCopy(), {}, {"holders": frozenset("bc")}, reasons.STALE_COPY, "it still holds a copy of the VM"),
        (SourceNode(), {}, {"source": "b"}, reasons.IS_SOURCE, "the VM is there already"),
    ],
)
def test_a_node_is_rejected_with_its_reason(
    of: Filter, candidate: dict[str, Any], request_: dict[str, Any], reason: str, message: str
) -> None:
    assert check(of, candidate, request_) == Reject(reason, message)


@pytest.mark.parametrize(
    ("of", "candidate", "request_"),
    [
        (Schedulable(), {"taints": (taint("x", "PreferNoSchedule"),)}, {}),
        (Schedulable(), {"taints": (taint("kubeferry.io/hypervisor", "NoSchedule", "true"),)}, {}),
        (Schedulable(), {"taints": (taint("kubeferry.io/hypervisor", "NoExecute"),)}, {}),
        (TargetNode(), {}, {"target": "b"}),
        (Retry(), {}, {"attempted": frozenset("ac")}),
        (StaleCopy(), {}, {"holders": frozenset("ac")}),
    ],
    ids=[
        "a taint that only asks",
        "the hypervisors' own taint",
        "the hypervisors' own taint, NoExecute",
        "the pinned target",
        "others were tried",
        "others hold copies",
    ],
)
def test_a_node_that_can_be_taken_passes(of: Filter, candidate: dict[str, Any], request_: dict[str, Any]) -> None:
    assert check(of, candidate, request_) is None
