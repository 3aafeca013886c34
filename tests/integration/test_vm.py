"""A VM on the real thing: created, booted, and after a power cut of its host started again by the gate alone."""

import json

import pytest
from lab_vm import Vm, create_vm, vm_manifest
from watcher import Watcher, qemu_processes

from kubeferry.api import reasons
from lab.guest import read_file
from lab.lab import Lab
from lab.steps import LabError, NotYet, wait_until


def boot(lab: Lab, namespace: str, name: str, node: str) -> Vm:
    """A VM whose guest was heard."""
    vm = create_vm(lab, namespace, name, node)
    vm.wait(reasons.READY, "True", reasons.RUNNING)
    vm.wait_console(node, f"GUEST boot=1 marker={node}")
    return vm


def test_a_vm_boots_from_a_copy_of_its_image_and_its_status_tells_so(lab: Lab, namespace: str) -> None:
    image = lab.hosts["worker-1"].root / "images" / "guest.img"
    before = image.read_bytes()
    vm = boot(lab, namespace, "boots", "worker-1")
    assert image.read_bytes() == before
    assert (vm.directory("worker-1") / "root.raw").stat().st_size == 64 << 20
    status = vm.status()
    assert (status["printableStatus"], status["ready"], status["nodeName"]) == ("Running", True, "worker-1")
    assert status["domainUUID"] == vm.uid
    assert status["machineType"].startswith("pc-q35-")
    (volume,) = status["volumes"]
    assert (volume["name"], volume["capacity"]) == ("root", 64 << 20)
    assert 0 < volume["allocated"] <= 64 << 20
    assert [vm.condition(kind)[0] for kind in (reasons.SCHEDULED, reasons.VOLUMES_READY, reasons.READY, reasons.NEEDS_ATTENTION)] == [
        "True",
        "True",
        "True",
        "False",
    ]
    assert "web" not in lab.kubectl("get", "hosttasks", "-o", "name").stdout
    assert len(qemu_processes(vm.uid)) == 1


def test_kubectl_shows_what_an_operator_looks_for(lab: Lab, namespace: str) -> None:
    boot(lab, namespace, "shown", "worker-2")
    heads = {
        "fvm": ["NAME", "STATUS", "NODE", "CPU", "MEMORY", "MIGRATION", "AGE"],
        "placements": ["NAME", "NAMESPACE", "VM", "NODE", "EPOCH", "LOCK", "AGE"],
        "computenodes": ["NAME", "READY", "HYPERVISOR", "VERSION", "CPUS", "MEMORY", "FREE", "AGE"],
    }
    for kind, head in heads.items():
        where = ["-n", namespace] if kind == "fvm" else []
        assert lab.kubectl("get", kind, *where).stdout.splitlines()[0].split() == head
    row = lab.kubectl("get", "fvm", "shown", "-n", namespace, "--no-headers").stdout.split()
    assert row[:5] == ["shown", "Running", "worker-2", "1", "256Mi"]
    lab.kubectl("wait", "fvm/shown", "-n", namespace, "--for=condition=Ready", "--timeout=10s")
    found = lab.kubectl("get", "fvm", "-A", "--field-selector", "status.nodeName=worker-2", "-o", "name").stdout
    assert "virtualmachine.kubeferry.io/shown" in found
    lab.kubectl("wait", "computenode/worker-2", "--for=condition=Ready", "--timeout=10s")
    assert "Direct boot" in lab.kubectl("explain", "fvm.spec.template.spec.domain.firmware.kernelBoot").stdout


def test_nothing_on_the_host_could_start_the_domain_but_the_agent(lab: Lab, namespace: str) -> None:
    vm = boot(lab, namespace, "transient", "worker-1")
    host = lab.hosts["worker-1"]
    told = host.run(["/usr/bin/virsh", "-c", "qemu:///system", "dominfo", vm.uid]).stdout
    assert "Persistent:     no" in told
    refused = host.run(["/usr/bin/virsh", "-c", "qemu:///system", "autostart", vm.uid], check=False)
    assert refused.returncode != 0
    assert "transient" in refused.stderr


