"""Typed requests: what is sent, and what is refused."""

import dataclasses

import pytest
from fake_cluster import FakeServer
from samples import node_body, node_status, vm_body

from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Meta
from kubeferry.api.model import load
from kubeferry.api.node import Node, Taint, TaintEffect
from kubeferry.api.virtualmachine import PrintableStatus, VirtualMachine, VirtualMachineStatus, VolumeStatus
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.errors import Conflict, NotFound, Unavailable, Unreadable
from kubeferry.kube.server import Endpoint, Ref

VM = Ref(endpoint(VirtualMachine), "web-0", "shop")
RUNNING = VirtualMachineStatus(printable_status=PrintableStatus.RUNNING, node_name="n1", volumes=(VolumeStatus(name="root", capacity=5),))


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def cluster(server: FakeServer) -> Cluster:
    return Cluster(server, "tester")


@pytest.fixture
async def vm(server: FakeServer) -> VirtualMachine:
    return load(VirtualMachine, await server.create(VM, vm_body()))


async def test_an_object_that_is_not_there_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="get VirtualMachine shop/web-0"):
        await cluster.get(VirtualMachine, "web-0", "shop")


async def test_a_body_that_breaks_the_model_names_the_object_and_the_field(
    cluster: Cluster, server: FakeServer, vm: VirtualMachine
) -> None:
    server.objects[VM]["spec"]["runStrategy"] = "Sometimes"
    with pytest.raises(Unreadable, match=r"(?s)VirtualMachine shop/web-0 .*runStrategy"):
        await cluster.get(VirtualMachine, "web-0", "shop")


async def test_a_status_patch_removes_what_the_status_no_longer_says(cluster: Cluster, server: FakeServer, vm: VirtualMachine) -> None:
    await cluster.patch_status(VirtualMachine, vm.metadata, RUNNING)
    assert server.objects[VM]["status"]["nodeName"] == "n1"
    assert server.objects[VM]["status"]["volumes"] == [{"name": "root", "capacity": 5}], "a null in a list would be kept as a null"
    provisioning = VirtualMachineStatus(printable_status=PrintableStatus.PROVISIONING)
    written = await cluster.patch_status(VirtualMachine, vm.metadata, provisioning)
    assert written.status == provisioning
    assert "nodeName" not in server.objects[VM]["status"]


async def test_a_status_patch_leaves_spec_and_unknown_fields_alone(cluster: Cluster, server: FakeServer, vm: VirtualMachine) -> None:
    server.objects[VM]["status"] = {"printableStatus": "Running", "ofANewerVersion": 1}
    written = await cluster.patch_status(VirtualMachine, vm.metadata, RUNNING)
    assert written.spec == vm.spec
    assert server.objects[VM]["status"]["ofANewerVersion"] == 1


async def test_a_swapped_status_is_refused_when_the_object_was_written_since(cluster: Cluster, vm: VirtualMachine) -> None:
    await cluster.swap_status(VirtualMachine, vm.metadata, RUNNING)
    with pytest.raises(Conflict):
        await cluster.swap_status(VirtualMachine, vm.metadata, RUNNING)


async def test_finalizers_are_refused_when_the_object_was_written_since(cluster: Cluster, vm: VirtualMachine) -> None:
    protected = await cluster.patch_finalizers(VirtualMachine, vm.metadata, ["a/b"])
    assert protected.metadata.finalizers == ("a/b",)
    with pytest.raises(Conflict):
        await cluster.patch_finalizers(VirtualMachine, vm.metadata, [])


async def test_a_replace_is_refused_when_the_object_was_written_since_and_keeps_its_finalizers(
    cluster: Cluster, vm: VirtualMachine
) -> None:
    protected = await cluster.patch_finalizers(VirtualMachine, vm.metadata, ["a/b"])
    replaced = await cluster.replace(VirtualMachine, protected.metadata, vm.spec)
    assert replaced.metadata.finalizers == ("a/b",)
    with pytest.raises(Conflict):
        await cluster.replace(VirtualMachine, vm.metadata, vm.spec)


async def test_another_object_of_the_same_name_is_not_deleted(cluster: Cluster, server: FakeServer, vm: VirtualMachine) -> None:
    with pytest.raises(Conflict):
        await cluster.delete(VirtualMachine, dataclasses.replace(vm.metadata, uid="other"))
    await cluster.delete(VirtualMachine, vm.metadata)
    assert server.objects == {}


async def test_an_applied_status_keeps_the_conditions_that_others_told(server: FakeServer) -> None:
    await Cluster(server, "agent").create(ComputeNode, Meta(name="n1"))
    fenced = {"type": "Fenced", "status": "False", "reason": "LeaseFresh", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    told = load(ComputeNodeStatus, node_status())
    await Cluster(server, "controller").apply_status(ComputeNode, "n1", dataclasses.replace(told, conditions=()))
    ref = Ref(endpoint(ComputeNode), "n1")
    server.objects[ref]["status"]["conditions"] = [fenced]
    node = await Cluster(server, "agent").apply_status(ComputeNode, "n1", told)
    assert node.status is not None
    assert [c.type for c in node.status.conditions] == ["Fenced", "Ready"]


async def test_pages_give_every_object_undecoded(cluster: Cluster, server: FakeServer) -> None:
    for n in range(5):
        await cluster.create(ComputeNode, Meta(name=f"n{n}"))
    server.objects[Ref(endpoint(ComputeNode), "n3")]["status"] = "nonsense"
    pages = [page async for page in cluster.pages(ComputeNode, limit=2)]
    assert [[item["metadata"]["name"] for item in page.items] for page in pages] == [["n0", "n1"], ["n2", "n3"], ["n4"]]


async def test_a_node_is_read_as_far_as_the_scheduling_pass_needs_it(cluster: Cluster, server: FakeServer) -> None:
    taints = [{"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]
    await server.create(Ref(endpoint(Node), "n1"), node_body(unschedulable=True, taints=taints))
    node = await cluster.get(Node, "n1")
    assert (node.metadata.name, node.spec.unschedulable) == ("n1", True)
    assert node.spec.taints == (
        Taint(key="a", value="b", effect=TaintEffect.NO_SCHEDULE),
        Taint(key="c", effect=TaintEffect.NO_EXECUTE),
    )
    assert [(told.type, told.status) for told in node.status.conditions] == [("MemoryPressure", "False"), ("Ready", "True")]


def test_kinds_of_the_core_group_bear_its_version_alone() -> None:
    assert endpoint(Node).api_version == "v1"
    assert endpoint(ComputeNode).api_version == "kubeferry.io/v1alpha1"


CRDS = Endpoint("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
NAMES = ["computenodes", "hosttasks", "migrations", "placements", "virtualmachines"]


async def installed(server: FakeServer) -> None:
    for name in NAMES:
        await server.create(Ref(CRDS, f"{name}.kubeferry.io"), {"metadata": {"name": f"{name}.kubeferry.io"}})


@pytest.mark.parametrize("name", NAMES)
async def test_a_kind_that_is_being_removed_or_is_gone_does_not_stay(name: str, cluster: Cluster, server: FakeServer) -> None:
    await installed(server)
    assert await cluster.kinds_stay()
    ref = Ref(CRDS, f"{name}.kubeferry.io")
    server.objects[ref]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not await cluster.kinds_stay()
    del server.objects[ref]
    assert not await cluster.kinds_stay()


async def test_whether_the_kinds_stay_is_not_known_where_nobody_answers(cluster: Cluster, server: FakeServer) -> None:
    await installed(server)
    server.before["get CustomResourceDefinition placements.kubeferry.io"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await cluster.kinds_stay()
