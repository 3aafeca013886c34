"""What was seen, which VM it belongs to, and what is no news."""

from datetime import UTC, datetime
from typing import Any

import pytest
from samples import migration_body, node_body, node_status, vm_body
from structlog.typing import EventDict

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.migration import Migration
from kubeferry.api.names import API_VERSION
from kubeferry.api.node import Node
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.store import PlacedOn, Store

DOMAIN = {
    "uuid": "vm-1",
    "name": "shop-web-0",
    "architecture": "amd64",
    "machineType": "pc-q35-7.2",
    "cpuCores": 1,
    "memory": 1,
    "kernelBoot": {"kernelPath": "/k"},
    "disks": [{"name": "root", "format": "raw", "capacity": 1, "source": {"hostPath": {"path": "/r"}}}],
}

MOVE = {"direction": "Forward", "source": "n1", "target": "n2", "domain": DOMAIN, "bytes": 7, "shutdownTimeoutSeconds": 60, "copyTries": 0}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def stored(body: dict[str, Any], uid: str, version: int) -> dict[str, Any]:
    return body | {"metadata": body["metadata"] | {"uid": uid, "resourceVersion": str(version)}}


def vm(uid: str = "vm-1", version: int = 1, **where: str) -> dict[str, Any]:
    return stored(vm_body(**where), uid, version)


def task(name: str = "t-1", vm: str = "vm-1", version: int = 1) -> dict[str, Any]:
    reference = {"name": vm, "uid": f"placement-of-{vm}"}
    spec = {"node": "n1", "hostId": "h1", "verb": "Create", "epoch": 1, "epochId": "e1", "seq": 1, "placement": reference}
    return stored({"apiVersion": API_VERSION, "kind": "HostTask", "metadata": {"name": name}, "spec": spec}, f"uid-of-{name}", version)


def placement(
    vm: str = "vm-1",
    node: str = "n1",
    copies: tuple[str, ...] = (),
    version: int = 1,
    lock: str | None = None,
    move: dict[str, Any] | None = None,
    **domain: Any,
) -> dict[str, Any]:
    spec = {
        "virtualMachine": {"apiGroup": "kubeferry.io", "kind": "VirtualMachine", "namespace": "shop", "name": "web-0", "uid": vm},
        "epoch": 1,
        "lineage": ["e1"],
        "nodeName": node,
        "hostId": "h1",
        "running": True,
        "domain": DOMAIN | domain,
        "seq": 0,
        "copies": [{"node": copy, "hostId": f"host-of-{copy}", "epochId": "e1"} for copy in copies],
    }
    if lock is not None:
        spec["lock"] = {"kind": lock, "namespace": "ops", "name": "web-0-move", "uid": "uid-of-move"}
    if move is not None:
        spec["move"] = MOVE | move
    return stored({"apiVersion": API_VERSION, "kind": "Placement", "metadata": {"name": vm}, "spec": spec}, f"placement-of-{vm}", version)


def node(name: str = "n1", version: int = 1, **status: Any) -> dict[str, Any]:
    body = {"apiVersion": API_VERSION, "kind": "ComputeNode", "metadata": {"name": name}, "status": node_status(**status)}
    return stored(body, f"uid-of-{name}", version)


def test_a_virtual_machine_wakes_itself_and_is_found_by_its_uid(store: Store) -> None:
    assert store.put(VirtualMachine, vm()) == {"vm-1"}
    found = store.vm("vm-1")
    assert found is not None
    assert found.metadata.name == "web-0"


def test_a_task_wakes_the_vm_of_its_placement_and_is_found_by_it_in_order_of_names(store: Store) -> None:
    assert store.put(HostTask, task("t-2")) == {"vm-1"}
    assert store.put(HostTask, task("t-1")) == {"vm-1"}
    store.put(HostTask, task("t-3", vm="vm-2"))
    assert [t.metadata.name for t in store.tasks("vm-1")] == ["t-1", "t-2"]
    assert store.tasks("vm-9") == ()


