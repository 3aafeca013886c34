"""What is seen from outside while a VM moves on the real thing: Events, metrics, and log lines that name what they are about."""

import http.client
import json
import os
import subprocess
import sys

from lab_vm import boot_vm, migrate

from lab import paths
from lab.lab import Lab
from lab.network import METRICS_PORT
from lab.steps import NotYet, wait_until

STEPS = ["Scheduled", "SourceSealed", "CopyStarted", "DisksCopied", "TargetActive", "AwaitingDecision", "Confirmed"]


def scraped(address: str) -> dict[str, float]:
    """Every sample of a process of kubeferry."""
    connection = http.client.HTTPConnection(address, METRICS_PORT, timeout=5)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


TOLD = {
    "Migration observed": STEPS,
    "Migration there": ["AlreadyAtTarget"],
    "VirtualMachine observed": ["Scheduled", "Created", "Started", "Moved", "Started"],
}


def told_in_order(lab: Lab, namespace: str) -> None:
    """Whether every step of both migrations is told once, and their VM's life; they are written on the side."""
    items = json.loads(lab.kubectl("get", "events.events.k8s.io", "-n", namespace, "-o", "json").stdout)["items"]
    of: dict[str, list[str]] = {}
    for event in sorted(items, key=lambda each: each["eventTime"]):
        of.setdefault(f"{event['regarding']['kind']} {event['regarding']['name']}", []).append(event["reason"])
    if of != TOLD:
        raise NotYet(json.dumps(of))


def test_a_migration_is_told_by_events_and_metrics(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "observed", "worker-1")
    controller = lab.metrics_address()
    before, agent_before = scraped(controller), scraped(lab.hosts["worker-1"].address)
    migration = migrate(vm)
    target = migration.target()
    assert scraped(controller)['kubeferry_migrations{phase="AwaitingDecision"}'] >= 1
    migration.decide("Confirm")
    migration.end()

    def grown(name: str, now: dict[str, float], then: dict[str, float]) -> float:
        return now[name] - then.get(name, 0)

    after, agent_after = scraped(controller), scraped(lab.hosts["worker-1"].address)
    assert grown('kubeferry_migrations_finished_total{outcome="Confirmed",reason="Confirmed"}', after, before) == 1
    assert grown("kubeferry_migration_downtime_seconds_count", after, before) == 1
    assert grown("kubeferry_scheduling_pass_seconds_count", after, before) >= 1
    assert grown('kubeferry_scheduling_rejections_total{reason="IsSource"}', after, before) >= 1
    assert grown('kubeferry_migration_duration_seconds_count{phase="Copying"}', after, before) == 1
    assert after['kubeferry_build_info{version="0.1.0.dev0"}'] == 1
    assert "kubeferry_work_queue_depth" in after
    assert "kubeferry_reconcile_errors_total" in after
    for verb in ("Preflight", "Seal", "Copy", "Discard"):
        assert grown(f'kubeferry_host_task_seconds_count{{outcome="Succeeded",verb="{verb}"}}', agent_after, agent_before) == 1
    sent = grown('kubeferry_transfer_bytes_total{kind="sent"}', agent_after, agent_before)
    transfer = migration.status()["transfer"]
    assert 0 < sent == transfer["bytesSent"] <= transfer["bytesDone"], "zeros that a file system has written are not sent"

    migrate(vm, "there", targetNode=target).end()
    wait_until("the events", lambda: told_in_order(lab, namespace), seconds=20, log=lab.log("controller"))
    described = migration.kubectl("describe")
    assert f"the VM was seen running on {target}" in described


def test_a_controller_whose_port_is_taken_ends_and_says_so(lab: Lab) -> None:
    config = lab.directory / "config" / "controller.yaml"
    environment = os.environ | {"KUBECONFIG": str(lab.kubeconfig("controller")), "PYTHONPATH": str(paths.REPOSITORY / "operator")}
    argv = [sys.executable, "-m", "kubeferry.cli.main", "controller", "--config", config]
    second = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert second.returncode != 0
    assert f"metrics can't be served at {lab.metrics_address()} port {METRICS_PORT} (metrics in the configuration)" in second.stderr


def test_every_log_line_of_a_task_names_vm_migration_node_epoch_and_verb(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "logged", "worker-2")
    migration = migrate(vm)
    target = migration.target()
    lines = [json.loads(line) for line in lab.log("agent-worker-2").read_text().splitlines() if line.startswith("{")]
    mine = [line for line in lines if line.get("vm_uid") == vm.uid and line.get("epoch", 0) > 1]
    assert {line["verb"] for line in mine if "task" in line} == {"Preflight", "Seal", "Copy"}
    names = {"vm": f"{namespace}/logged", "migration": f"{namespace}/logged", "node": "worker-2", "epoch": 2}
    assert all(line.items() >= names.items() for line in mine if "task" in line)
    served = [json.loads(line) for line in lab.log(f"agent-{target}").read_text().splitlines() if '"command"' in line and vm.uid in line]
    assert {(line["command"], line["verb"]) for line in served} == {
        ("probe-storage", "Preflight"),
        ("make-instance-dir", "Preflight"),
        ("receive", "Copy"),
    }
    assert all(line.items() >= (names | {"node": target}).items() for line in served)
    told = [json.loads(line) for line in lab.log("controller").read_text().splitlines() if line.startswith("{")]
    passes = [line for line in told if line.get("vm_uid") == vm.uid and line["event"] == "task created" and line["epoch"] == 2]
    assert {line["verb"] for line in passes} == {"Prepare", "Preflight", "Seal", "Copy", "Activate"}
    assert all(line.keys() >= {"vm", "migration", "node", "epoch", "verb"} for line in passes)
