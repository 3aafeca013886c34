"""A VM's life on the real thing: halted and started, moved while it is halted, deleted at any time."""

import json
from typing import Any

import pytest
from lab_vm import VIRSH, Migration, Vm, boot_vm, create_vm, migrate, vm_manifest

from kubeferry.api import reasons
from lab.guest import read_file
from lab.lab import Lab
from lab.steps import NotYet, wait_until


def halted(lab: Lab, namespace: str, name: str) -> Vm:
    """A VM that ran on worker-1, and is stopped."""
    vm = boot_vm(lab, namespace, name, "worker-1")
    vm.want("Halted")
    vm.wait_status("Stopped")
    return vm


def test_a_vm_that_is_halted_shuts_down_stays_off_and_runs_again(lab: Lab, namespace: str) -> None:
    vm = halted(lab, namespace, "halted")
    assert vm.processes() == {}
    assert vm.condition(reasons.READY) == ("False", reasons.HALTED)
    assert "GUEST power button" in vm.console("worker-1"), "it was asked, and not cut off"
    host = lab.hosts["worker-1"]
    host.power_cut()
    host.boot()
    lab.start_agent("worker-1")

    def refused() -> None:
        if not any(reasons.HALTED in line and vm.uid in line for line in lab.log("agent-worker-1").read_text().splitlines()):
            raise NotYet("its gate was not asked")

    wait_until("the agent to ask the gate after the boot", refused, seconds=40, log=lab.log("agent-worker-1"))
    assert vm.processes() == {}
    vm.want("Always")
    vm.wait_console("worker-1", "GUEST boot=2 marker=worker-1")
    vm.wait_status("Running")


def test_a_vm_that_is_made_halted_has_its_disks_and_starts_when_it_is_wanted(lab: Lab, namespace: str) -> None:
    vm = create_vm(lab, namespace, "later", run_strategy="Halted")
    vm.wait_status("Stopped")
    assert vm.condition(reasons.VOLUMES_READY) == ("True", reasons.CREATED)
    assert vm.console("worker-1") == ""
    vm.want("Always")
    vm.wait_console("worker-1", "GUEST boot=1 marker=worker-1")


def test_a_halted_vm_moves_and_runs_only_when_it_is_wanted(lab: Lab, namespace: str) -> None:
    vm = halted(lab, namespace, "cold")
    move = migrate(vm, targetNode="worker-2")
    assert move.target() == "worker-2"
    assert "downtime" not in move.status()
    assert vm.processes() == {}
    move.decide("Confirm")
    assert move.end() == ("Confirmed", "True", reasons.CONFIRMED)
    vm.wait_one_copy("worker-2")
    assert not vm.directory("worker-1").exists()
    assert vm.console("worker-2") == ""
    vm.want("Always")
    vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")


def test_a_halted_vm_goes_back_and_is_as_it_was(lab: Lab, namespace: str) -> None:
    vm = halted(lab, namespace, "back")
    move = migrate(vm)
    target = move.target()
    move.decide("Revert")
    assert move.end()[0] == "Reverted"
    vm.wait_one_copy("worker-1")
    vm.wait_status("Stopped")
    assert not vm.directory(target).exists()
    assert read_file(vm.disk("worker-1"), "/boots").strip() == "1"
    vm.want("Always")
    vm.wait_console("worker-1", "GUEST boot=2 marker=worker-1")


def test_a_vm_that_is_halted_at_its_target_is_stopped_there(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "there", "worker-1")
    move = migrate(vm)
    target = move.target()
    vm.wait_console(target, "GUEST boot=2 ")
    vm.want("Halted")
    vm.wait_status("Stopped")
    assert vm.processes() == {}
    move.decide("Confirm")
    assert move.end()[0] == "Confirmed"
    vm.wait_one_copy(target)
    vm.wait_status("Stopped")


def delete(vm: Vm) -> None:
    """As a user does; it returns when the VM is gone."""
    vm.kubectl("delete", "--timeout=90s")