def test_a_deleted_object_is_held_no_longer_and_wakes_its_vm(store: Store) -> None:
    store.put(HostTask, task())
    store.put(VirtualMachine, vm())
    assert store.remove(HostTask, task()) == {"vm-1"}
    assert store.remove(VirtualMachine, vm()) == {"vm-1"}
    assert store.tasks("vm-1") == ()
    assert store.vm("vm-1") is None
    assert store.remove(VirtualMachine, vm()) == frozenset()


def test_an_older_version_does_not_take_the_place_of_a_newer_one(store: Store) -> None:
    store.put(VirtualMachine, vm(version=10, node="n2"))
    assert store.put(VirtualMachine, vm(version=9, node="n1")) == frozenset()
    store.put(ComputeNode, node("n1"))
    assert store.concerned("n1") == frozenset()
    assert store.concerned("n2") == {"vm-1"}


def test_versions_are_compared_as_numbers(store: Store) -> None:
    store.put(VirtualMachine, vm(version=9))
    assert store.put(VirtualMachine, vm(version=10)) == {"vm-1"}


def test_the_same_version_again_is_no_news(store: Store) -> None:
    store.put(VirtualMachine, vm(version=5))
    assert store.put(VirtualMachine, vm(version=5)) == frozenset()
    assert store.put(VirtualMachine, vm(version=5), listed=9) == frozenset()


def test_a_virtual_machine_made_anew_under_its_name_takes_the_place_of_the_old_one_and_wakes_both(store: Store) -> None:
    store.put(VirtualMachine, vm("vm-1", version=1))
    assert store.put(VirtualMachine, vm("vm-2", version=2)) == {"vm-1", "vm-2"}
    assert store.vm("vm-1") is None
    assert store.remove(VirtualMachine, vm("vm-1", version=3)) == frozenset(), "a late word of the old one's deletion"
    assert store.vm("vm-2") is not None


def test_a_node_wakes_the_vms_whose_source_lies_there(store: Store) -> None:
    store.put(VirtualMachine, vm("vm-1", node="n1", name="a"))
    store.put(VirtualMachine, vm("vm-2", node="n2", name="b"))
    assert store.put(ComputeNode, node("n1")) == {"vm-1"}


def test_no_node_wakes_a_vm_that_is_made_of_nothing(store: Store) -> None:
    body = vm("vm-1", node="n1")
    body["spec"]["template"]["spec"]["volumes"][0]["localDisk"]["source"] = {"blank": {}}
    store.put(VirtualMachine, body)
    assert store.put(ComputeNode, node("n1")) == frozenset()


def test_a_node_wakes_the_vms_whose_placement_names_it(store: Store) -> None:
    assert store.put(Placement, placement("vm-1", node="n1")) == {"vm-1"}
    store.put(Placement, placement("vm-2", node="n2", copies=("n1", "n2")))
    store.put(Placement, placement("vm-3", node="n3"))
    assert store.put(ComputeNode, node("n1")) == {"vm-1", "vm-2"}


def test_a_node_no_longer_wakes_a_vm_whose_placement_left_it(store: Store) -> None:
    store.put(Placement, placement("vm-1", node="n1"))
    store.put(Placement, placement("vm-1", node="n2", version=2))
    assert store.concerned("n1") == frozenset()
    assert store.concerned("n2") == {"vm-1"}
    store.remove(Placement, placement("vm-1", version=3))
    assert store.concerned("n2") == frozenset()


def test_a_node_wakes_the_vms_that_its_inventory_tells_of_before_and_after(store: Store) -> None:
    def tells(uid: str) -> dict[str, Any]:
        return {"inventory": [{"uid": uid, "state": "Running", "role": "ACTIVE", "epoch": 1, "epochId": "e1"}]}

    for n in (1, 2):
        store.put(VirtualMachine, vm(f"vm-{n}", name=f"web-{n}", node="elsewhere"))
    assert store.put(ComputeNode, node("n1", version=1, **tells("vm-1"))) == {"vm-1"}
    assert store.put(ComputeNode, node("n1", version=2, **tells("vm-2"))) == {"vm-1", "vm-2"}
    assert store.put(ComputeNode, node("n1", version=3, **tells("unknown"))) == {"vm-2"}


