"""The scheduling pass over what was seen: which facts of a node count, what is answered, and what is logged."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from pass_values import PLACE
from prometheus_client import CollectorRegistry
from samples import node_body, node_status
from structlog.typing import EventDict

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.model import load
from kubeferry.api.node import Node
from kubeferry.api.placement import Placement
from kubeferry.api.scheduling import RankedNode, RejectedNodes, Scheduling, Weight
from kubeferry.controller.metrics import Metrics
from kubeferry.controller.placer import Placer
from kubeferry.controller.scheduler_settings import SchedulerSettings
from kubeferry.controller.store import Store
from kubeferry.core.observed import Choice
from kubeferry.kube.leases import LeaseWatch
from kubeferry.scheduling.filters import Reject
from kubeferry.scheduling.registry import FILTER_NAMES
from kubeferry.scheduling.snapshot import Candidate, Request

GIB = 1 << 30


def disk(free: int) -> dict[str, Any]:
    """The file system of a node of 100 GiB, that many of them free."""
    return {"path": "/i", "total": 100 * GIB, "free": free * GIB, "filesystemId": "fs1"}


METRICS = Metrics(CollectorRegistry())


class Bench:
    """Nodes as watching tells of them, a clock, and a Placer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.leases = LeaseWatch()
        self.now = 0.0
        self.versions = 0
        self.placer = self.made()

    def made(self, **settings: Any) -> Placer:
        return Placer(self.store, self.leases, lambda: self.now, SchedulerSettings.model_validate(settings).profile(), METRICS)

    def stored(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        self.versions += 1
        return body | {"metadata": {"name": name, "uid": f"uid-of-{name}", "resourceVersion": str(self.versions)}}

    def node(self, name: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
        body = self.stored(node_body(name, **spec), name)
        body["metadata"]["labels"] = labels or {}
        self.store.put(Node, body)

    def host(self, name: str, **status: Any) -> None:
        self.store.put(ComputeNode, self.stored({"status": node_status(**status)}, name))

    def alive(self, *names: str) -> None:
        self.leases.saw(dict.fromkeys(names, "then"), self.now)
        self.leases.saw(dict.fromkeys(names, "now"), self.now)

    def vm(self, uid: str, *nodes: str, cpus: int = 1, memory: int = 1, size: int = 1, target: str | None = None, **move: Any) -> None:
        """A VM with copies on these nodes; on the move to `target`, if that is told."""
        disk = {"name": "root", "format": "raw", "capacity": 1, "source": {"hostPath": {"path": "/r"}}}
        domain = {"uuid": uid, "name": "x", "architecture": "amd64", "machineType": "pc", "cpuCores": cpus, "memory": memory}
        domain |= {"kernelBoot": {"kernelPath": "/k"}, "disks": [disk]}
        spec = {
            "virtualMachine": {"apiGroup": "g", "kind": "k", "namespace": "shop", "name": uid, "uid": uid},
            "epoch": 1,
            "lineage": ["e1"],
            "nodeName": nodes[0],
            "hostId": "h",
            "running": True,
            "domain": domain,
            "seq": 0,
            "copies": [{"node": node, "hostId": f"h-{node}", "epochId": "e1"} for node in nodes],
        }
        if target is not None:
            spec["lock"] = {"kind": "Migration", "namespace": "shop", "name": f"{uid}-move", "uid": f"move-of-{uid}"}
            forward = {"direction": "Forward", "source": nodes[0], "target": target, "domain": domain, "bytes": size}
            spec["move"] = forward | {"shutdownTimeoutSeconds": 60, "copyTries": 0} | move
        self.store.put(Placement, self.stored({"spec": spec}, uid))

    def place(self, **changes: Any) -> Choice:
        return self.placer.place(dataclasses.replace(PLACE, **changes))

    def refused(self, node: str, **changes: Any) -> str:
        """Why that node can't be taken."""
        choice = self.place(target=node, **changes)
        assert choice.node is None
        (said,) = [part for part in choice.message.split("1 Insufficient") if f"({node}: " in part]
        return said[said.index(": ") + 2 : said.index(")")]


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
    choice = bench.place()
    assert (choice.migration_uid, choice.node) == ("move-1", "c")
    assert choice.message == "2 of 3 nodes are feasible: 1 IsSource (a: the VM is there already)"
    bench.vm("vm-3", "a", "c", memory=2 * GIB)
    assert bench.place().node == "b", "a copy holds memory on every node where it lies"


def test_the_node_with_the_most_free_disk_or_cpus_is_chosen_where_memory_is_alike(bench: Bench) -> None:
    bench.host("c", instances=disk(free=91))
    assert bench.place().node == "c"
    bench.vm("vm-2", "c", cpus=2)
    bench.host("c")
    assert bench.place().node == "b"


@pytest.mark.parametrize(
    ("untold", "says"),
    [
        ({"cpu": None}, "its agent does not tell of its CPUs, 1 asked"),
        ({"memory": None}, "its agent does not tell of its memory, 1Gi asked"),
        ({"instances": None}, "its agent does not tell of its disk, 1Gi asked"),
    ],
    ids=["CPUs", "memory", "disk"],
)
def test_a_node_that_does_not_tell_what_it_has_is_not_taken(bench: Bench, untold: dict[str, Any], says: str) -> None:
    bench.host("b", **untold)
    assert bench.refused("b") == says


def test_cpus_are_given_four_times_and_held_on_both_nodes_of_a_vm_on_the_move(bench: Bench) -> None:
    bench.vm("vm-2", "b", "c", cpus=13, target="c")
    assert [bench.place(target=node, cpus=3).node for node in "bc"] == ["b", "c"], "4 CPUs, 16 are given, 13 are held"
    assert [bench.refused(node, cpus=4) for node in "bc"] == ["3 of 16 CPUs free, 4 asked: 13 held by shop/vm-2-move"] * 2
    assert bench.refused("b", cpus=5) == "it has 4 processors, no VM gets more CPUs there, 5 asked"


def test_memory_is_given_once_and_held_on_both_nodes_of_a_vm_on_the_move(bench: Bench) -> None:
    bench.vm("vm-2", "b", "c", memory=5 * GIB, target="c", awaitingSince="2026-01-01T00:00:00Z")
    bench.vm("vm-3", "b", memory=GIB)
    assert bench.place(memory=3 * GIB).node == "c"
    assert bench.refused("b", memory=3 * GIB) == (
        "2Gi of 8Gi memory free, 3Gi asked: 5Gi held by shop/vm-2-move, awaiting its decision since 2026-01-01, 1Gi held by shop/vm-3"
    )


def test_a_copy_that_is_being_filled_takes_all_that_it_needs_of_its_node_and_of_no_other(bench: Bench) -> None:
    bench.vm("vm-2", "b", "c", size=60 * GIB, target="c")
    assert [bench.place(target=node, bytes=30 * GIB).node for node in "bc"] == ["b", "c"]
    assert bench.place(target="b", bytes=31 * GIB).node == "b"
    assert bench.refused("c", bytes=31 * GIB) == "30Gi of 100Gi disk free, 31Gi asked: 60Gi held by shop/vm-2-move"


@pytest.mark.parametrize(
    "move", [{"direction": "Back"}, {"awaitingSince": "2026-01-01T00:00:00Z"}], ids=["goes back", "awaits its decision"]
)
def test_a_copy_that_is_not_being_filled_takes_only_what_the_file_system_tells_of(bench: Bench, move: dict[str, Any]) -> None:
    bench.vm("vm-2", "b", "c", size=60 * GIB, target="c", **move)
    assert bench.place(target="c", bytes=90 * GIB).node == "c"
    assert bench.place(target="c", bytes=90 * GIB + 1).node is None


def test_who_holds_disk_is_told_by_what_its_files_occupy(bench: Bench) -> None:
    def item(uid: str, allocated: int | None) -> dict[str, Any]:
        return {"uid": uid, "state": "Stopped", "role": "SEALED", "epoch": 1, "epochId": "e1"} | (
            {"allocated": allocated} if allocated is not None else {}
        )

    bench.vm("vm-2", "b", "c", target="c", awaitingSince="2026-01-01T00:00:00Z")
    bench.vm("vm-3", "b")
    bench.vm("vm-4", "b")
    told = [item("vm-2", 30 * GIB), item("vm-3", 31 * GIB), item("vm-4", None), item("unclaimed", 99 * GIB)]
    bench.host("b", instances=disk(free=5), inventory=told)
    assert bench.refused("b", bytes=6 * GIB) == (
        "5Gi of 100Gi disk free, 6Gi asked: 31Gi held by shop/vm-3, 30Gi held by shop/vm-2-move, awaiting its decision since 2026-01-01"
    )


def test_the_copies_of_the_vm_itself_do_not_keep_it_from_a_node(bench: Bench) -> None:
    bench.placer = bench.made(filters=["CPU", "Memory", "Disk"], weighers={"RAM": 1, "CPU": 0, "Disk": 0})
    bench.vm("vm-1", "a", "b", cpus=16, memory=8 * GIB, size=90 * GIB, target="b")
    everything = {"cpus": 4, "memory": 8 * GIB, "bytes": 90 * GIB}
    assert [bench.place(vm_uid="vm-1", **everything).report.feasible, bench.place(vm_uid="vm-2", **everything).report.feasible] == [3, 1]
    assert [each.score for each in bench.place(vm_uid="vm-1").report.ranking] == [0, 0, 0], "nor make a node a worse one"


def test_ratios_and_reserves_are_those_of_the_configuration(bench: Bench) -> None:
    bench.placer = bench.made(
        allocationRatios={"cpu": 1.5, "memory": 0.5, "disk": 1.2}, reserved={"cpu": 2, "memory": "2Gi", "disk": "10Gi"}
    )
    assert bench.place(cpus=3, memory=3 * GIB, bytes=98 * GIB).node == "b", "CPUs (4 - 2) * 1.5; memory (8 - 2) * 0.5"
    assert bench.refused("b", cpus=4) == "3 of 3 CPUs free, 4 asked"
    assert bench.refused("b", memory=3 * GIB + 1) == "3Gi of 3Gi memory free, 3.1Gi asked"
    assert bench.refused("b", bytes=98 * GIB + 1) == "98Gi of 108Gi disk free, 98.1Gi asked", "(100 - 10) * 1.2, 10 are taken"


def test_a_filter_that_is_left_out_rejects_nothing(bench: Bench) -> None:
    bench.placer = bench.made(filters=[name for name in FILTER_NAMES if name != "SourceNode"])
    assert bench.place(target="a").node == "a", "its agent refuses with UnableToMigrateToSelf"


def test_multipliers_are_those_of_the_configuration(bench: Bench) -> None:
    bench.vm("vm-2", "b", memory=GIB)
    bench.placer = bench.made(weighers={"RAM": -1})
    assert bench.place().node == "b", "below zero they pack"


def test_the_report_tells_what_the_pass_found(bench: Bench) -> None:
    bench.vm("vm-2", "b", memory=GIB)
    nothing = tuple(Weight(name=name, weight=0) for name in ("RAM", "CPU", "Disk"))
    more = tuple(Weight(name=name, weight=weight) for name, weight in (("RAM", 1000), ("CPU", 1000), ("Disk", 0)))
    assert bench.place().report == Scheduling(
        evaluated=3,
        feasible=2,
        rejected=(RejectedNodes(reason="IsSource", count=1, nodes=("a",)),),
        ranking=(RankedNode(node="c", score=2000, weights=more), RankedNode(node="b", score=0, weights=nothing)),
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"target": "a"}, "1 IsSource (a: the VM is there already), 2 NotTheTarget (b, c: a is asked for)"),
        ({"target": "b", "attempted": frozenset("b")}, "1 Attempted (b: it was tried, and refused), 2 NotTheTarget (a, c: b is asked for)"),
        ({"labels": frozenset({("disk", "ssd")})}, "3 NodeSelectorMismatch (a, b, c: it lacks the label disk=ssd)"),
        (
            {"machine_type": "pc-q35-9.0"},
            "1 IsSource (a: the VM is there already), 2 MachineTypeUnavailable (b, c: its QEMU does not offer the machine type pc-q35-9.0)",
        ),
        (
            {"bridges": frozenset({"br0"})},
            "1 IsSource (a: the VM is there already), 2 NetworkUnavailable (b, c: it has no bridge br0 for VMs)",
        ),
        (
            {"networks": frozenset({"default"})},
            "1 IsSource (a: the VM is there already), 2 NetworkUnavailable (b, c: it has no active libvirt network default)",
        ),
        ({"holders": frozenset("bc")}, "1 IsSource (a: the VM is there already), 2 StaleCopy (b, c: it still holds a copy of the VM)"),
    ],
)
def test_what_the_migration_asks_for_and_knows_reaches_the_filters(bench: Bench, asked: dict[str, Any], says: str) -> None:
    choice = bench.place(**asked)
    assert (choice.node, choice.message) == (None, f"0 of 3 nodes are feasible: {says}")


