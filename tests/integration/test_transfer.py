"""What is in the way of a copy, on the real thing: found before the VM is stopped, or the VM is back on its source."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import spoiler
from lab_vm import Vm, boot_vm, migrate, vm_manifest, with_data
from watcher import Watcher

from kubeferry.api import reasons
from lab.guest import make_disk, wait_heartbeats
from lab.hosts import Host
from lab.lab import Lab
from lab.steps import NotYet, run, wait_until

INSTANCES = "/var/lib/kubeferry/instances"
DATA_PORTS = "8023:8032"
SPOILER_PORT = 8099
SLOW = "16mbit"


def copies(vm: Vm) -> list[dict[str, object]]:
    """The steps of verb Copy in the ledger of a VM's Placement."""
    return [step for step in vm.placement().get("steps", []) if step["verb"] == "Copy"]


def is_back(vm: Vm, node: str, before: list[str]) -> None:
    """The VM runs on its source again, from its own disk, and nowhere else."""
    vm.wait_console(node, "GUEST boot=2 ")
    wait_heartbeats(vm.disk(node), before)
    assert list(vm.processes()) == [node]
    vm.wait_one_copy(node)


# Before the VM is stopped


@contextmanager
def a_wall(lab: Lab) -> Iterator[None]:
    """Nothing comes to the data ports of worker-3."""
    host = lab.hosts["worker-3"]
    rule = ["INPUT", "-p", "tcp", "--dport", DATA_PORTS, "-j", "DROP"]
    host.run(["iptables", "-A", *rule])
    try:
        yield
    finally:
        host.run(["iptables", "-D", *rule])


@contextmanager
def a_question(lab: Lab) -> Iterator[None]:
    """The sshd of worker-3 asks everybody for a password."""
    config = lab.hosts["worker-3"].root / "state" / "ssh" / "sshd_config"
    own = config.read_text()
    asking = {
        "AuthenticationMethods publickey": "AuthenticationMethods any",
        "PasswordAuthentication no": "PasswordAuthentication yes",
        "KbdInteractiveAuthentication no": "KbdInteractiveAuthentication yes",
        "PubkeyAuthentication yes": "PubkeyAuthentication no",
        "PermitRootLogin forced-commands-only": "PermitRootLogin yes",
    }
    asks = own
    for said, instead in asking.items():
        assert said in asks
        asks = asks.replace(said, instead)
    config.write_text(asks)
    lab.restart_sshd("worker-3")
    try:
        yield
    finally:
        config.write_text(own)
        lab.restart_sshd("worker-3")


@contextmanager
def storage_that_can_not_be_written(lab: Lab) -> Iterator[None]:
    """Nothing can be left in the instances path of worker-3, so whose it is can't be told."""
    host = lab.hosts["worker-3"]
    host.run(["mount", "--bind", INSTANCES, INSTANCES])
    host.run(["mount", "-o", "remount,bind,ro", INSTANCES])
    try:
        yield
    finally:
        host.run(["umount", INSTANCES])


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        pytest.param(a_question, reasons.SSH_AUTHENTICATION_FAILED, id="an sshd that asks for a password"),
        pytest.param(a_wall, reasons.DATA_PORT_UNREACHABLE, id="a closed data port"),
        pytest.param(storage_that_can_not_be_written, reasons.STORAGE_UNKNOWN, id="storage that can't be told"),
    ],
)
def test_what_would_break_the_copy_is_found_while_the_vm_runs(
    lab: Lab, namespace: str, obstacle: Callable[[Lab], AbstractContextManager[None]], reason: str
) -> None:
    vm = boot_vm(lab, namespace, "careful", "worker-1")
    processes = vm.processes()
    with obstacle(lab):
        migration = migrate(vm, targetNode="worker-3")
        assert migration.end() == ("Failed", "False", reason)
    assert migration.status().get("storage") == ("Unknown" if reason == reasons.STORAGE_UNKNOWN else None)
    assert "DeadlineExceeded" not in migration.told(reasons.SUCCEEDED)["message"]
    assert vm.processes() == processes
    assert "downtime" not in migration.status()
    vm.wait_one_copy("worker-1")
    assert list((lab.hosts["worker-1"].root / "instances").glob(".probe-*")) == []


# While it is off


