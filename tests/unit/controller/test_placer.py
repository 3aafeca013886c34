"""The scheduling pass over what was seen: which facts of a node count, what is answered, and what is logged."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from samples import node_body, node_status
from structlog.typing import EventDict

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.model import load
from kubeferry.api.node import Node
from kubeferry.api.placement import Placement
from kubeferry.controller import placer as module
from kubeferry.controller.placer import Placer
from kubeferry.controller.store import Store
from kubeferry.core.observed import Choice, Place
from kubeferry.kube.leases import LeaseWatch
from kubeferry.scheduling.filters import Reject
from kubeferry.scheduling.snapshot import Candidate, Request

GIB = 1 << 30
PLACE = Place(migration_uid="move-1", vm_uid="vm-1", source="a", target=None, attempted=frozenset(), holders=frozenset(), memory=GIB)


class Bench:
    """Nodes as watching tells of them, a clock, and a Placer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.leases = LeaseWatch()
        self.now = 0.0
        self.versions = 0
        self.placer = Placer(store, self.leases, lambda: self.now)

    def stored(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        self.versions += 1
        return body | {"metadata": {"name": name, "uid": f"uid-of-{name}", "resourceVersion": str(self.versions)}}

    def node(self, name: str, **spec: Any) -> None:
        self.store.put(Node, self.stored(node_body(name, **spec), name))

    def host(self, name: str, **status: Any) -> None:
        self.store.put(ComputeNode, self.stored({"status": node_status(**status)}, name))

    def alive(self, *names: str) -> None:
        self.leases.saw(dict.fromkeys(names, "then"), self.now)
        self.leases.saw(dict.fromkeys(names, "now"), self.now)

    def vm(self, uid: str, *nodes: str, memory: int) -> None:
        disk = {"name": "root", "format": "raw", "capacity": 1, "source": {"hostPath": {"path": "/r"}}}
        domain = {"uuid": uid, "name": "x", "architecture": "amd64", "machineType": "pc", "cpuCores": 1, "memory": memory}
        spec = {
            "virtualMachine": {"apiGroup": "g", "kind": "k", "namespace": "shop", "name": uid, "uid": uid},
            "epoch": 1,
            "lineage": ["e1"],
            "nodeName": nodes[0],
            "hostId": "h",
            "running": True,
            "domain": domain | {"kernelBoot": {"kernelPath": "/k"}, "disks": [disk]},
            "seq": 0,
            "copies": [{"node": node, "hostId": f"h-{node}", "epochId": "e1"} for node in nodes],
        }
        self.store.put(Placement, self.stored({"spec": spec}, uid))

    def place(self, **changes: Any) -> Choice:
        return self.placer.place(dataclasses.replace(PLACE, **changes))


@pytest.fixture
def bench(store: Store) -> Bench:
    """Three healthy nodes of 8 GiB; the VM is on a."""
    bench = Bench(store)
    for name in "abc":
        bench.node(name)
        bench.host(name)
    bench.alive("a", "b", "c")
    bench.vm("vm-1", "a", memory=GIB)
    return bench


def test_the_node_with_the_most_memory_that_no_copy_holds_is_chosen(bench: Bench) -> None:
    bench.vm("vm-2", "b", memory=GIB)
    assert bench.place() == Choice("move-1", "c", "2 of 3 nodes are feasible: 1 IsSource (a: the VM is there already)")
    bench.vm("vm-3", "a", "c", memory=2 * GIB)
    assert bench.place().node == "b", "a copy holds memory on every node where it lies"


def test_memory_is_what_the_agent_tells_and_none_if_it_tells_of_none(bench: Bench) -> None:
    bench.host("b", memory=9 * GIB)
    assert bench.place().node == "b"
    bench.host("b", memory=None)
    assert bench.place().node == "c"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"target": "a"}, "1 IsSource (a: the VM is there already), 2 NotTheTarget (b, c: a is asked for)"),
        ({"target": "b", "attempted": frozenset("b")}, "1 Attempted (b: it was tried, and refused), 2 NotTheTarget (a, c: b is asked for)"),
        ({"holders": frozenset("bc")}, "1 IsSource (a: the VM is there already), 2 StaleCopy (b, c: it still holds a copy of the VM)"),
    ],
)
def test_what_the_migration_asks_for_and_knows_reaches_the_filters(bench: Bench, asked: dict[str, Any], says: str) -> None:
    assert bench.place(**asked) == Choice("move-1", None, f"0 of 3 nodes are feasible: {says}")


