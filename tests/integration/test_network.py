"""Networks on the real thing: a guest answers at the same addresses wherever it runs, and goes only where its networks are."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab_vm import VIRSH, Vm, migrate, vm_manifest, with_networks

from kubeferry.api import reasons
from lab.lab import Lab
from lab.network import BRIDGE
from lab.steps import NotYet, wait_until

LIBVIRT_NETWORK = "guests"
XML = f"<network><name>{LIBVIRT_NETWORK}</name><forward mode='bridge'/><bridge name='{BRIDGE}'/></network>"


def apply(lab: Lab, namespace: str, manifest: dict[str, Any]) -> Vm:
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    return Vm(lab, namespace, manifest["metadata"]["name"])


@pytest.fixture
def libvirt_network(lab: Lab) -> Iterator[None]:
    """An active network of libvirt on worker-1 and worker-2, and on no other; told of in their ComputeNodes."""
    for node in ("worker-1", "worker-2"):
        lab.hosts[node].run([*VIRSH, "net-create", "/dev/stdin"], stdin=XML)

    def told() -> None:
        nodes = json.loads(lab.kubectl("get", "computenodes", "-o", "json").stdout)["items"]
        having = [node["metadata"]["name"] for node in nodes if LIBVIRT_NETWORK in node["status"].get("networks", [])]
        if having != ["worker-1", "worker-2"]:
            raise NotYet(f"{having} tell of it")

    wait_until(f"the network {LIBVIRT_NETWORK} in ComputeNodes", told, seconds=60, log=lab.log("agent-worker-1"))
    yield
    for node in ("worker-1", "worker-2"):
        lab.hosts[node].run([*VIRSH, "net-destroy", LIBVIRT_NETWORK])


def answers(lab: Lab, address: str) -> str:
    """Wait until the guest answers a ping from worker-3; the MAC address that it answered from."""
    host = lab.hosts["worker-3"]

    def answered() -> str:
        host.run(["/usr/sbin/ip", "neigh", "flush", "to", address, "dev", BRIDGE])
        if host.run(["/usr/bin/ping", "-c", "1", "-W", "1", address], check=False).returncode != 0:
            raise NotYet("no answer")
        (seen,) = json.loads(host.run(["/usr/sbin/ip", "-json", "neigh", "show", "to", address, "dev", BRIDGE]).stdout)
        return str(seen["lladdr"])

    return wait_until(f"{address} to answer", answered, seconds=60, log=lab.log("agent-worker-1"))


@pytest.mark.usefixtures("libvirt_network")
def test_a_guest_keeps_its_addresses_over_a_move_and_a_revert_and_goes_only_where_its_networks_are(lab: Lab, namespace: str) -> None:
    address = lab.hosts["worker-1"].address.rpartition(".")[0] + ".150"
    networks: dict[str, Any] = {"default": {"bridge": {"name": BRIDGE}}, "second": {"libvirt": {"name": LIBVIRT_NETWORK}}}
    manifest = with_networks(vm_manifest("plugged"), f"ip={address}/24", **networks, third={"user": {}})
    vm = apply(lab, namespace, manifest)
    vm.wait(reasons.READY, "True", reasons.RUNNING)
    cards = vm.placement()["domain"]["interfaces"]
    mac = cards[0]["mac"]
    assert mac.startswith("02:")
    assert answers(lab, address) == mac

    same = with_networks(vm_manifest("same"), default={"user": {}})
    same["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["macAddress"] = mac
    refused = apply(lab, namespace, same)
    refused.wait(reasons.SCHEDULED, "False", reasons.MAC_ADDRESS_IN_USE)
    assert f"which VM {namespace}/plugged has already" in refused.told(reasons.SCHEDULED)["message"]

    migration = migrate(vm)
    assert migration.target() == "worker-2"
    rejected = {each["reason"]: each["nodes"] for each in migration.status()["scheduling"]["rejected"]}
    assert rejected[reasons.NETWORK_UNAVAILABLE] == ["worker-3"]
    vm.wait_console("worker-2", "GUEST boot=2 ")
    assert list(vm.processes()) == ["worker-2"]
    assert answers(lab, address) == mac
    assert vm.placement()["domain"]["interfaces"] == cards

    migration.decide("Revert")
    assert migration.end() == ("Reverted", "False", reasons.REVERTED)
    vm.wait(reasons.READY, "True", reasons.RUNNING)
    assert list(vm.processes()) == ["worker-1"]
    assert answers(lab, address) == mac
    listed = [line.split() for line in lab.hosts["worker-1"].run([*VIRSH, "domiflist", vm.uid]).stdout.strip().splitlines()[2:]]
    kinds = ("bridge", "bridge", "user")  # libvirt tells of a network that is a bridge as of one
    assert [(kind, mac) for _, kind, _, _, mac in listed] == [(kind, card["mac"]) for kind, card in zip(kinds, cards, strict=True)]


def test_a_bridge_outside_of_the_allow_list_is_on_no_node_and_is_told_where_an_operator_looks(lab: Lab, namespace: str) -> None:
    vm = apply(lab, namespace, with_networks(vm_manifest("sneaky"), default={"bridge": {"name": "kf-mgmt"}}))
    vm.wait(reasons.SCHEDULED, "False", reasons.NO_FEASIBLE_NODE)
    assert f"{reasons.NETWORK_UNAVAILABLE} (worker-1" in vm.told(reasons.SCHEDULED)["message"]
    assert "no bridge kf-mgmt for VMs" in vm.told(reasons.SCHEDULED)["message"]
    assert not vm.directory("worker-1").exists()


def test_a_vm_goes_only_to_a_node_with_the_labels_of_its_own_and_of_its_migration(lab: Lab, namespace: str) -> None:
    lab.kubectl("label", "node", "worker-2", "test/disk=ssd")
    lab.kubectl("label", "node", "worker-3", "test/disk=ssd", "test/zone=b")
    try:
        manifest, selector = vm_manifest("choosy"), {"nodeSelector": {"test/disk": "ssd"}}
        manifest["spec"]["template"]["spec"] |= selector
        vm = apply(lab, namespace, manifest)
        vm.wait(reasons.SCHEDULED, "False", reasons.NO_FEASIBLE_NODE)
        vm.kubectl("patch", "--type=merge", "-p", json.dumps({"spec": {"template": {"spec": {"nodeSelector": None}}}}))
        vm.wait(reasons.READY, "True", reasons.RUNNING)
        vm.kubectl("patch", "--type=merge", "-p", json.dumps({"spec": {"template": {"spec": selector}}}))
        nowhere = migrate(vm, "nowhere", addedNodeSelector={"test/zone": "c"})
        assert nowhere.end() == ("Failed", "False", reasons.NO_FEASIBLE_NODE)
        assert f"3 {reasons.NODE_SELECTOR_MISMATCH} (" in nowhere.told(reasons.SUCCEEDED)["message"]
        migration = migrate(vm, addedNodeSelector={"test/zone": "b"})
        assert migration.target() == "worker-3"
        (rejected,) = migration.status()["scheduling"]["rejected"]
        assert rejected == {"reason": reasons.NODE_SELECTOR_MISMATCH, "count": 2, "nodes": ["worker-1", "worker-2"]}
    finally:
        lab.kubectl("label", "node", "worker-2", "worker-3", "test/disk-", "test/zone-")
