"""Each filter: what it rejects, with which reason and in which words, and what it lets pass."""

import dataclasses
from typing import Any

import pytest
from pass_values import CANDIDATE, REQUEST

from kubeferry.api import reasons
from kubeferry.api.node import Taint, TaintEffect
from kubeferry.scheduling.filters import Filter, NodeSelector, Ready, Reject, Retry, Schedulable, SourceNode, StaleCopy, TargetNode
from kubeferry.scheduling.hardware import Architecture, MachineType, Network
from kubeferry.scheduling.registry import FILTERS


def taint(key: str, effect: str, value: str = "") -> Taint:
    return Taint(key=key, value=value, effect=TaintEffect(effect))


def check(of: Filter, candidate: dict[str, Any], request: dict[str, Any]) -> Reject | None:
    return of.check(dataclasses.replace(CANDIDATE, **candidate), dataclasses.replace(REQUEST, **request))


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
        (
            NodeSelector(),
            {"labels": {"disk": "hdd", "zone": "b"}},
            {"labels": frozenset({("disk", "ssd"), ("zone", "b"), ("gpu", "")})},
            reasons.NODE_SELECTOR_MISMATCH,
            "it lacks the label disk=ssd, gpu=",
        ),
        (
            NodeSelector(),
            {"labels": {"disk": "ssd"}},
            {"labels": frozenset({("disk", "ssd"), ("disk", "hdd")})},
            reasons.NODE_SELECTOR_MISMATCH,
            "it lacks the label disk=hdd",
        ),
        (TargetNode(), {}, {"target": "c"}, reasons.NOT_THE_TARGET, "c is asked for"),
        (Retry(), {}, {"attempted": frozenset("bc")}, reasons.ATTEMPTED, "it was tried, and refused"),
        (StaleCopy(), {}, {"holders": frozenset("bc")}, reasons.STALE_COPY, "it still holds a copy of the VM"),
        (SourceNode(), {}, {"source": "b"}, reasons.IS_SOURCE, "the VM is there already"),
        (
            Architecture(),
            {"architecture": "arm64"},  # the API knows but one so far
            {},
            reasons.ARCHITECTURE_MISMATCH,
            "its CPU architecture is arm64, amd64 is needed",
        ),
        (Architecture(), {"architecture": None}, {}, reasons.ARCHITECTURE_MISMATCH, "its CPU architecture is not told, amd64 is needed"),
        (
            MachineType(),
            {"machine_types": frozenset({"q35", "pc-q35-9.0"})},
            {},
            reasons.MACHINE_TYPE_UNAVAILABLE,
            "its QEMU does not offer the machine type pc-q35-7.2",
        ),
        (
            Network(),
            {},
            {"bridges": frozenset({"br0", "br8", "br7"})},
            reasons.NETWORK_UNAVAILABLE,
            "it has no bridge br7 for VMs, no bridge br8 for VMs",
        ),
        (
            Network(),
            {"bridges": frozenset({"lab"})},
            {"networks": frozenset({"default", "lab"}), "bridges": frozenset({"default"})},
            reasons.NETWORK_UNAVAILABLE,
            "it has no bridge default for VMs, no active libvirt network lab",
        ),
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
        (NodeSelector(), {"labels": {"disk": "ssd", "gpu": "", "zone": "b"}}, {"labels": frozenset({("disk", "ssd"), ("gpu", "")})}),
        (MachineType(), {}, {"machine_type": "q35"}),
        (Network(), {}, {"bridges": frozenset({"br0", "br1"}), "networks": frozenset({"default"})}),
    ],
    ids=[
        "a taint that only asks",
        "the hypervisors' own taint",
        "the hypervisors' own taint, NoExecute",
        "the pinned target",
        "others were tried",
        "others hold copies",
        "it has the labels, and others",
        "a new VM's alias",
        "it has the networks",
    ],
)
def test_a_node_that_can_be_taken_passes(of: Filter, candidate: dict[str, Any], request_: dict[str, Any]) -> None:
    assert check(of, candidate, request_) is None