def nothing_is_left(vm: Vm, *nodes: str) -> None:
    """But what lies in the trash of these nodes."""
    lab = vm.lab
    assert vm.processes() == {}
    for node in lab.hosts:
        assert not vm.directory(node).exists()
        assert not vm.is_known(node)
    assert [node for node in lab.hosts if any((lab.hosts[node].root / "instances" / ".trash").glob(f"{vm.uid}-*"))] == sorted(nodes)

    def gone() -> None:
        left = lab.kubectl("get", "placements,hosttasks", "-o", "name").stdout
        specs = lab.kubectl("get", "hosttasks", "-o", "json").stdout
        if vm.uid in left or vm.uid in specs:
            raise NotYet(left)

    wait_until(f"the Placement and the HostTasks of {vm.name} to be gone", gone, seconds=60, log=lab.log("controller"))


def test_a_vm_that_is_deleted_is_stopped_and_its_disk_goes_to_the_trash(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "deleted", "worker-2")
    uid = vm.uid
    delete(vm)
    nothing_is_left(vm, "worker-2")
    assert read_file(vm.trash("worker-2") / "root.raw", "/marker").strip() == "worker-2"
    told = lab.kubectl("get", "events", "-n", namespace, "-o", "json").stdout
    assert any(e["reason"] == reasons.DELETED and e["involvedObject"]["uid"] == uid for e in json.loads(told)["items"])


@pytest.mark.parametrize("when", ["copying", "awaiting"])
def test_a_vm_that_is_deleted_in_a_migration_ends_it(when: str, lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, f"deleted-{when}", "worker-1")
    move = migrate(vm, targetNode="worker-3", **({"bandwidthLimit": "1Mi"} if when == "copying" else {}))
    if when == "copying":
        move.in_mid_copy()
    else:
        assert move.target() == "worker-3"
    assert vm.uid
    delete(vm)
    assert Migration(lab, namespace, move.name).end() == ("Failed", "False", reasons.VM_DELETED)
    nothing_is_left(vm, "worker-1", "worker-3")
    assert read_file(vm.trash("worker-1") / "root.raw", "/marker").strip() == "worker-1"


def test_a_vm_that_was_deleted_can_be_made_anew_by_its_name(lab: Lab, namespace: str) -> None:
    first = boot_vm(lab, namespace, "again", "worker-3")
    old = first.uid
    delete(first)
    second = boot_vm(lab, namespace, "again", "worker-3")
    assert second.uid != old


def test_a_vm_that_names_no_node_is_made_where_the_pass_sends_it(lab: Lab, namespace: str) -> None:
    lab.kubectl("label", "node", "worker-3", "test/place=here")
    try:
        manifest = vm_manifest("anywhere")
        spec = manifest["spec"]["template"]["spec"]
        spec["nodeSelector"] = {"test/place": "here"}
        spec["volumes"][0]["localDisk"]["source"] = {"blank": {}}
        manifest["spec"]["runStrategy"] = "Halted"  # there is nothing on its disk
        lab.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
        vm = Vm(lab, namespace, "anywhere")
        vm.wait_status("Stopped")
        assert vm.status()["nodeName"] == "worker-3"
        assert vm.disk("worker-3").stat().st_size == 64 << 20
    finally:
        lab.kubectl("label", "node", "worker-3", "test/place-")


def has(vm: Vm, node: str) -> tuple[int, int]:
    """CPUs and MiB of memory of the domain that runs there."""
    told = vm.lab.hosts[node].run([*VIRSH, "dominfo", vm.uid]).stdout
    found = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    return int(found["CPU(s)"]), int(found["Max memory"].split()[0]) >> 10


def asks(vm: Vm) -> tuple[int, str]:
    """What its spec says."""
    domain = vm.body()["spec"]["template"]["spec"]["domain"]
    return domain["cpu"]["cores"], domain["memory"]["guest"]


BIGGER = {"cpu": {"cores": 2}, "memory": {"guest": "320Mi"}}


