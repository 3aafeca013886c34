"""Migrations that are disturbed on the real thing: whatever is killed, the VM ends where status says, once, with its data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_vm import Migration, Vm, boot_vm, migrate
from watcher import Watcher

from kubeferry.api import reasons
from lab.guest import wait_heartbeats
from lab.lab import Lab
from lab.product import CPU_RATIO
from lab.steps import NotYet, run, wait_until

SLOW = "16mbit"
"""The copy of a VM, some 16 MB, takes eight seconds."""


def steps(vm: Vm, verb: str) -> list[dict[str, Any]]:
    """The steps of that verb in the ledger of a VM's Placement."""
    return [step for step in vm.placement().get("steps", []) if step["verb"] == verb]


def is_back(vm: Vm, node: str, before: list[str]) -> None:
    """The VM runs on its source again, from its own disk, and nowhere else."""
    vm.wait_console(node, "GUEST boot=2 ")
    wait_heartbeats(vm.disk(node), before)
    assert list(vm.processes()) == [node]
    vm.wait_one_copy(node)
    assert [name for name in vm.lab.hosts if vm.directory(name).exists()] == [node]


def test_a_copy_goes_on_while_the_controller_is_dead(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "orphan", "worker-1")
    with Watcher(vm.uid) as watcher, lab.hosts["worker-2"].slow(SLOW):
        migration = migrate(vm, targetNode="worker-2")
        migration.in_mid_copy()
        (asked,) = steps(vm, "Copy")
        lab.kill_controller()
        lab.start_controller()
        assert migration.target() == "worker-2"
        vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")
    (done,) = steps(vm, "Copy")
    assert (done["seq"], done["state"]) == (asked["seq"], "Succeeded")
    assert vm.placement()["epoch"] == 2
    assert watcher.most == 1
    assert list(vm.processes()) == ["worker-2"]


def test_a_target_that_loses_power_in_mid_copy_is_not_needed_to_go_back(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "powerless", "worker-1")
    before = wait_heartbeats(vm.disk("worker-1"), [])
    target = lab.hosts["worker-2"]
    with Watcher(vm.uid) as watcher:
        with target.slow(SLOW):
            migration = migrate(vm, targetNode="worker-2")
            migration.in_mid_copy()
            target.power_cut()
        try:
            migration.decide("Revert")
            assert migration.end() == ("Reverted", "False", reasons.CANCELLED)
            vm.wait(reasons.READY, "True", reasons.RUNNING)
            assert not target.is_on()
        finally:
            target.boot()
            lab.start_agent("worker-2")
        is_back(vm, "worker-1", before)
    assert watcher.most == 1


def test_a_copy_that_breaks_three_times_leads_back(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "broken", "worker-1")
    before = wait_heartbeats(vm.disk("worker-1"), [])
    with Watcher(vm.uid) as watcher:
        with lab.hosts["worker-2"].slow(SLOW):
            migration = migrate(vm, targetNode="worker-2")
            migration.in_mid_copy()
            lab.kill_agent("worker-2")
            lab.sshd("worker-2").kill()
            for pid in lab.hosts["worker-2"].run(["pgrep", "-f", "ssh_serve|sshd:"], check=False).stdout.split():
                lab.hosts["worker-2"].run(["kill", "-9", pid], check=False)
        try:
            phase, succeeded, reason = migration.end()
            assert (phase, succeeded) == ("Failed", "False")
            assert reason in (reasons.SSH_UNREACHABLE, reasons.TRANSFER_BROKEN)
            assert [attempt["node"] for attempt in migration.status()["attempts"]] == ["worker-2"]
            vm.wait(reasons.READY, "True", reasons.RUNNING)
        finally:
            lab.start_agent("worker-2")
        is_back(vm, "worker-1", before)
    assert watcher.most == 1


@pytest.mark.parametrize("way", ["Revert", "delete"])
def test_what_is_taken_back_in_mid_copy_ends_the_copy_and_starts_the_vm_at_once(lab: Lab, namespace: str, way: str) -> None:
    vm = boot_vm(lab, namespace, f"regret-{way.lower()}", "worker-3")
    before = wait_heartbeats(vm.disk("worker-3"), [])
    with Watcher(vm.uid) as watcher, lab.hosts["worker-1"].slow("4mbit"):
        migration = migrate(vm, targetNode="worker-1")
        migration.in_mid_copy()
        if way == "Revert":
            migration.decide("Revert")
            assert migration.end() == ("Reverted", "False", reasons.CANCELLED)
        else:
            migration.kubectl("delete", "--timeout=55s")
        vm.wait(reasons.READY, "True", reasons.RUNNING)
        is_back(vm, "worker-3", before)
    assert watcher.most == 1
    assert vm.placement()["epoch"] == 3


@pytest.fixture
def controller(lab: Lab) -> Iterator[Lab]:
    """A controller that may be started with another configuration; the lab's own is there afterwards."""
    lab.stop_controller()
    yield lab
    lab.stop_controller()
    lab.start_controller()