@contextmanager
def spoiled(lab: Lab, host: Host) -> Iterator[None]:
    """Something between the hosts flips a bit of what comes to its data ports."""
    log = lab.directory / "logs" / "spoiler"
    rule = ["PREROUTING", "-p", "tcp", "--dport", DATA_PORTS, "-j", "REDIRECT", "--to-port", str(SPOILER_PORT)]
    process = host.spawn("spoiler", [sys.executable, spoiler.__file__, str(SPOILER_PORT)], log, {})

    def listens() -> None:
        if f":{SPOILER_PORT}" not in host.run(["ss", "-Hltn"]).stdout:
            raise NotYet("it does not listen")

    wait_until("the spoiler to listen", listens, seconds=30, log=log, process=process)
    host.run(["iptables", "-t", "nat", "-A", *rule])
    try:
        yield
    finally:
        host.run(["iptables", "-t", "nat", "-D", *rule])
        process.kill()


def test_a_copy_that_is_always_spoiled_on_the_way_leads_back(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "spoiled", "worker-1")
    before = wait_heartbeats(vm.disk("worker-1"), [])
    with Watcher(vm.uid) as watcher, spoiled(lab, lab.hosts["worker-2"]):
        migration = migrate(vm, targetNode="worker-2")
        assert migration.end() == ("Failed", "False", reasons.TRANSFER_BROKEN)
        is_back(vm, "worker-1", before)
    assert watcher.most == 1
    assert migration.status()["storage"] == "Local"


def test_what_rots_at_the_target_while_it_is_copied_is_sent_again(lab: Lab, namespace: str) -> None:
    """It is found when the target reads back, and only that is sent again."""
    vm = boot_vm(lab, namespace, "rotten", "worker-1")
    with Watcher(vm.uid) as watcher:
        with lab.hosts["worker-2"].slow(SLOW):
            migration = migrate(vm, targetNode="worker-2")
            manifest = noted(vm, "worker-2")
            assert manifest.name == "kernel.manifest"
            with (vm.directory("worker-2") / "kernel.part").open("r+b") as part:
                part.write(b"rotten")
        assert migration.target() == "worker-2"
        vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")
    transfer = migration.status()["transfer"]
    assert transfer["bytesSent"] > transfer["bytesTotal"] - (4 << 20)
    kernels = [(vm.directory(node) / "kernel").read_bytes() for node in ("worker-1", "worker-2")]
    assert kernels[0] == kernels[1]
    assert watcher.most == 1


@contextmanager
def small_storage(host: Host) -> Iterator[Path]:
    """Its instances lie on a file system of 200 MB; where that is seen from outside."""
    host.run(["mount", "-t", "tmpfs", "-o", "size=200m", "kubeferry-small", INSTANCES])
    try:
        yield Path(f"/proc/{host.first_process().pid}/root{INSTANCES}")
    finally:
        host.run(["umount", INSTANCES])


def test_a_disk_that_fills_up_at_the_target_leads_back_at_once(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "full", "worker-1")
    before = wait_heartbeats(vm.disk("worker-1"), [])
    target = lab.hosts["worker-3"]
    with Watcher(vm.uid) as watcher, small_storage(target):
        with target.slow(SLOW):
            migration = migrate(vm, targetNode="worker-3")
            migration.in_mid_copy()
            target.run(["bash", "-c", f"head -c 300M /dev/zero > {INSTANCES}/filler"], check=False)
            assert migration.end() == ("Failed", "False", reasons.INSUFFICIENT_DISK)
        is_back(vm, "worker-1", before)
    assert watcher.most == 1
    assert [attempt["reason"] for attempt in migration.status()["attempts"]] == [reasons.INSUFFICIENT_DISK]


@contextmanager
def no_emulator(lab: Lab, node: str) -> Iterator[None]:
    """QEMU ends at once there, whatever it is asked."""
    host = lab.hosts[node]
    host.run(["mount", "--bind", "/bin/false", "/usr/bin/qemu-system-x86_64"])
    try:
        yield
    finally:
        host.run(["umount", "/usr/bin/qemu-system-x86_64"])
        lab.kubectl("wait", f"computenode/{node}", "--for=condition=Ready", "--timeout=50s")


def test_a_target_that_can_not_start_the_domain_gives_the_vm_back(lab: Lab, namespace: str) -> None:
    vm = boot_vm(lab, namespace, "unstartable", "worker-1")
    before = wait_heartbeats(vm.disk("worker-1"), [])
    target = lab.hosts["worker-2"]
    with Watcher(vm.uid) as watcher, ExitStack() as broken:
        with target.slow(SLOW):
            migration = migrate(vm, targetNode="worker-2")
            migration.in_mid_copy()
            broken.enter_context(no_emulator(lab, "worker-2"))
        phase, succeeded, _ = migration.end()
        assert (phase, succeeded) == ("Failed", "False")
        assert migration.status()["attempts"][-1]["message"].startswith("Activate on worker-2")
        is_back(vm, "worker-1", before)
    assert watcher.most == 1