def test_a_resize_runs_at_the_target_and_its_confirm_is_told_to_the_spec(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "bigger", "worker-1")
    assert (has(vm, "worker-1"), asks(vm)) == ((1, 256), (1, "256Mi"))
    move = migrate(vm, resize=BIGGER)
    target = move.target()
    vm.wait_console(target, "GUEST boot=2 ")
    assert (has(vm, target), asks(vm)) == ((2, 320), (1, "256Mi"))
    move.decide("Confirm")
    assert move.end()[0] == "Confirmed"
    vm.wait_one_copy(target)

    def told() -> None:
        if (seen := asks(vm)) != (2, "320Mi") or "specPending" in vm.placement():
            raise NotYet(f"the spec says {seen}")

    wait_until("the spec to say what was confirmed", told, seconds=30, log=lab.log("controller"))
    vm.wait(reasons.SPEC_IN_SYNC, "True", reasons.AS_EXPECTED)
    assert vm.condition(reasons.RESTART_REQUIRED)[0] == "False"


def test_a_resize_that_is_reverted_was_never_there(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "not-bigger", "worker-1")
    move = migrate(vm, resize=BIGGER)
    target = move.target()
    assert has(vm, target) == (2, 320)
    move.decide("Revert")
    assert move.end()[0] == "Reverted"
    vm.wait_one_copy("worker-1")
    vm.wait_console("worker-1", "GUEST boot=2 ")
    assert (has(vm, "worker-1"), asks(vm)) == ((1, 256), (1, "256Mi"))


def test_what_somebody_has_changed_during_a_resize_is_not_written_over(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "changed", "worker-1")
    move = migrate(vm, resize=BIGGER)
    move.target()
    change(vm, {"cpu": {"cores": 3}})
    move.decide("Confirm")
    assert move.end()[0] == "Confirmed"
    vm.wait(reasons.SPEC_IN_SYNC, "False", reasons.CHANGED_MEANWHILE)
    assert asks(vm) == (3, "320Mi")
    change(vm, BIGGER)
    vm.wait(reasons.SPEC_IN_SYNC, "True", reasons.AS_EXPECTED)


def test_other_resources_come_with_the_next_start(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "restarted", "worker-2")
    change(vm, BIGGER)
    vm.wait(reasons.RESTART_REQUIRED, "True", reasons.SPEC_CHANGED)
    assert has(vm, "worker-2") == (1, 256)
    vm.want("Halted")
    vm.wait_status("Stopped")
    vm.want("Always")
    vm.wait_console("worker-2", "GUEST boot=2 ")
    assert has(vm, "worker-2") == (2, 320)
    vm.wait(reasons.RESTART_REQUIRED, "False", reasons.AS_EXPECTED)


def change(vm: Vm, domain: dict[str, Any]) -> None:
    """Its owner writes to its spec."""
    vm.kubectl("patch", "--type=merge", "-p", json.dumps({"spec": {"template": {"spec": {"domain": domain}}}}))


def test_a_namespace_that_is_deleted_takes_its_vms_along(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "with-all", "worker-1")
    target = migrate(vm).target()
    assert vm.uid
    lab.kubectl("delete", "namespace", namespace, "--timeout=120s")
    nothing_is_left(vm, "worker-1", target)


def test_a_second_migration_waits_for_its_turn(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "twice", "worker-1")
    first, second = migrate(vm, "first", targetNode="worker-2"), migrate(vm, "second", targetNode="worker-3")
    assert first.target() == "worker-2"
    second.wait(reasons.SCHEDULED, "False", reasons.BLOCKED_BY_MIGRATION)
    assert "first" in second.told(reasons.SCHEDULED)["message"]
    first.decide("Confirm")
    assert first.end()[0] == "Confirmed"
    assert second.target() == "worker-3"
    second.decide("Revert")
    assert second.end()[0] == "Reverted"
    vm.wait_one_copy("worker-2")
    vm.wait_console("worker-2", "GUEST boot=3 marker=worker-1")


def test_a_libvirtd_that_is_away_is_told_and_its_vm_runs_on(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "without-libvirt", "worker-3")
    host, before = lab.hosts["worker-3"], vm.processes()
    host.run(["/bin/sh", "-c", "kill -KILL $(cat /run/libvirtd.pid)"])
    vm.wait(reasons.READY, "Unknown", reasons.HYPERVISOR_UNREACHABLE)
    assert vm.status()["printableStatus"] == "Unknown"
    host.run(["/usr/sbin/libvirtd", "-d"])
    vm.wait(reasons.READY, "True", reasons.RUNNING)
    assert vm.processes() == before
    vm.want("Halted")
    vm.wait_status("Stopped")
    assert vm.processes() == {}