def test_hosts_are_every_node_by_name(store: Store) -> None:
    for name in ("n2", "n1"):
        store.put(ComputeNode, node(name))
    assert [host.metadata.name for host in store.hosts()] == ["n1", "n2"]
    store.remove(ComputeNode, node("n1"))
    assert [host.metadata.name for host in store.hosts()] == ["n2"]


def move(name: str = "move", vm: str = "web-0", version: int = 1, at: int = 0, namespace: str = "shop") -> dict[str, Any]:
    body = stored(migration_body(name, vm, namespace), f"uid-of-{name}", version)
    return body | {"metadata": body["metadata"] | {"creationTimestamp": f"2026-01-01T00:00:0{at}Z"}}


def kube_node(name: str = "n1", version: int = 1, **spec: Any) -> dict[str, Any]:
    return stored(node_body(name, **spec), f"uid-of-{name}", version)


def test_a_vm_is_found_by_its_name_in_its_namespace(store: Store) -> None:
    store.put(VirtualMachine, vm("vm-1", name="a"))
    store.put(VirtualMachine, vm("vm-2", name="a", namespace="other"))
    found = store.vm_named("other", "a")
    assert found is not None
    assert found.metadata.uid == "vm-2"
    assert store.vm_named("shop", "b") is None
    store.remove(VirtualMachine, vm("vm-2", name="a", namespace="other"))
    assert store.vm_named("other", "a") is None


def test_a_migration_wakes_the_vm_that_it_names(store: Store) -> None:
    store.put(VirtualMachine, vm("vm-1", name="web-0"))
    store.put(VirtualMachine, vm("vm-2", name="web-0", namespace="other"))
    assert store.put(Migration, move(vm="web-0")) == {"vm-1"}
    assert store.put(Migration, move(vm="web-0", namespace="other")) == {"vm-2"}
    assert store.put(Migration, move(vm="web-0", version=1)) == frozenset(), "no news"
    assert store.remove(Migration, move(vm="web-0", version=2)) == {"vm-1"}
    assert store.migrations("shop", "web-0") == ()


def test_a_migration_of_a_vm_that_is_not_there_wakes_the_name_of_the_vm(store: Store) -> None:
    assert store.put(Migration, move(vm="web-0")) == {"shop/web-0"}
    assert store.put(VirtualMachine, vm("vm-1", name="web-0")) == {"vm-1"}
    assert store.put(Migration, move(vm="web-0", version=2)) == {"vm-1"}, "it belongs to the VM now"
    assert store.remove(VirtualMachine, vm("vm-1", name="web-0")) == {"vm-1", "shop/web-0"}, "it waits for the name now"
    assert store.put(Migration, move(vm="web-0", version=3)) == {"shop/web-0"}
    assert [m.metadata.name for m in store.migrations("shop", "web-0")] == ["move"], "it is held all the time"


def test_a_migration_belongs_to_a_vm_made_anew_under_the_name(store: Store) -> None:
    store.put(VirtualMachine, vm("vm-1", version=1))
    store.put(Migration, move(vm="web-0"))
    store.put(VirtualMachine, vm("vm-2", version=2))
    assert store.put(Migration, move(vm="web-0", version=2)) == {"vm-2"}


def test_a_migration_that_names_another_vm_wakes_both_and_is_found_by_the_new_one_alone(store: Store) -> None:
    store.put(Migration, move(vm="web-0", version=1))
    assert store.put(Migration, move(vm="web-1", version=2)) == {"shop/web-0", "shop/web-1"}
    assert store.migrations("shop", "web-0") == ()
    assert [m.metadata.name for m in store.migrations("shop", "web-1")] == ["move"]


