"""What the API server itself refuses, on a real one: schemas, CEL rules and defaults, each with a message that says what to do."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from builders import placement
from lab_vm import vm_manifest
from move_life import Life

from kubeferry.api.domain import CloudInitSeed, DiskSource
from kubeferry.api.model import dump
from kubeferry.api.task import Verb
from lab.lab import Lab

EXAMPLES = Path(__file__).parents[2] / "examples"
API_VERSION = "kubeferry.io/v1alpha1"
MOVE = {"virtualMachine": {"name": "web-0"}}


def apply(api: Lab, manifest: dict[str, Any], room: str, *, verb: str = "create") -> str:
    """What kubectl says when it creates, or replaces, an object; refused or not."""
    done = api.kubectl(verb, "-n", room, "-f", "-", stdin=json.dumps(manifest), check=False)
    return done.stdout + done.stderr


def migration(name: str = "move", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Migration", "metadata": {"name": name}, "spec": MOVE | spec}


def patch(api: Lab, kind: str, name: str, room: str, body: dict[str, Any], *options: str) -> str:
    done = api.kubectl("patch", kind, name, "-n", room, "--type=merge", "-p", json.dumps(body), *options, check=False)
    return done.stdout + done.stderr


def stored(api: Lab, kind: str, name: str, room: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(api.kubectl("get", kind, name, "-n", room, "-o", "json").stdout)
    return found


def test_a_migration_of_one_line_is_taken_and_its_defaults_are_written_down(api: Lab, room: str) -> None:
    assert "created" in apply(api, migration(), room)
    reference = {"apiGroup": "kubeferry.io", "kind": "VirtualMachine", "name": "web-0"}
    assert stored(api, "fmig", "move", room)["spec"] == {"virtualMachine": reference, "strategy": "Cold"}


MIGRATIONS: list[Any] = [
    pytest.param({"virtualMachine": {}}, "spec.virtualMachine.name: Required value", id="no-vm"),
    pytest.param({"virtualMachine": {"name": "a", "kind": "Pod"}}, 'spec.virtualMachine.kind: Unsupported value: "Pod"', id="kind"),
    pytest.param({"strategy": "Live"}, 'spec.strategy: Unsupported value: "Live": supported values: "Cold"', id="strategy"),
    pytest.param({"decision": "Maybe"}, 'supported values: "Confirm", "Revert"', id="decision"),
    pytest.param({"decisionTimeoutSeconds": 60}, "one says when, the other what", id="timeout-alone"),
    pytest.param({"onDecisionTimeout": "Confirm"}, "one says when, the other what", id="on-timeout-alone"),
    pytest.param({"decisionTimeoutSeconds": 0, "onDecisionTimeout": "Confirm"}, "greater than or equal to 1", id="timeout-0"),
    pytest.param({"startDeadlineSeconds": 0}, "greater than or equal to 1", id="deadline-0"),
    pytest.param({"shutdownTimeoutSeconds": 3601}, "less than or equal to 3600", id="shutdown"),
    pytest.param({"targetNode": ""}, "targetNode in body should be at least 1 chars long", id="target-empty"),
    pytest.param({"targetNode": "n" * 254}, "Too long", id="target-long"),
    pytest.param({"bandwidthLimit": "63Ki"}, "bandwidthLimit is bytes a second, at least 64Ki", id="bandwidth-low"),
    pytest.param({"bandwidthLimit": 65535}, "bandwidthLimit is bytes a second, at least 64Ki", id="bandwidth-number"),
    pytest.param({"bandwidthLimit": "fast"}, "spec.bandwidthLimit", id="bandwidth"),
    pytest.param({"addedNodeSelector": {"a b": "c"}}, "addedNodeSelector has a key that no label can have", id="selector-key"),
    pytest.param({"addedNodeSelector": {"a": "b c"}}, "addedNodeSelector.a in body should match", id="selector-value"),
    pytest.param({"ttlSecondsAfterFinished": 1}, 'unknown field "spec.ttlSecondsAfterFinished"', id="not-yet"),
]


@pytest.mark.parametrize(("spec", "says"), MIGRATIONS)
def test_a_migration_that_can_never_be_right_is_refused_with_what_to_do(api: Lab, room: str, spec: dict[str, Any], says: str) -> None:
    assert says in apply(api, migration(**spec), room)


@pytest.mark.parametrize("field", ["sourceNode", "targetNode"])
def test_where_a_migration_comes_from_and_goes_to_is_neither_set_changed_nor_removed(api: Lab, room: str, field: str) -> None:
    apply(api, migration("with", **{field: "worker-1"}), room)
    apply(api, migration("without"), room)
    refused = f"{field} is immutable: it can be neither set, changed nor removed after creation"
    assert refused in patch(api, "fmig", "with", room, {"spec": {field: "worker-2"}})
    assert refused in patch(api, "fmig", "with", room, {"spec": {field: None}})
    assert refused in patch(api, "fmig", "without", room, {"spec": {field: "worker-2"}})
    assert "virtualMachine is immutable" in patch(api, "fmig", "with", room, {"spec": {"virtualMachine": {"name": "web-1"}}})
    apply(api, migration("selecting", addedNodeSelector={"disk": "ssd"}), room)
    for change in ({"disk": "hdd"}, {"zone": "b"}, None):
        assert "addedNodeSelector is immutable" in patch(api, "fmig", "selecting", room, {"spec": {"addedNodeSelector": change}})
    assert "addedNodeSelector is immutable" in patch(api, "fmig", "without", room, {"spec": {"addedNodeSelector": {"disk": "ssd"}}})
    may_change = {"startDeadlineSeconds": 60, "shutdownTimeoutSeconds": 5, "bandwidthLimit": "200Mi"}
    assert "patched" in patch(api, "fmig", "with", room, {"spec": may_change})
    assert "patched" in patch(api, "fmig", "with", room, {"spec": {"bandwidthLimit": 65536}})


def decided(value: str) -> dict[str, Any]:
    return {"status": {"phase": "Confirming", "decision": {"value": value, "source": "User", "time": "2026-01-01T00:00:00Z"}}}


def test_a_decision_may_change_until_it_is_durable_and_then_only_be_stripped(api: Lab, room: str) -> None:
    apply(api, migration(), room)
    for value in ("Confirm", "Revert"):
        assert "patched" in patch(api, "fmig", "move", room, {"spec": {"decision": value}})
    # The wish was Revert when the Confirm became durable: the controller's own write passes all the same.
    assert "patched" in patch(api, "fmig", "move", room, decided("Confirm"), "--subresource=status")
    assert "patched" in patch(api, "fmig", "move", room, {"metadata": {"labels": {"a": "b"}}})
    assert "patched" in patch(api, "fmig", "move", room, {"spec": {"decision": None}})
    refused = "the decision was taken: Confirm is final"
    assert refused in patch(api, "fmig", "move", room, {"spec": {"decision": "Revert"}})
    assert "patched" in patch(api, "fmig", "move", room, {"spec": {"decision": "Confirm"}})
    assert refused in patch(api, "fmig", "move", room, {"spec": {"decision": "Revert"}})
    final = "status.decision is final"
    assert final in patch(api, "fmig", "move", room, decided("Revert"), "--subresource=status")
    assert final in patch(api, "fmig", "move", room, {"status": {"decision": None}}, "--subresource=status")
    assert "patched" in patch(api, "fmig", "move", room, {"status": {"phase": "Confirmed"}}, "--subresource=status")


def test_conditions_are_a_map_by_their_type(api: Lab, room: str) -> None:
    apply(api, migration(), room)
    told = {"type": "Finished", "status": "True", "reason": "Done", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    twice = {"status": {"phase": "Failed", "conditions": [told, told]}}
    assert "Duplicate value" in patch(api, "fmig", "move", room, twice, "--subresource=status")
    assert 'Unsupported value: "Maybe"' in patch(
        api, "fmig", "move", room, {"status": {"phase": "Failed", "conditions": [told | {"status": "Maybe"}]}}, "--subresource=status"
    )


def vm(**changes: Any) -> dict[str, Any]:
    manifest = vm_manifest("web-0")
    manifest["spec"]["template"]["spec"] |= changes
    return manifest


def volume(name: str, node: str = "worker-1", **disk: Any) -> dict[str, Any]:
    source = {"hostPath": {"node": node, "path": "/var/lib/kubeferry/images/guest.img"}}
    return {"name": name, "localDisk": {"capacity": "64Mi", "format": "raw", "source": source} | disk}


def seed(user_data: str = "#cloud-config", name: str = "root", **more: str) -> dict[str, Any]:
    return {"name": name, "cloudInitNoCloud": {"userData": user_data} | more}


ONE_SOURCE = "a localDisk has exactly one source: hostPath or blank"
ONE_KIND = "a volume is exactly one of localDisk and cloudInitNoCloud"
IMAGE = {"node": "worker-1", "path": "/var/lib/kubeferry/images/guest.img"}
SEED = {"cloudInitNoCloud": {"userData": ""}}
VMS: list[Any] = [
    pytest.param([volume("data")], "domain.devices.disks and volumes must name each other", id="other-name"),
    pytest.param([volume("root"), volume("data")], "domain.devices.disks and volumes must name each other", id="one-too-many"),
    pytest.param([volume("root"), volume("root")], "Duplicate value", id="twice"),
    pytest.param([volume("root", source={})], ONE_SOURCE, id="no-source"),
    pytest.param([volume("root", source={"blank": {}, "hostPath": IMAGE})], ONE_SOURCE, id="two-sources"),
    pytest.param([{"name": "root"}], ONE_KIND, id="no-kind"),
    pytest.param([volume("root") | SEED], ONE_KIND, id="two-kinds"),
    pytest.param([{"name": "root", "cloudInitNoCloud": {}}], "cloudInitNoCloud.userData: Required value", id="no-user-data"),
    pytest.param([seed("u" * 65537)], "userData: Too long: may not be more than 65536", id="user-data"),
    pytest.param([seed("", networkData="n" * 16385)], "networkData: Too long: may not be more than 16384", id="network-data"),
    pytest.param([volume("root", capacity="0")], "capacity in body should match", id="no-capacity"),
    pytest.param([volume("root", capacity="100M")], "capacity must be a multiple of 512 bytes", id="no-sectors"),
    pytest.param([volume("root", capacity=513)], "capacity must be a multiple of 512 bytes", id="no-sectors-either"),
    pytest.param([volume("root", capacity="lots")], "capacity in body should match", id="no-quantity"),
    pytest.param([volume("root", format="vmdk")], 'Unsupported value: "vmdk"', id="not-yet"),
    pytest.param([volume("../root")], "name in body should match", id="path"),
    pytest.param([], "should have at least 1 items", id="none"),
]


@pytest.mark.parametrize(("volumes", "says"), VMS)
def test_a_vm_whose_disks_can_never_be_made_is_refused(api: Lab, room: str, volumes: list[dict[str, Any]], says: str) -> None:
    assert says in apply(api, vm(volumes=volumes), room)


def test_a_vms_sources_lie_on_one_node(api: Lab, room: str) -> None:
    manifest = vm(volumes=[volume("root"), volume("data", node="worker-2")])
    manifest["spec"]["template"]["spec"]["domain"]["devices"]["disks"] = [{"name": "root"}, {"name": "data"}]
    assert "name several nodes: all must lie on one" in apply(api, manifest, room)
    manifest["spec"]["template"]["spec"]["volumes"][1]["localDisk"]["source"]["hostPath"]["node"] = "worker-1"
    assert "created" in apply(api, manifest, room)


def disks(manifest: dict[str, Any], *devices: dict[str, Any]) -> dict[str, Any]:
    manifest["spec"]["template"]["spec"]["domain"]["devices"]["disks"] = list(devices)
    return manifest


def test_a_vm_that_its_bios_boots_has_blank_disks_and_one_seed_of_any_length_that_is_stored(api: Lab, room: str) -> None:
    longest = seed("\U0001f680" * 65536, "seed", networkData="n" * 16384)
    manifest = vm(volumes=[volume("root", capacity="1G"), volume("data", source={"blank": {}}, capacity=512), longest])
    disks(manifest, {"name": "root", "bootOrder": 1}, {"name": "data"}, {"name": "seed"})
    del manifest["spec"]["template"]["spec"]["domain"]["firmware"]
    assert "created" in apply(api, manifest, room)
    assert stored(api, "fvm", "web-0", room)["spec"]["template"]["spec"]["volumes"] == manifest["spec"]["template"]["spec"]["volumes"]
    longest["cloudInitNoCloud"]["userData"] = ""
    assert "volumes is immutable" in apply(api, manifest, room, verb="replace")


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("vm*.yaml")), ids=lambda path: path.name)
def test_an_example_is_taken(api: Lab, example: Path) -> None:
    assert "created" in api.kubectl("create", "--dry-run=server", "-f", str(example)).stdout


def test_cloud_init_has_one_seed_and_each_disk_its_own_place_in_the_boot_order(api: Lab, room: str) -> None:
    twice = disks(vm(volumes=[seed(name="one"), seed(name="two")]), {"name": "one"}, {"name": "two"})
    assert "several volumes are cloudInitNoCloud: cloud-init reads one alone" in apply(api, twice, room)
    both = disks(vm(volumes=[volume("root"), volume("data")]), {"name": "root", "bootOrder": 2}, {"name": "data", "bootOrder": 2})
    assert "several disks have the same bootOrder: give each a place of its own" in apply(api, both, room)


def test_what_a_vm_is_made_of_is_not_changed_and_what_is_honoured_can_be(api: Lab, room: str) -> None:
    apply(api, vm(), room)
    for field, change in {"machine": {"type": "pc"}, "devices": {"disks": [{"name": "root", "bootOrder": 2}]}}.items():
        said = patch(api, "fvm", "web-0", room, {"spec": {"template": {"spec": {"domain": {field: change}}}}})
        assert f"{field} is immutable" in said
    for change in ({"memory": {"guest": "1Gi"}}, {"cpu": {"cores": 3}}):
        assert "patched" in patch(api, "fvm", "web-0", room, {"spec": {"template": {"spec": {"domain": change}}}})
    bigger = vm(volumes=[volume("root", capacity="128Mi")])
    assert "volumes is immutable" in apply(api, bigger, room, verb="replace")
    assert "patched" in patch(api, "fvm", "web-0", room, {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 5}}}})


def test_a_resize_names_what_is_to_change_and_stays_as_it_was_created(api: Lab, room: str) -> None:
    assert "resize names neither cpu nor memory" in apply(api, migration(resize={}), room)
    assert "created" in apply(api, migration(resize={"cpu": {"cores": 2}}), room)
    assert "resize is immutable" in patch(api, "fmig", "move", room, {"spec": {"resize": {"cpu": {"cores": 3}}}})
    assert "resize is immutable" in patch(api, "fmig", "move", room, {"spec": {"resize": None}})


BRIDGE = {"bridge": {"name": "br0"}}
NETWORKS: list[Any] = [
    pytest.param([{"name": "a"}], [], "interfaces and networks must name each other", id="no-network"),
    pytest.param([], [{"name": "a"} | BRIDGE], "interfaces and networks must name each other", id="no-interface"),
    pytest.param([{"name": "a"}], [{"name": "b"} | BRIDGE], "interfaces and networks must name each other", id="other-name"),
    pytest.param([{"name": "a"}, {"name": "a"}], [{"name": "a"} | BRIDGE], "Duplicate value", id="twice"),
    pytest.param([{"name": "a"}], [{"name": "a"}], "a network is exactly one of bridge, libvirt and user", id="no-source"),
    pytest.param([{"name": "a"}], [{"name": "a", "user": {}} | BRIDGE], "a network is exactly one of bridge, libvirt", id="two-sources"),
    pytest.param([{"name": "a"}], [{"name": "a", "bridge": {"name": "b" * 16}}], "Too long: may not be more than 15", id="bridge-long"),
    pytest.param([{"name": "a"}], [{"name": "a", "bridge": {"name": "../br0"}}], "bridge.name in body should match", id="bridge-path"),
    pytest.param([{"name": "a", "model": "e1000"}], [{"name": "a"} | BRIDGE], 'supported values: "virtio"', id="model"),
    pytest.param([{"name": "a", "macAddress": "02:00"}], [{"name": "a"} | BRIDGE], "macAddress in body should match", id="mac-short"),
    pytest.param(
        [{"name": "a", "macAddress": "03:00:00:00:00:01"}], [{"name": "a"} | BRIDGE], "macAddress is no address of one card", id="multicast"
    ),
    pytest.param(
        [{"name": "a", "macAddress": "00:00:00:00:00:00"}], [{"name": "a"} | BRIDGE], "macAddress is no address of one card", id="zeros"
    ),
    pytest.param(
        [{"name": name, "macAddress": "02:00:00:00:00:01"} for name in "ab"],
        [{"name": name} | BRIDGE for name in "ab"],
        "two interfaces have the same macAddress",
        id="mac-twice",
    ),
    pytest.param([{"name": f"n{i}"} for i in range(9)], [{"name": f"n{i}"} | BRIDGE for i in range(9)], "at most 8 items", id="nine"),
]


def plugged(interfaces: list[dict[str, Any]], networks: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = vm(networks=networks)
    manifest["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = interfaces
    return manifest


@pytest.mark.parametrize(("interfaces", "networks", "says"), NETWORKS)
def test_a_vm_that_can_never_be_plugged_in_is_refused(
    api: Lab, room: str, interfaces: list[dict[str, Any]], networks: list[dict[str, Any]], says: str
) -> None:
    assert says in apply(api, plugged(interfaces, networks), room)


def test_a_vms_networks_are_taken_as_written_and_are_not_changed_and_its_node_selector_can_be(api: Lab, room: str) -> None:
    interfaces = [{"name": "a", "macAddress": "02:00:00:00:00:01"}, {"name": "b"}, {"name": "c"}]
    networks = [{"name": "c", "user": {}}, {"name": "a"} | BRIDGE, {"name": "b", "libvirt": {"name": "default"}}]
    assert "created" in apply(api, plugged(interfaces, networks), room)
    taken = stored(api, "fvm", "web-0", room)["spec"]["template"]["spec"]
    assert taken["networks"] == networks
    assert taken["domain"]["devices"]["interfaces"] == [each | {"model": "virtio"} for each in interfaces]
    other = [networks[0], {"name": "a", "bridge": {"name": "br1"}}, networks[2]]
    assert "networks is immutable" in apply(api, plugged(interfaces, other), room, verb="replace")
    assert "devices is immutable" in apply(api, plugged([{"name": name} for name in "abc"], networks), room, verb="replace")
    for selector in ({"disk": "ssd", "example.com/zone": ""}, {"disk": "hdd"}, None):
        assert "patched" in patch(api, "fvm", "web-0", room, {"spec": {"template": {"spec": {"nodeSelector": selector}}}})
    wrong = {"spec": {"template": {"spec": {"nodeSelector": {"a b": "c"}}}}}
    assert "nodeSelector has a key that no label can have" in patch(api, "fvm", "web-0", room, wrong)


def task(name: str = "t-1", **spec: Any) -> dict[str, Any]:
    base = {"node": "worker-1", "hostId": "h", "verb": "Seal", "epoch": 1, "epochId": "e", "seq": 1, "placement": {"name": "u", "uid": "p"}}
    return {"apiVersion": API_VERSION, "kind": "HostTask", "metadata": {"name": name}, "spec": base | spec}


def test_a_task_has_the_block_of_its_verb_and_no_other_and_never_changes(api: Lab, room: str) -> None:
    seal, stop = {"seal": {"shutdownTimeoutSeconds": 1}}, {"stop": {"shutdownTimeoutSeconds": 1}}
    refused = "exactly one block of parameters must be set, the one that bears the verb's name"
    for blocks in ({}, stop, seal | stop):
        assert refused in apply(api, task(**blocks), room)
    assert "created" in apply(api, task(**seal), room)
    for change in ({"epoch": 2}, {"node": "worker-2"}, {"seal": {"shutdownTimeoutSeconds": 2}}, {"epochId": "f"}, {"seal": None} | stop):
        assert f"{next(iter(change))} is immutable" in patch(api, "ht", "t-1", room, {"spec": change})
    assert "patched" in patch(api, "ht", "t-1", room, {"status": {"phase": "Running"}}, "--subresource=status")


def test_of_a_copy_that_is_asked_only_its_speed_changes(api: Lab, room: str) -> None:
    asked = task("t-copy", verb="Copy", copy={"target": "worker-2", "targetHostId": "h2"})
    assert "created" in apply(api, asked, room)
    for limit in (1 << 20, "2Mi", None):
        assert "patched" in patch(api, "ht", "t-copy", room, {"spec": {"copy": {"bandwidthLimit": limit}}})
    for change in ({"target": "worker-3"}, {"targetHostId": "h3"}):
        assert f"{next(iter(change))} is immutable" in patch(api, "ht", "t-copy", room, {"spec": {"copy": change}})
    moved = {"verb": "Seal", "copy": None, "seal": {"shutdownTimeoutSeconds": 1}}
    assert "copy is immutable" in patch(api, "ht", "t-copy", room, {"spec": moved})


def test_a_placement_bears_its_vms_uid_and_its_epoch_never_falls(api: Lab, room: str) -> None:
    spec = dump(placement().spec) | {"epoch": 3, "lineage": ["e3", "e2", "e1"]}
    body = {"apiVersion": API_VERSION, "kind": "Placement", "metadata": {"name": spec["virtualMachine"]["uid"]}, "spec": spec}
    other = copy.deepcopy(body)
    other["metadata"]["name"] = "another"
    assert "a Placement bears the uid of its VM as its name" in apply(api, other, room)
    assert "created" in apply(api, body, room)
    name = body["metadata"]["name"]
    assert "epoch never falls" in patch(api, "fpl", name, room, {"spec": {"epoch": 2}})
    assert "virtualMachine is immutable" in patch(api, "fpl", name, room, {"spec": {"virtualMachine": {"name": "other"}}})
    assert "patched" in patch(api, "fpl", name, room, {"spec": {"epoch": 4}})
    api.kubectl("delete", "fpl", name)


def test_a_placement_has_room_for_the_longest_seed_while_its_vm_moves(api: Lab, room: str) -> None:
    life = Life().go_on_to(Verb.COPY)
    words = CloudInitSeed(local_hostname="web-0", user_data="<" * 65536, network_data="<" * 16384)
    disk = dataclasses.replace(life.spec.domain.disks[0], name="seed", source=DiskSource(cloud_init_no_cloud=words))
    spec = dump(life.spec) | {"domain": dump(dataclasses.replace(life.spec.domain, disks=(disk,)))}
    spec["move"]["domain"] = spec["domain"]
    name = spec["virtualMachine"]["uid"]
    body = {"apiVersion": API_VERSION, "kind": "Placement", "metadata": {"name": name}, "spec": spec}
    assert "created" in apply(api, body, room)
    api.kubectl("delete", "fpl", name)


def test_kubectl_explains_what_it_is_asked(api: Lab) -> None:
    assert "Confirm: keep the VM at the target" in api.kubectl("explain", "migration.spec.decision").stdout
    assert "onDecisionTimeout is done" in api.kubectl("explain", "fmig.spec.decisionTimeoutSeconds").stdout.replace("\n    ", " ")
    assert "kubeferry" in api.kubectl("api-resources", "--categories=kubeferry", "-o", "name").stdout


def test_every_kind_has_its_category_and_short_name(api: Lab) -> None:
    shown = api.kubectl("api-resources", "--categories=kubeferry", "--no-headers").stdout.splitlines()
    assert {line.split()[1] for line in shown} == {"fvm", "fmig", "fpl", "ht", "cn"}
