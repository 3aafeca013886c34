"""The terms of a Migration on the real thing: when it may begin, where the VM must be, and what is done when nobody decides."""

import json

import pytest
from lab_vm import Migration, boot_vm, migrate, vm_manifest
from watcher import Watcher

from kubeferry.api import reasons
from lab.lab import Lab

API_VERSION = "kubeferry.io/v1alpha1"


def test_a_migration_that_nobody_decides_is_confirmed_or_reverted_as_it_says(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "undecided", "worker-1")
    with Watcher(vm.uid) as watcher:
        first = migrate(vm, "first", decisionTimeoutSeconds=3, onDecisionTimeout="Confirm")
        assert first.end() == ("Confirmed", "True", reasons.CONFIRMED)
        target = first.status()["targetNode"]
        second = migrate(vm, "second", decisionTimeoutSeconds=3, onDecisionTimeout="Revert")
        assert second.end() == ("Reverted", "False", reasons.REVERTED)
    assert watcher.most == 1
    for ended, value in ((first, "Confirm"), (second, "Revert")):
        assert ended.status()["decision"].items() >= {"value": value, "source": "Timeout"}.items()
        assert "decisionDeadline" not in ended.status()
    assert list(vm.processes()) == [target]
    vm.wait_one_copy(target)


def test_an_end_tells_how_long_the_vm_was_off_and_when_each_phase_began(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "timed", "worker-2")
    migration = migrate(vm)
    migration.target()
    status = migration.status()
    assert [t["phase"] for t in status["phaseTransitions"]][-1] == "AwaitingDecision"
    assert [t["time"] for t in status["phaseTransitions"]] == sorted(t["time"] for t in status["phaseTransitions"])
    assert 0 < status["downtime"]["milliseconds"] < 60_000
    assert status["transfer"]["progress"] == "100%"
    assert {c["type"] for c in status["conditions"] if not c.get("message")} == set()
    said = lab.kubectl("delete", "fmig", migration.name, "-n", namespace, check=False).stderr
    assert f"decide first (Confirm or Revert): kubectl patch fmig {migration.name} -n {namespace}" in said
    migration.decide("Revert")
    assert migration.end() == ("Reverted", "False", reasons.REVERTED)
    assert migration.status()["downtime"]["milliseconds"] > status["downtime"]["milliseconds"]
    migration.kubectl("delete", "--timeout=30s")


def test_what_can_be_known_before_it_begins_ends_it_with_nothing_touched(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "at-home", "worker-3")
    placement, processes = vm.placement(), vm.processes()
    reference = {"name": vm.name, "uid": "another"}
    assert migrate(vm, "there", targetNode="worker-3").end() == ("Confirmed", "True", reasons.ALREADY_AT_TARGET)
    assert migrate(vm, "elsewhere", sourceNode="worker-1").end() == ("Failed", "False", reasons.PRECONDITION_FAILED)
    assert migrate(vm, "another", virtualMachine=reference).end() == ("Failed", "False", reasons.PRECONDITION_FAILED)
    unknown = migrate(vm, "nowhere", targetNode="worker-9")
    assert unknown.end() == ("Failed", "False", reasons.NODE_UNKNOWN)
    assert "known: worker-1, worker-2, worker-3" in unknown.told(reasons.SUCCEEDED)["message"]
    assert (vm.placement(), vm.processes()) == (placement, processes)


@pytest.mark.usefixtures("cordoned")
def test_with_a_start_deadline_a_node_is_waited_for_until_then(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "patient", "worker-1")
    assert migrate(vm, "hasty", startDeadlineSeconds=2).end() == ("Failed", "False", reasons.NO_FEASIBLE_NODE)
    migration = migrate(vm, "patient", startDeadlineSeconds=600)
    migration.wait(reasons.SCHEDULED, "False", reasons.NO_FEASIBLE_NODE)
    assert migration.status()["phase"] == "Pending"
    assert migration.status()["scheduling"]["feasible"] == 0
    lab.kubectl("uncordon", "worker-2")
    assert migration.target() == "worker-2"


def test_a_vm_and_its_migration_are_applied_in_one_file(lab: Lab, namespace: str) -> None:
    move = {
        "apiVersion": API_VERSION,
        "kind": "Migration",
        "metadata": {"name": "at-once"},
        "spec": {"virtualMachine": {"name": "at-once"}},
    }
    both = {"apiVersion": "v1", "kind": "List", "items": [move, vm_manifest("at-once", "worker-2")]}
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(both))
    assert Migration(lab, namespace, "at-once").target() in ("worker-1", "worker-3")


def test_a_vm_that_is_missing_is_told_by_name(lab: Lab, namespace: str) -> None:
    move = {
        "apiVersion": API_VERSION,
        "kind": "Migration",
        "metadata": {"name": "lost"},
        "spec": {"virtualMachine": {"name": "nobody"}, "startDeadlineSeconds": 2},
    }
    lab.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(move))
    migration = Migration(lab, namespace, "lost")
    assert migration.end() == ("Failed", "False", reasons.VM_MISSING)
    assert f"there is no VirtualMachine {namespace}/nobody" in migration.told(reasons.SUCCEEDED)["message"]