def test_the_migrations_of_a_vm_are_its_own_the_oldest_first_and_equals_by_name(store: Store) -> None:
    equals = [move(name, at=2) for name in "fbdeca"]
    for body in (*equals, move("z", at=1), move("y", at=0, vm="web-1"), move("x", at=0, namespace="other")):
        store.put(Migration, body)
    assert [m.metadata.name for m in store.migrations("shop", "web-0")] == ["z", "a", "b", "c", "d", "e", "f"]
    assert [m.metadata.name for m in store.migrations("other", "web-0")] == ["x"]


def test_a_migration_that_can_not_be_read_is_held_no_longer_and_wakes_its_vm(store: Store) -> None:
    store.put(Migration, move(vm="web-0"))
    assert store.put(Migration, move(version=2) | {"spec": {}}) == {"shop/web-0"}
    assert store.migrations("shop", "web-0") == ()


def test_nodes_are_held_by_name_and_wake_nothing(store: Store) -> None:
    store.put(VirtualMachine, vm("vm-1", node="n1"))
    store.put(Placement, placement("vm-1", node="n1"))
    for name in ("n2", "n1"):
        assert store.put(Node, kube_node(name)) == frozenset()
    assert store.put(Node, kube_node("n1", version=2, unschedulable=True)) == frozenset()
    assert [(n.metadata.name, n.spec.unschedulable) for n in store.nodes()] == [("n1", True), ("n2", False)]
    assert store.remove(Node, kube_node("n2")) == frozenset()
    assert [n.metadata.name for n in store.nodes()] == ["n1"]


def placed(store: Store, node: str) -> PlacedOn:
    (found,) = store.placed(node)
    return found


def test_a_placement_is_found_by_every_node_that_it_names(store: Store) -> None:
    store.put(Placement, placement("vm-1", node="n1", copies=("n1", "n2")))
    store.put(Placement, placement("vm-2", node="n2", copies=("n2",)))
    store.put(Placement, placement("vm-3", node="n3"))
    found = {node: {each.metadata.name for each in store.placed(node)} for node in ("n1", "n2", "n3", "n4")}
    assert found == {"n1": {"vm-1"}, "n2": {"vm-1", "vm-2"}, "n3": {"vm-3"}, "n4": set()}


@pytest.mark.parametrize(("now", "moved", "held"), [(10, 20, 20), (20, 10, 20), (10, None, 10)])
def test_a_copy_holds_what_the_vm_runs_with_or_is_to_run_with_whichever_is_more(
    store: Store, now: int, moved: int | None, held: int
) -> None:
    for version, field in enumerate(("cpuCores", "memory"), start=1):
        move = {"domain": DOMAIN | {field: moved}} if moved is not None else None
        store.put(Placement, placement(copies=("n1", "n2"), version=version, lock="Migration", move=move, **{field: now}))
        for node in ("n1", "n2"):
            found = placed(store, node)
            assert (found.cpus, found.memory) == ((held, 1) if field == "cpuCores" else (1, held))


def test_a_copy_that_is_given_up_or_whose_placement_went_holds_nothing(store: Store) -> None:
    store.put(Placement, placement(node="n2", copies=("n1", "n2"), memory=10))
    store.put(Placement, placement(node="n2", copies=("n2",), memory=10, version=2))
    assert store.placed("n1") == ()
    assert placed(store, "n2").memory == 10
    store.remove(Placement, placement(version=3))
    assert store.placed("n2") == ()


