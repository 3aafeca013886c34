"""What was seen, which VM it belongs to, and what is no news."""

from typing import Any

from samples import node_status, vm_body
from structlog.typing import EventDict

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.names import API_VERSION
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.store import Store

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


def stored(body: dict[str, Any], uid: str, version: int) -> dict[str, Any]:
    return body | {"metadata": body["metadata"] | {"uid": uid, "resourceVersion": str(version)}}


def vm(uid: str = "vm-1", version: int = 1, **where: str) -> dict[str, Any]:
    return stored(vm_body(**where), uid, version)


def task(name: str = "t-1", vm: str = "vm-1", version: int = 1) -> dict[str, Any]:
    reference = {"name": vm, "uid": f"placement-of-{vm}"}
    spec = {"node": "n1", "hostId": "h1", "verb": "Create", "epoch": 1, "epochId": "e1", "seq": 1, "placement": reference}
    return stored({"apiVersion": API_VERSION, "kind": "HostTask", "metadata": {"name": name}, "spec": spec}, f"uid-of-{name}", version)


def placement(vm: str = "vm-1", node: str = "n1", copies: tuple[str, ...] = (), version: int = 1) -> dict[str, Any]:
    spec = {
        "virtualMachine": {"apiGroup": "kubeferry.io", "kind": "VirtualMachine", "namespace": "shop", "name": "web-0", "uid": vm},
        "epoch": 1,
        "lineage": ["e1"],
        "nodeName": node,
        "hostId": "h1",
        "running": True,
        "domain": DOMAIN,
        "seq": 0,
        "copies": [{"node": copy, "hostId": f"host-of-{copy}", "epochId": "e1"} for copy in copies],
    }
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
    assert store.put(VirtualMachine, vm(version=5), anyway=True) == frozenset()


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