# Going on


def noted(vm: Vm, node: str) -> Path:
    """Wait until a host has noted a chunk as durable; the manifest that tells of it."""

    def some() -> Path:
        for manifest in vm.directory(node).glob("*.manifest"):
            if manifest.stat().st_size:
                return manifest
        raise NotYet("no manifest tells of a chunk")

    return wait_until(f"a chunk of {vm.name} to be durable on {node}", some, seconds=60, log=vm.lab.log(f"agent-{node}"))


@pytest.mark.parametrize("victim", ["worker-1", "worker-2"], ids=["source", "target"])
def test_a_copy_whose_agent_is_killed_sends_only_what_is_missing(lab: Lab, namespace: str, victim: str) -> None:
    vm = boot_vm(lab, namespace, f"cut-{victim}", "worker-1")
    with Watcher(vm.uid) as watcher:
        with lab.hosts["worker-2"].slow(SLOW):
            migration = migrate(vm, targetNode="worker-2")
            noted(vm, "worker-2")
            lab.kill_agent(victim)
            lab.start_agent(victim)
        assert migration.target() == "worker-2"
        vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")
    transfer = migration.status()["transfer"]
    assert 0 < transfer["bytesSent"] <= transfer["bytesTotal"] - (1 << 20)
    assert transfer["bytesDone"] == transfer["bytesTotal"]
    assert len(bytes.fromhex(transfer["digest"])) == 32
    assert watcher.most == 1
    assert list(vm.processes()) == ["worker-2"]
    assert vm.placement()["epoch"] == 2
    assert list(vm.directory("worker-2").glob("*.manifest")) == []


def test_the_bandwidth_limit_changes_while_it_is_copied(lab: Lab, namespace: str) -> None:
    """At the first limit the copy would take four minutes."""
    vm = boot_vm(lab, namespace, "limited", "worker-1")
    migration = migrate(vm, targetNode="worker-2", bandwidthLimit="64Ki")
    migration.in_mid_copy()
    tasks = json.loads(lab.kubectl("get", "hosttasks", "-o", "json").stdout)["items"]
    limits = [
        task["spec"]["copy"]["bandwidthLimit"]
        for task in tasks
        if task["spec"]["verb"] == "Copy" and task["spec"]["placement"]["name"] == vm.uid
    ]
    assert limits == [64 << 10]
    migration.kubectl("patch", "--type=merge", "-p", '{"spec":{"bandwidthLimit":"100Mi"}}')
    assert migration.target() == "worker-2"
    assert [step["state"] for step in copies(vm)] == ["Succeeded"]


def test_a_vm_with_two_disks_and_a_qcow2_goes_and_comes_back(lab: Lab, namespace: str) -> None:
    images = lab.hosts["worker-1"].root / "images"
    if not (images / "data.img").exists():
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", images / "guest.img", images / "guest.qcow2"])
        make_disk(images / "data.img", "data-of-worker-1", 40 << 20)
    where = "/var/lib/kubeferry/images"
    manifest = with_data(vm_manifest("two"), "worker-1", f"{where}/guest.qcow2", f"{where}/data.img")
    lab.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    vm = Vm(lab, namespace, "two")
    vm.wait_console("worker-1", "GUEST data boot=1 marker=data-of-worker-1")
    vm.wait_console("worker-1", "GUEST boot=1 marker=worker-1")
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm, targetNode="worker-2")
        assert migration.target() == "worker-2"
        vm.wait_console("worker-2", "GUEST data boot=2 marker=data-of-worker-1")
        vm.wait_console("worker-2", "GUEST boot=2 marker=worker-1")
        lies = {path.name: path for path in vm.directory("worker-2").iterdir()}
        assert lies.keys() == {"kernel", "initrd", "root.qcow2", "data.raw", "console.log"}
        assert lies["data.raw"].stat().st_blocks * 512 < 20 << 20
        root = json.loads(run(["qemu-img", "info", "-U", "-f", "qcow2", "--output", "json", lies["root.qcow2"]]).stdout)
        assert root["virtual-size"] == 96 << 20
        migration.decide("Revert")
        assert migration.end() == ("Reverted", "False", reasons.REVERTED)
        vm.wait_console("worker-1", "GUEST data boot=2 marker=data-of-worker-1")  # and not 3
        vm.wait_console("worker-1", "GUEST boot=2 marker=worker-1")
    assert watcher.most == 1
    assert list(vm.processes()) == ["worker-1"]