def test_the_source_may_be_chosen_as_in_nova_and_then_the_next_node_is_taken(controller: Lab, namespace: str) -> None:
    others = ["Ready", "Schedulable", "TargetNode", "Retry", "StaleCopy", "CPU", "Memory", "Disk"]
    controller.start_controller(scheduler={"filters": others, "weighers": {"RAM": -1, "CPU": 0, "Disk": 0}, "allocationRatios": CPU_RATIO})
    placements = json.loads(controller.kubectl("get", "placements", "-o", "json").stdout)["items"]
    held = [copy["node"] for placement in placements for copy in placement["spec"]["copies"]]
    source = max(controller.hosts, key=held.count)  # with one more VM it is the fullest, and so the first choice
    vm = boot_vm(controller, namespace, "at-home", source)
    migration = migrate(vm)
    target = migration.target()
    assert target != source
    (attempt,) = migration.status()["attempts"]
    assert (attempt["node"], attempt["reason"]) == (source, reasons.UNABLE_TO_MIGRATE_TO_SELF)
    assert [(copy["node"], copy.get("discard")) for copy in vm.placement()["copies"]] == [(source, None), (target, None)]
    scheduling = migration.status()["scheduling"]
    assert (scheduling["evaluated"], scheduling["feasible"]) == (3, 2)
    assert target == scheduling["ranking"][0]["node"]
    assert [(each["reason"], each["nodes"]) for each in scheduling["rejected"]] == [(reasons.ATTEMPTED, [source])]
    line = [json.loads(line) for line in controller.log("controller").read_text().splitlines() if '"scheduling pass"' in line][-1]
    assert (line["node"], line["candidates"], line["left"]["Retry"], line["left"]["Disk"]) == (target, 3, 2, 2)
    assert line["weights"][target].keys() == {"RAM", "CPU", "Disk"}
    migration.decide("Confirm")
    assert migration.end() == ("Confirmed", "True", reasons.CONFIRMED)


@pytest.fixture
def another_host_key(lab: Lab, tmp_path: Path) -> Iterator[None]:
    """The sshd of worker-3 has a host key that its ComputeNode does not tell."""
    key, other = lab.hosts["worker-3"].root / "state" / "ssh" / "host_key", tmp_path / "key"
    own = key.read_bytes()
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other])
    key.write_bytes(other.read_bytes())
    lab.restart_sshd("worker-3")
    yield
    key.write_bytes(own)
    lab.restart_sshd("worker-3")


@pytest.mark.usefixtures("another_host_key")
def test_a_target_with_another_host_key_than_it_told_is_refused_while_the_vm_runs(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "suspicious", "worker-1")
    processes = vm.processes()
    migration = migrate(vm, targetNode="worker-3")
    assert migration.end() == ("Failed", "False", reasons.SSH_HOST_KEY_MISMATCH)
    assert vm.processes() == processes
    vm.wait_one_copy("worker-1")
    elsewhere = Migration(lab, namespace, "elsewhere")
    manifest = {
        "apiVersion": "kubeferry.io/v1alpha1",
        "kind": "Migration",
        "metadata": {"name": "elsewhere"},
        "spec": {"virtualMachine": {"name": vm.name}},
    }
    lab.kubectl("cordon", "worker-2")
    try:
        lab.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
        assert elsewhere.end() == ("Failed", "False", reasons.SSH_HOST_KEY_MISMATCH)
    finally:
        lab.kubectl("uncordon", "worker-2")
    assert vm.processes() == processes
    vm.wait(reasons.READY, "True", reasons.RUNNING)


def test_a_task_of_a_lower_epoch_or_of_another_history_changes_nothing(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "steady", "worker-1")
    migration = migrate(vm)
    target = migration.target()
    processes = vm.processes()
    placement = json.loads(lab.kubectl("get", "placement", vm.uid, "-o", "json").stdout)
    spec = placement["spec"]
    for name, epoch, epoch_id, reason in (
        ("late", 1, spec["lineage"][1], reasons.STALE_EPOCH),
        ("foreign", 9, "00000000-0000-4000-8000-000000000009", reasons.HISTORY_DIVERGED),
    ):
        task = {
            "apiVersion": "kubeferry.io/v1alpha1",
            "kind": "HostTask",
            "metadata": {"name": f"{vm.name}-{name}"},
            "spec": {
                "node": target,
                "hostId": spec["hostId"],
                "verb": "Seal",
                "epoch": epoch,
                "epochId": epoch_id,
                "seq": 99,
                "placement": {"name": vm.uid, "uid": placement["metadata"]["uid"]},
                "seal": {"shutdownTimeoutSeconds": 0},
            },
        }
        lab.kubectl("create", "-f", "-", stdin=json.dumps(task))
        wait_until(f"the answer to {name}", lambda n=name, r=reason: answered(lab, vm, n, r), seconds=30, log=lab.log(f"agent-{target}"))
        lab.kubectl("delete", "hosttask", f"{vm.name}-{name}", "--ignore-not-found")
    assert vm.processes() == processes
    assert vm.inventory(target) is not None
    assert vm.inventory(target)["role"] == "ACTIVE"  # type: ignore[index]


def answered(lab: Lab, vm: Vm, name: str, reason: str) -> None:
    told = json.loads(lab.kubectl("get", "hosttask", f"{vm.name}-{name}", "-o", "json").stdout).get("status", {})
    if told.get("error", {}).get("reason") != reason:
        raise NotYet(json.dumps(told))
