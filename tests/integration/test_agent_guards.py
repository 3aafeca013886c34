"""The four guards of the protocol that live in the agent, each on the real one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab_vm import VIRSH, Vm, boot_vm, migrate

from kubeferry.api import reasons
from lab.guest import wait_heartbeats
from lab.hosts import Host
from lab.lab import Lab
from lab.steps import NotYet, wait_until

ROLE = "kubeferry-agent"


def test_nothing_but_the_agent_starts_a_vm_after_a_boot(lab: Lab, namespace: str) -> None:
    """Guard `transient`: a persistent domain could be started by libvirt itself, on a copy that is old by now."""
    vm = boot_vm(lab, namespace, "transient", "worker-1")
    host = lab.hosts["worker-1"]
    told = dict(line.split(":", 1) for line in host.run([*VIRSH, "dominfo", vm.uid]).stdout.splitlines() if ":" in line)
    assert [told[key].strip() for key in ("Persistent", "Autostart", "Managed save")] == ["no", "disable", "no"]
    host.power_cut()
    host.boot()
    try:
        assert host.run([*VIRSH, "list", "--all", "--uuid"]).stdout.split() == []
        assert "failed to get domain" in host.run([*VIRSH, "start", vm.uid], check=False).stderr
        assert vm.processes() == {}
    finally:
        lab.start_agent("worker-1")
    vm.wait_console("worker-1", "GUEST boot=2 ")


def test_no_copier_outlives_its_agent(lab: Lab, namespace: str) -> None:
    """Guard `children_die`: a stray one could write to a copy that was verified since."""
    vm = boot_vm(lab, namespace, "stray", "worker-1")
    source, target = lab.hosts["worker-1"], lab.hosts["worker-2"]
    with target.slow("8mbit"):
        migration = migrate(vm, targetNode="worker-2")
        migration.in_mid_copy()
        assert pids(source, "send-copy")
        assert pids(target, "ssh_serve|receive-copy")
        lab.kill_agent("worker-1")

        def none_left() -> None:
            if left := pids(source, "kubeferry.cli") + pids(target, "ssh_serve|receive-copy"):
                raise NotYet(f"{left} run")

        wait_until("all that copied to be gone", none_left, seconds=60, log=lab.log("agent-worker-2"))
        lab.start_agent("worker-1")
    assert migration.target() == "worker-2"
    vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")


@pytest.mark.parametrize("process", ["send-copy", "receive-copy"])
def test_a_copier_that_dies_is_begun_anew_by_its_agent(lab: Lab, namespace: str, process: str) -> None:
    vm = boot_vm(lab, namespace, process, "worker-1")
    host = lab.hosts["worker-1" if process == "send-copy" else "worker-2"]
    with lab.hosts["worker-2"].slow("8mbit"):
        migration = migrate(vm, targetNode="worker-2")
        migration.in_mid_copy()
        for pid in pids(host, process):
            host.run(["kill", "-9", pid])
    assert migration.target() == "worker-2"
    vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")
    assert vm.placement()["move"]["copyTries"] == 1


def pids(host: Host, pattern: str) -> list[str]:
    """Of the processes of a host whose command lines match."""
    return host.run(["pgrep", "-f", pattern], check=False).stdout.split()


def test_a_vm_that_can_not_be_proved_stopped_is_not_copied(lab: Lab, namespace: str) -> None:
    """Guard `stop_proved`: what is copied while something may write to it is torn, and the VM would run twice."""
    vm = boot_vm(lab, namespace, "undead", "worker-1")
    before = wait_heartbeats(vm.disk("worker-1"), [])
    host = lab.hosts["worker-1"]
    ghost = f"python3 -c 'import time; time.sleep(600)' -uuid {vm.uid} >/dev/null 2>&1 & echo $!"
    pid = host.run(["bash", "-c", ghost]).stdout.strip()
    try:
        migration = migrate(vm, targetNode="worker-2")
        migration.wait(reasons.NEEDS_ATTENTION, "True", reasons.NOT_STOPPED, seconds=90)
        held = vm.inventory("worker-1")
        assert held is not None
        assert held["role"] == "SEALING"
        assert "Copy" not in [step["verb"] for step in vm.placement()["steps"]]
        assert not vm.disk("worker-2").exists()
    finally:
        host.run(["kill", "-9", pid])
    assert migration.end() == ("Failed", "False", reasons.NOT_STOPPED)
    vm.wait_console("worker-1", "GUEST boot=2 ")
    wait_heartbeats(vm.disk("worker-1"), before)


@contextmanager
def mute_agents(lab: Lab) -> Iterator[None]:
    """Meanwhile no agent may write its ComputeNode."""
    whole = json.loads(lab.kubectl("get", "clusterrole", ROLE, "-o", "json").stdout)
    less = [rule for rule in whole["rules"] if "computenodes/status" not in rule["resources"]]
    assert len(less) < len(whole["rules"])
    lab.kubectl("patch", "clusterrole", ROLE, "--type=merge", "-p", json.dumps({"rules": less}))
    try:
        yield
    finally:
        lab.kubectl("patch", "clusterrole", ROLE, "--type=merge", "-p", json.dumps({"rules": whole["rules"]}))


def ask_for_a_start(vm: Vm) -> None:
    """Have the agent try at once: its VM is halted, and started again, while the agent is away."""
    for strategy, running in (("Halted", False), ("Always", True)):
        vm.want(strategy)

        def written(wanted: bool = running) -> None:
            if vm.placement()["running"] != wanted:
                raise NotYet("it is not written down yet")

        wait_until(f"{vm.name} to be {strategy}", written, seconds=30, log=vm.lab.log("controller"))


def test_a_host_that_can_not_tell_of_its_boot_starts_nothing(lab: Lab, namespace: str) -> None:
    """Guard `publish_first`: a fence could count for a boot that nobody knows to be over."""
    vm = boot_vm(lab, namespace, "untold", "worker-1")
    host, log = lab.hosts["worker-1"], lab.log("agent-worker-1")
    host.power_cut()
    host.boot()
    ask_for_a_start(vm)
    with mute_agents(lab):
        seen = len(log.read_text())
        lab.start_agent("worker-1")

        def refused() -> None:
            tried = [line for line in log.read_text()[seen:].splitlines() if f'"key": "{vm.uid}"' in line]
            if not tried:
                raise NotYet("no start was tried yet")
            assert "computenodes/status" in tried[0]

        wait_until("the agent to be refused a start", refused, seconds=60, log=log)
        assert vm.processes() == {}
    vm.wait_console("worker-1", "GUEST boot=2 ")
