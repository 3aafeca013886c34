"""What is seen from outside while a VM moves on the real thing: Events, metrics, and log lines that name what they are about."""

import http.client
import json

from lab_vm import boot_vm, migrate

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


def told_in_order(lab: Lab, namespace: str) -> None:
    """Whether every step of a migration that was confirmed is told, and its VM's life; they are written on the side."""
    items = json.loads(lab.kubectl("get", "events.events.k8s.io", "-n", namespace, "-o", "json").stdout)["items"]
    of: dict[str, list[str]] = {"Migration": [], "VirtualMachine": []}
    for event in sorted(items, key=lambda each: each["eventTime"]):
        of[event["regarding"]["kind"]].append(event["reason"])
    if of != {"Migration": STEPS, "VirtualMachine": ["Scheduled", "Created", "Started", "Moved", "Started"]}:
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
    assert sent == migration.status()["transfer"]["bytesDone"]

    wait_until("the events", lambda: told_in_order(lab, namespace), seconds=20, log=lab.log("controller"))
    described = migration.kubectl("describe")
    assert f"the VM was seen running on {target}" in described


def test_every_log_line_of_a_task_names_vm_migration_node_epoch_and_verb(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "logged", "worker-2")
    migration = migrate(vm)
    migration.target()
    lines = [json.loads(line) for line in lab.log("agent-worker-2").read_text().splitlines() if line.startswith("{")]
    mine = [line for line in lines if line.get("vm_uid") == vm.uid and line.get("epoch", 0) > 1]
    assert {line["verb"] for line in mine if "task" in line} == {"Preflight", "Seal", "Copy"}
    names = {"vm": f"{namespace}/logged", "migration": f"{namespace}/logged", "node": "worker-2", "epoch": 2}
    assert all(line.items() >= names.items() for line in mine if "task" in line)
    told = [json.loads(line) for line in lab.log("controller").read_text().splitlines() if line.startswith("{")]
    passes = [line for line in told if line.get("vm_uid") == vm.uid and line["event"] == "task created" and line["epoch"] == 2]
    assert {line["verb"] for line in passes} == {"Prepare", "Preflight", "Seal", "Copy", "Activate"}
    assert all(line.keys() >= {"vm", "migration", "node", "epoch", "verb"} for line in passes)
