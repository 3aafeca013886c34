"""VMs that move on the real thing: what their guests wrote, what each host holds, and never two of one VM, as a witness outside sees it."""

import hashlib
import json
from pathlib import Path

import pytest
from lab_vm import Vm, boot_vm, create_vm, migrate
from watcher import Watcher

from kubeferry.api import reasons
from lab.guest import heartbeats, read_file, wait_heartbeats
from lab.lab import Lab
from lab.steps import NotYet, wait_until


def wait_asked(vm: Vm, verb: str) -> None:
    """Wait until the ledger of a VM's Placement has a step of that verb."""

    def asked() -> None:
        verbs = [step["verb"] for step in vm.placement().get("steps", [])]
        if verb not in verbs:
            raise NotYet(f"the ledger has {verbs}")

    wait_until(f"{verb} in the ledger of {vm.name}", asked, seconds=60, log=vm.lab.log("controller"))


def directories(vm: Vm) -> list[str]:
    """The hosts that have an instance directory of the VM."""
    return [node for node in vm.lab.hosts if vm.directory(node).exists()]


def content(path: Path) -> tuple[int, str]:
    """Which file it is, and a digest of what is in it."""
    return path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_moved_vm_goes_on_with_its_disk_and_confirm_gives_up_the_sources_copy_alone(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "confirmed", "worker-1")
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm)
        target = migration.target()
        assert target in ("worker-2", "worker-3")
        vm.wait_console(target, "GUEST boot=2 marker=worker-1")
        assert "GUEST off" in vm.console("worker-1")
        moved = vm.processes()
        assert list(moved) == [target]
        sealed = content(vm.disk("worker-1"))
        before = heartbeats(vm.disk("worker-1"))
        assert before
        wait_heartbeats(vm.disk(target), before)
        assert content(vm.disk("worker-1")) == sealed

        migration.decide("Confirm")
        assert migration.end() == ("Confirmed", "True", reasons.CONFIRMED)
        assert vm.processes() == moved
    assert watcher.samples > 50
    assert watcher.most == 1
    assert watcher.seen[1:] == moved[target]
    assert [migration.condition(kind)[0] for kind in (reasons.CONFIRMED, reasons.FINISHED, reasons.AWAITING_DECISION)] == [
        "True",
        "True",
        "False",
    ]
    assert migration.status()["decision"].items() >= {"value": "Confirm", "source": "User"}.items()
    assert directories(vm) == [target]
    assert not vm.is_known("worker-1")
    assert content(vm.trash("worker-1") / "root.raw") == sealed
    assert read_file(vm.trash("worker-1") / "root.raw", "/boots") == "1\n"
    vm.wait_one_copy(target)
    vm.wait(reasons.READY, "True", reasons.RUNNING)
    assert vm.status()["nodeName"] == target
    assert "migration" not in vm.status()

    migration.kubectl("delete", "--timeout=30s")
    assert vm.processes() == moved
    assert directories(vm) == [target]


def test_what_was_copied_is_told_with_its_digest_and_holes_stay_holes(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "sparse", "worker-2")
    migration = migrate(vm)
    target = migration.target()
    transfer = migration.status()["transfer"]
    sent = [vm.directory("worker-2") / name for name in ("root.raw", "kernel", "initrd")]
    occupied = sum(path.stat().st_blocks * 512 for path in sent)
    assert 0 < transfer["bytesDone"] <= occupied
    assert transfer["bytesTotal"] == transfer["bytesDone"]
    assert len(bytes.fromhex(transfer["digest"])) == 32
    assert occupied < 64 << 20
    assert vm.disk(target).stat().st_size == 64 << 20
    assert vm.disk(target).stat().st_blocks * 512 < 32 << 20
    for name in ("kernel", "initrd"):
        assert (vm.directory(target) / name).read_bytes() == (vm.directory("worker-2") / name).read_bytes()