def test_after_a_power_cut_the_gate_starts_the_vm_again_on_its_own_disk(lab: Lab, namespace: str) -> None:
    vm = boot(lab, namespace, "cut", "worker-2")
    host = lab.hosts["worker-2"]
    with Watcher(vm.uid) as watcher:
        boot_id = json.loads(lab.kubectl("get", "computenode", "worker-2", "-o", "json").stdout)["status"]["bootId"]
        host.power_cut()
        assert qemu_processes(vm.uid) == []
        host.boot()
        lab.start_agent("worker-2")
        vm.wait_console("worker-2", "GUEST boot=2 ")
        vm.wait(reasons.READY, "True", reasons.RUNNING)
    assert watcher.samples > 50
    assert watcher.most == 1
    assert json.loads(lab.kubectl("get", "computenode", "worker-2", "-o", "json").stdout)["status"]["bootId"] != boot_id
    assert json.loads(lab.kubectl("get", "placement", vm.uid, "-o", "json").stdout)["spec"]["epoch"] == 1
    host.run(["/usr/bin/virsh", "-c", "qemu:///system", "suspend", vm.uid])  # the disk stands still while it is read
    assert read_file(vm.directory("worker-2") / "root.raw", "/boots").strip() == "2"
    host.run(["/usr/bin/virsh", "-c", "qemu:///system", "resume", vm.uid])


def test_a_host_that_comes_back_after_the_vm_was_taken_from_it_stays_silent(lab: Lab, namespace: str) -> None:
    vm = boot(lab, namespace, "taken", "worker-3")
    host = lab.hosts["worker-3"]
    host.power_cut()
    lab.kubectl("patch", "placement", vm.uid, "--type=merge", "-p", '{"spec":{"nodeName":"","hostId":""}}')
    host.boot()
    with Watcher(vm.uid) as watcher:
        lab.start_agent("worker-3")

        def refused_twice() -> None:
            log = lab.log("agent-worker-3").read_text()
            shut = [line for line in log.splitlines() if reasons.GATE_SHUT in line and vm.uid in line]
            if len(shut) < 2:
                raise NotYet(f"{len(shut)} refusals in the log")

        wait_until("two refusals of the gate", refused_twice, seconds=40, log=lab.log("agent-worker-3"))
    assert watcher.most == 0
    lab.kubectl(
        "patch",
        "placement",
        vm.uid,
        "--type=merge",
        "-p",
        json.dumps({"spec": {"nodeName": "worker-3", "hostId": _host_id(lab, "worker-3")}}),
    )
    vm.wait_console("worker-3", "GUEST boot=2 ")


def _host_id(lab: Lab, node: str) -> str:
    return str(json.loads(lab.kubectl("get", "computenode", node, "-o", "json").stdout)["status"]["hostId"])


def test_a_guest_that_powers_itself_off_is_started_again(lab: Lab, namespace: str) -> None:
    vm = boot(lab, namespace, "off", "worker-1")
    with Watcher(vm.uid) as watcher:
        lab.hosts["worker-1"].run(["/usr/bin/virsh", "-c", "qemu:///system", "shutdown", vm.uid])
        vm.wait_console("worker-1", "GUEST boot=2 ")
    assert "GUEST off" in vm.console("worker-1")
    assert watcher.most == 1


def test_an_agent_that_is_killed_leaves_the_vm_running_and_goes_on(lab: Lab, namespace: str) -> None:
    vm = boot(lab, namespace, "killed", "worker-1")
    (pid,) = qemu_processes(vm.uid)
    lab.kill_agent("worker-1")
    lab.start_agent("worker-1")
    other = create_vm(lab, namespace, "after", "worker-1")
    other.wait(reasons.READY, "True", reasons.RUNNING)
    assert qemu_processes(vm.uid) == [pid]
    assert vm.condition(reasons.READY) == ("True", reasons.RUNNING)