def test_a_pinned_target_is_chosen(bench: Bench) -> None:
    assert [bench.place(target=name).node for name in "bc"] == ["b", "c"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda bench: bench.node("c", ready="False"), "its Node is gone or not Ready"),
        (lambda bench: bench.node("c", ready="Unknown"), "its Node is gone or not Ready"),
        (lambda bench: bench.store.drop(Node, ("", "c"), "uid-of-c"), "its Node is gone or not Ready"),
        (lambda bench: bench.host("c", conditions=[]), "its ComputeNode is not Ready"),
        (lambda bench: bench.leases.saw({"a": "now", "b": "now"}, bench.now), "its agent's Lease is old"),
        (lambda bench: bench.node("c", unschedulable=True), "it is cordoned"),
        (lambda bench: bench.node("c", taints=[{"key": "x", "effect": "NoSchedule"}]), "it has the taint x:NoSchedule"),
    ],
    ids=["not ready", "unknown", "no Node", "hypervisor not ready", "no Lease", "cordoned", "tainted"],
)
def test_facts_of_node_lease_and_hypervisor_count(bench: Bench, spoil: Callable[[Bench], object], says: str) -> None:
    assert bench.place(target="c").node == "c"
    spoil(bench)
    choice = bench.place(target="c")
    assert choice.node is None
    assert f"(c: {says})" in choice.message


def test_a_node_of_which_something_else_is_true_is_not_ready_by_that(bench: Bench) -> None:
    told = [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "False"}]
    bench.store.put(Node, bench.stored({"status": {"conditions": told}}, "c"))
    assert bench.place(target="c").node is None


def test_a_hypervisor_that_says_it_can_not_work_is_not_taken(bench: Bench) -> None:
    broken = {"type": "Ready", "status": "False", "reason": "HypervisorUnreachable", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    bench.host("c", conditions=[broken])
    assert bench.place(target="c").node is None


def test_a_lease_is_judged_by_the_time_of_the_pass(bench: Bench) -> None:
    bench.now = 40
    assert bench.place().node == "b"
    bench.now = 41
    assert bench.place().message == "0 of 3 nodes are feasible: 3 NodeNotReady (a, b, c: its agent's Lease is old)"


def test_a_lease_that_was_not_seen_to_change_yet_is_told_apart_from_an_old_one(bench: Bench) -> None:
    bench.node("d")
    bench.host("d")
    bench.leases.saw(dict.fromkeys("abcd", "now"), bench.now)
    assert "(d: its agent's Lease was not seen to change yet)" in bench.place(target="d").message


def test_a_compute_node_without_a_word_of_its_agent_is_no_candidate(bench: Bench) -> None:
    bench.store.put(ComputeNode, bench.stored({}, "d"))
    bench.node("d")
    bench.node("e")
    assert bench.place(target="d").message.startswith("0 of 3 nodes are feasible")


def test_a_pass_is_logged_with_what_each_filter_left_what_each_node_weighs_and_who_wins(bench: Bench, logs: list[EventDict]) -> None:
    bench.vm("vm-2", "b", memory=GIB)
    choice = bench.place()
    (line,) = logs
    assert line == {
        "event": "scheduling pass",
        "log_level": "info",
        "migration_uid": "move-1",
        "candidates": 3,
        "left": {"Ready": 3, "Schedulable": 3, "TargetNode": 3, "Retry": 3, "StaleCopy": 3, "SourceNode": 2},
        "weights": {"c": {"RAM": 1000}, "b": {"RAM": 0}},
        "node": "c",
        "explanation": choice.message,
    }


def test_the_weights_of_ten_nodes_are_logged_at_most(bench: Bench, logs: list[EventDict]) -> None:
    names = [f"n{i:02}" for i in range(12)]
    for name in names:
        bench.node(name)
        bench.host(name, memory=16 * GIB)
    bench.alive(*names)
    bench.place()
    assert list(logs[-1]["weights"]) == names[:10]


class Failing:
    """A filter with a defect."""

    name = "Failing"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        raise KeyError("zone") if candidate.name != "c" else ValueError("c")


def test_a_filter_that_fails_is_logged_once_for_each_error_and_its_nodes_are_not_taken(
    bench: Bench, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILTERS", (Failing(),))
    assert bench.place().node is None
    told = [(line["filter"], line["error"], line["nodes"]) for line in logs if line["log_level"] == "error"]
    assert told == [("Failing", "KeyError('zone')", ["a", "b"]), ("Failing", "ValueError('c')", ["c"])]


def test_the_node_facts_are_read_as_the_api_server_sends_them() -> None:
    node = load(Node, {"metadata": {"name": "a"}})
    assert (node.spec.unschedulable, node.spec.taints, node.status.conditions) == (False, (), ()), "a Node may lack all of it"