@pytest.mark.parametrize(
    ("lock", "move", "holder", "since"),
    [
        (None, None, "shop/web-0", None),
        ("Migration", {}, "ops/web-0-move", None),
        ("Migration", {"awaitingSince": "2026-01-01T12:00:00Z"}, "ops/web-0-move", NOON),
        ("Deletion", {"awaitingSince": "2026-01-01T12:00:00Z"}, "shop/web-0", None),
    ],
    ids=["nobody moves it", "on the move", "awaits its decision", "was deleted on the move"],
)
def test_who_holds_is_the_migration_that_has_the_lock_or_else_the_vm(
    store: Store, lock: str | None, move: dict[str, Any] | None, holder: str, since: datetime | None
) -> None:
    store.put(Placement, placement(lock=lock, move=move))
    assert (placed(store, "n1").holder, placed(store, "n1").awaiting_since) == (holder, since)


@pytest.mark.parametrize(
    ("lock", "move", "filled"),
    [
        ("Migration", {}, "n2"),
        ("Migration", {"direction": "Back"}, None),
        ("Migration", {"awaitingSince": "2026-01-01T12:00:00Z"}, None),
        ("Deletion", {}, None),
        (None, None, None),
    ],
    ids=["forward", "back", "awaits its decision", "deletion", "nobody moves it"],
)
def test_a_copy_is_being_filled_from_the_lock_until_the_decision_is_awaited(
    store: Store, lock: str | None, move: dict[str, Any] | None, filled: str | None
) -> None:
    store.put(Placement, placement(copies=("n1", "n2"), lock=lock, move=move))
    for node in ("n1", "n2"):
        assert (placed(store, node).filled, placed(store, node).bytes) == (filled, 7 if filled else 0)


def broken(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"spec": {"template": "nonsense"}}


def test_a_body_that_can_not_be_read_is_counted_and_told_with_its_name(store: Store, logs: list[EventDict]) -> None:
    assert store.put(VirtualMachine, broken(vm())) == frozenset()
    assert len(store.unreadable) == 1
    (line,) = logs
    assert (line["kind"], line["object"], line["log_level"]) == ("VirtualMachine", "shop/web-0", "error")
    assert "template" in line["error"]
    assert store.put(VirtualMachine, vm("vm-2", name="web-1")) == {"vm-2"}, "the others go on"


def test_what_was_held_of_an_object_goes_when_it_can_no_longer_be_read(store: Store) -> None:
    store.put(VirtualMachine, vm(version=1))
    assert store.put(VirtualMachine, broken(vm(version=2))) == {"vm-1"}
    assert store.vm("vm-1") is None


def test_an_object_that_can_be_read_again_or_went_is_no_longer_counted(store: Store) -> None:
    store.put(VirtualMachine, broken(vm(version=1)))
    store.put(VirtualMachine, vm(version=2))
    assert store.unreadable == {}
    store.put(VirtualMachine, broken(vm(version=3)))
    store.remove(VirtualMachine, vm(version=4))
    assert store.unreadable == {}


def test_who_has_a_mac_address_is_told_but_for_the_vm_that_asks_and_until_its_placement_is_gone(store: Store) -> None:
    card = {"name": "default", "mac": "02:00:00:00:00:01", "network": {"user": {}}}
    store.put(Placement, placement("vm-1", interfaces=[card]))
    assert store.mac_user("02:00:00:00:00:01", "vm-2") == "shop/web-0"
    assert store.mac_user("02:00:00:00:00:01", "vm-1") is None
    assert store.mac_user("02:00:00:00:00:02", "vm-2") is None
    store.put(Placement, placement("vm-1", version=2, interfaces=[card | {"mac": "02:00:00:00:00:02"}]))
    assert store.mac_user("02:00:00:00:00:01", "vm-2") is None
    assert store.mac_user("02:00:00:00:00:02", "vm-2") == "shop/web-0"
    store.put(Placement, placement("vm-9", interfaces=[card | {"mac": "02:00:00:00:00:02"}]))
    store.remove(Placement, placement("vm-1", version=3))
    assert store.mac_user("02:00:00:00:00:02", "vm-2") == "shop/web-0"
    store.remove(Placement, placement("vm-9", version=2))
    assert store.mac_user("02:00:00:00:00:02", "vm-2") is None