def test_a_controller_that_is_killed_while_a_vm_is_made_goes_on_from_what_is_stored(lab: Lab, namespace: str) -> None:
    vm = create_vm(lab, namespace, "orphan", "worker-3")

    def placed() -> None:
        if vm.uid not in lab.kubectl("get", "placements", "-o", "name").stdout:
            raise NotYet("no Placement")

    wait_until("the Placement", placed, seconds=30, log=lab.log("controller"))
    with Watcher(vm.uid) as watcher:
        lab.kill_controller()
        lab.start_controller()
        vm.wait(reasons.READY, "True", reasons.RUNNING, seconds=90)
    assert watcher.most == 1


def test_an_image_outside_of_the_allow_list_is_refused_where_an_operator_looks(lab: Lab, namespace: str) -> None:
    vm = create_vm(lab, namespace, "nosy", "worker-1", path="/etc/hostname")
    vm.wait(reasons.NEEDS_ATTENTION, "True", reasons.PATH_NOT_ALLOWED)
    assert vm.condition(reasons.VOLUMES_READY) == ("False", reasons.PATH_NOT_ALLOWED)
    assert vm.status()["printableStatus"] == "Error"
    assert not (vm.directory("worker-1") / "root.raw").exists()
    assert qemu_processes(vm.uid) == []


def test_a_node_that_is_not_there_is_told_by_name(lab: Lab, namespace: str) -> None:
    vm = create_vm(lab, namespace, "lost", "worker-9")
    vm.wait(reasons.SCHEDULED, "False", reasons.NODE_UNKNOWN)
    message = next(c["message"] for c in vm.status()["conditions"] if c["type"] == reasons.SCHEDULED)
    assert "worker-9" in message
    assert "worker-1, worker-2, worker-3" in message
    lab.kubectl("delete", "fvm", "lost", "-n", namespace, "--timeout=30s")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "runStrategy"), "Manual", "Unsupported value"),
        (("spec", "template", "spec", "domain", "memory", "guest"), "1.5Gi", "should match"),
        (("spec", "template", "spec", "domain", "memory", "guest"), 0, "greater than or equal to 1"),
        (("spec", "template", "spec", "domain", "firmware", "kernelBoot", "kernelPath"), "vmlinuz", "should match"),
        (("spec", "template", "spec", "volumes", 0, "name"), "../root", "should match"),
        (("spec", "template", "spec", "volumes", 0, "localDisk", "format"), "vmdk", "Unsupported value"),
    ],
)
def test_what_the_api_server_can_refuse_it_refuses_by_name(
    lab: Lab, namespace: str, path: tuple[str | int, ...], value: object, said: str
) -> None:
    body = vm_manifest("bad")
    at: object = body
    for key in path[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]  # type: ignore[index]
    at[path[-1]] = value  # type: ignore[index]
    with pytest.raises(LabError, match=said) as refused:
        lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))
    assert str(path[-1]) in str(refused.value)


@pytest.mark.parametrize(
    ("identity", "verb", "what", "allowed"),
    [
        ("controller", "list", "virtualmachines.kubeferry.io", True),
        ("controller", "update", "placements.kubeferry.io", True),
        ("controller", "delete", "placements.kubeferry.io", True),
        ("controller", "patch", "computenodes.kubeferry.io/status", False),
        ("controller", "list", "secrets", False),
        ("worker-1", "get", "placements.kubeferry.io", True),
        ("worker-1", "update", "placements.kubeferry.io", False),
        ("worker-1", "list", "virtualmachines.kubeferry.io", False),
        ("worker-1", "create", "hosttasks.kubeferry.io", False),
        ("worker-1", "patch", "hosttasks.kubeferry.io/status", True),
        ("worker-1", "list", "secrets", False),
    ],
)
def test_controller_and_agents_have_the_rights_of_a_cluster_and_no_more(
    lab: Lab, identity: str, verb: str, what: str, allowed: bool
) -> None:
    resource, _, part = what.partition("/")
    words = ["auth", "can-i", verb, resource, "--all-namespaces", *([f"--subresource={part}"] if part else [])]
    answer = lab.kubectl(*words, as_=identity, check=False).stdout
    assert answer.strip().splitlines()[-1].startswith("yes" if allowed else "no")