def test_a_reverted_vm_is_back_as_it_was_and_what_it_wrote_at_the_target_is_gone(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "reverted", "worker-2")
    epoch = vm.placement()["epoch"]
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm)
        target = migration.target()
        sealed = content(vm.disk("worker-2"))
        before = heartbeats(vm.disk("worker-2"))
        vm.wait_console(target, "GUEST boot=2 ")
        wait_heartbeats(vm.disk(target), before)
        assert content(vm.disk("worker-2")) == sealed

        migration.decide("Revert")
        assert migration.end() == ("Reverted", "False", reasons.REVERTED)
        vm.wait(reasons.READY, "True", reasons.RUNNING)
        vm.wait_console("worker-2", "GUEST boot=2 ")  # and not 3: what counted its boot at the target is gone
        back = vm.processes()
        assert list(back) == ["worker-2"]
        vm.wait_one_copy("worker-2")
        after = wait_heartbeats(vm.disk("worker-2"), before)
    assert watcher.samples > 50
    assert watcher.most == 1
    assert watcher.seen[2:] == back["worker-2"]
    at_target = heartbeats(vm.trash(target) / "root.raw")[len(before) :]
    assert at_target
    assert set(at_target).isdisjoint(after)
    assert vm.disk("worker-2").stat().st_ino == sealed[0]
    assert directories(vm) == ["worker-2"]
    assert not vm.is_known(target)
    assert migration.condition(reasons.REVERTED)[0] == "True"
    assert migration.status()["decision"]["value"] == "Revert"
    assert vm.status()["nodeName"] == "worker-2"
    assert vm.placement()["epoch"] == epoch + 2


def test_kubectl_waits_for_what_a_migration_tells_and_shows_it_where_an_operator_looks(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "shown", "worker-3")
    migration = migrate(vm)
    migration.kubectl("wait", "--for=condition=AwaitingDecision", "--timeout=55s")
    target = migration.status()["targetNode"]
    head, row = migration.kubectl("get").splitlines()
    assert head.split() == ["NAME", "VM", "PHASE", "SOURCE", "TARGET", "PROGRESS", "AGE"]
    assert row.split()[:5] == ["shown", "shown", "AwaitingDecision", "worker-3", target]
    assert migration.kubectl("get", "-o", "wide").splitlines()[0].split()[6:8] == ["DECISION", "DOWNTIME"]

    def beside_the_vm() -> None:
        if "AwaitingDecision" not in (seen := vm.kubectl("get").splitlines()[1].split()):
            raise NotYet(f"kubectl get fvm shows {seen}")

    wait_until("the Migration's phase in the VM's row", beside_the_vm, seconds=20, log=lab.log("controller"))
    found = lab.kubectl("get", "fmig", "-A", "--field-selector", f"spec.virtualMachine.name={vm.name}", "-o", "name").stdout
    assert "migration.kubeferry.io/shown" in found
    migration.decide("Revert")
    migration.kubectl("wait", "--for=condition=Finished", "--timeout=55s")


def busier(lab: Lab, *nodes: str) -> str:
    """Of these nodes the one that holds more copies, all of which are of one size; of equals the last, so not the pass's choice."""
    placements = json.loads(lab.kubectl("get", "placements", "-o", "json").stdout)["items"]
    held = [copy["node"] for placement in placements for copy in placement["spec"]["copies"]]
    return max(reversed(nodes), key=held.count)


def test_a_migration_goes_to_the_node_that_it_names_also_if_another_is_freer(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "pinned", "worker-1")
    other = busier(lab, "worker-2", "worker-3")
    migration = migrate(vm, targetNode=other)
    assert migration.target() == other
    assert list(vm.processes()) == [other]