def test_a_node_that_has_the_labels_and_the_networks_is_chosen(bench: Bench) -> None:
    bench.node("c", labels={"disk": "ssd", "zone": "1"})
    bench.host("c", bridges=["br0", "br1"], networks=["default"])
    asked = {"labels": frozenset({("disk", "ssd")}), "bridges": frozenset({"br1"}), "networks": frozenset({"default"})}
    assert bench.place(**asked).node == "c"


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
        (lambda bench: bench.host("c", architecture=None), "its CPU architecture is not told, amd64 is needed"),
        (lambda bench: bench.host("c", machineTypes=[{"name": "q35"}]), "its QEMU does not offer the machine type pc-q35-7.2"),
    ],
    ids=["not ready", "unknown", "no Node", "hypervisor not ready", "no Lease", "cordoned", "tainted", "architecture", "machine type"],
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
        "left": dict.fromkeys(FILTER_NAMES, 2) | dict.fromkeys(FILTER_NAMES[: FILTER_NAMES.index("SourceNode")], 3),
        "weights": {"c": {"RAM": 1000, "CPU": 1000, "Disk": 0}, "b": {"RAM": 0, "CPU": 0, "Disk": 0}},
        "node": "c",
        "score": 2000,
        "explanation": choice.message,
    }


def test_a_pass_without_a_winner_is_logged_too(bench: Bench, logs: list[EventDict]) -> None:
    bench.now = 41
    choice = bench.place()
    (line,) = logs
    assert (line["candidates"], line["left"]) == (3, dict.fromkeys(FILTER_NAMES, 0))
    assert (line["weights"], line["node"], line["score"], line["explanation"]) == ({}, None, None, choice.message)


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


def test_a_filter_that_fails_is_logged_once_for_each_error_and_its_nodes_are_not_taken(bench: Bench, logs: list[EventDict]) -> None:
    profile = dataclasses.replace(SchedulerSettings().profile(), filters=(Failing(),))
    bench.placer = Placer(bench.store, bench.leases, lambda: 0.0, profile, METRICS)
    assert bench.place().node is None
    told = [(line["filter"], line["error"], line["nodes"]) for line in logs if line["log_level"] == "error"]
    assert told == [("Failing", "KeyError('zone')", ["a", "b"]), ("Failing", "ValueError('c')", ["c"])]


def test_the_node_facts_are_read_as_the_api_server_sends_them() -> None:
    node = load(Node, {"metadata": {"name": "a"}})
    assert (node.spec.unschedulable, node.spec.taints, node.status.conditions) == (False, (), ()), "a Node may lack all of it"