@pytest.mark.usefixtures("cordoned")
def test_without_a_feasible_node_it_fails_with_counts_and_the_vm_is_not_touched(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "stays", "worker-1")
    placement, processes = vm.placement(), vm.processes()
    migration = migrate(vm)
    assert migration.end() == ("Failed", "False", reasons.NO_FEASIBLE_NODE)
    message = migration.told(reasons.SUCCEEDED)["message"]
    assert f"2 {reasons.NODE_NOT_SCHEDULABLE}" in message
    assert f"1 {reasons.IS_SOURCE}" in message
    assert vm.processes() == processes
    assert {key: vm.placement()[key] for key in ("epoch", "nodeName", "copies")} == {
        key: placement[key] for key in ("epoch", "nodeName", "copies")
    }
    assert "lock" not in vm.placement()
    assert directories(vm) == ["worker-1"]


def test_a_confirm_that_comes_early_is_carried_out_once_the_vm_was_seen_at_the_target(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "early", "worker-1")
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm, decision="Confirm")
        assert migration.end() == ("Confirmed", "True", reasons.CONFIRMED)
    target = migration.status()["targetNode"]
    assert watcher.most == 1
    assert list(vm.processes()) == [target]
    done = (reasons.SCHEDULED, reasons.PREPARED, reasons.SOURCE_SEALED, reasons.DISKS_COPIED, reasons.TARGET_ACTIVE, reasons.CONFIRMED)
    assert [migration.condition(kind)[0] for kind in done] == ["True"] * len(done)
    assert directories(vm) == [target]
    vm.wait_console(target, "GUEST boot=2 marker=worker-1")


@pytest.mark.parametrize("verb", ["Seal", "Activate"])
def test_a_controller_that_is_killed_in_mid_migration_goes_on_from_what_is_stored(lab: Lab, namespace: str, verb: str) -> None:
    vm = boot_vm(lab, namespace, f"killed-at-{verb.lower()}", "worker-2")
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm)
        wait_asked(vm, verb)
        lab.kill_controller()
        lab.start_controller()
        target = migration.target()
        vm.wait_console(target, "GUEST boot=2 marker=worker-2")
    assert watcher.most == 1
    assert len(watcher.seen) == 2
    assert list(vm.processes()) == [target]
    assert vm.placement()["epoch"] == 2


def test_a_source_whose_agent_is_dead_does_not_hold_a_confirmed_vm_back(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "deserted", "worker-3")
    migration = migrate(vm)
    target = migration.target()
    moved = vm.processes()
    lab.kill_agent("worker-3")
    try:
        migration.decide("Confirm")
        migration.wait(reasons.CONFIRMED, "False", reasons.IN_PROGRESS)
        assert migration.status()["phase"] == "Confirming"
        assert "lock" not in vm.placement()
        assert vm.disk("worker-3").exists()
    finally:
        lab.start_agent("worker-3")
    assert migration.end() == ("Confirmed", "True", reasons.CONFIRMED)
    assert vm.processes() == moved
    assert directories(vm) == [target]


def test_a_source_that_loses_power_while_a_decision_is_awaited_stays_silent_until_the_vm_is_reverted(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "tempted", "worker-3")
    host = lab.hosts["worker-3"]
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm)
        target = migration.target()
        moved = vm.processes()
        host.power_cut()
        host.boot()
        lab.start_agent("worker-3")
        # One that is made there now shows that the agent of this boot has begun to start VMs.
        create_vm(lab, namespace, "at-home", "worker-3").wait(reasons.READY, "True", reasons.RUNNING)
        assert vm.processes() == moved
        held = vm.inventory("worker-3")
        assert held is not None
        assert (held["role"], held["state"]) == ("RELEASED", "Stopped")

        migration.decide("Revert")
        assert migration.end() == ("Reverted", "False", reasons.REVERTED)
        vm.wait_console("worker-3", "GUEST boot=2 ")
    assert watcher.most == 1
    assert len(watcher.seen) == 3
    assert list(vm.processes()) == ["worker-3"]
    vm.wait_one_copy("worker-3")
    assert not vm.directory(target).exists()
