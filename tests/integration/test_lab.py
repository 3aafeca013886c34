"""The lab itself, on the real thing: before it may judge kubeferry, it must do what it says and leave nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import guest, mountpoint, network, paths, removal, toolchain
from lab.hosts import Host
from lab.lab import Lab
from lab.network import Network
from lab.processes import identify, runs
from lab.record import Entry, Identity, Link, Netns, Record, Started
from lab.steps import LabError, NotYet, run, wait_until

DOMAIN = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/var/lib/kubeferry/images/vmlinuz</kernel>
    <initrd>/var/lib/kubeferry/images/initramfs.gz</initrd>
    <cmdline>console=ttyS0 ip={address}/24</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/kubeferry/images/guest.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <serial type='file'><source path='/var/lib/kubeferry/console' append='on'/></serial>
  </devices>
</domain>
"""
STARTER = "from lab.lab import Lab; Lab(hosts=('doomed',)).start_infrastructure()"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of these tests' own, with the tools and guest files of the real one: its labs are ours to clean."""
    tools, files = toolchain.ensure().parent, guest.ensure()
    home = tmp_path_factory.mktemp("cache")
    (home / "kubeferry").mkdir()
    for made in (tools, files):
        (home / "kubeferry" / made.name).symlink_to(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def lab(cache: Path) -> Iterator[Lab]:
    """Two hosts and a control plane."""
    lab = Lab(hosts=("worker-1", "worker-2"))
    lab.start_infrastructure()
    yield lab
    lab.stop()
    assert removal.existing() == []
    assert not mountpoint.MARK.exists() or mountpoint.in_use()


@pytest.fixture
def worker(lab: Lab) -> Host:
    return lab.hosts["worker-1"]


def console_shows(host: Host, line: str) -> None:
    console = host.root / "console"

    def shown() -> None:
        if line not in (console.read_text(errors="replace") if console.exists() else ""):
            raise NotYet("it does not")

    wait_until(f"the guest's console to show {line!r}", shown, seconds=60, log=console)


def host_uuid(host: Host) -> str:
    return host.run(["virsh", "capabilities"]).stdout.split("<uuid>")[1].split("</uuid>")[0]


def test_a_guest_survives_a_power_cut_of_its_host_as_a_disk_and_not_as_a_process(lab: Lab, worker: Host) -> None:
    other = lab.hosts["worker-2"]
    address = f"{worker.address.rpartition('.')[0]}.100"
    uuid = host_uuid(worker)
    assert uuid != host_uuid(other)
    worker.run(["virsh", "create", "/dev/stdin"], stdin=DOMAIN.format(address=address))
    console_shows(worker, "GUEST boot=1 marker=worker-1")
    other.run(["ping", "-c", "1", "-W", "5", address])
    image = worker.root / "images" / "guest.img"
    assert guest.read_file(image, "/boots") == "1\n"
    assert guest.read_file(image, "/marker") == "worker-1"
    worker.run(["touch", "/run/written-before"])
    qemu = Path(f"/proc/{worker.first_process().pid}/root/run/libvirt/qemu/guest.pid").read_text()
    assert worker.run(["ps", "-o", "comm=", "-p", qemu]).stdout.startswith("qemu-system")
    everything = everything_on(worker)

    worker.power_cut()
    assert [process for process in everything if runs(process)] == []
    assert other.run(["ping", "-c", "1", "-W", "1", worker.address], check=False).returncode == 1
    with pytest.raises(LabError, match="worker-1 is off"):
        worker.run(["true"])

    worker.boot()
    assert host_uuid(worker) == uuid
    assert worker.run(["test", "-e", "/run/written-before"], check=False).returncode == 1
    assert worker.run(["virsh", "list", "--name", "--all"]).stdout.strip() == ""
    worker.run(["virsh", "create", "/dev/stdin"], stdin=DOMAIN.format(address=address))
    console_shows(worker, "GUEST boot=2 marker=worker-1")
    worker.run(["virsh", "destroy", "guest"])
    assert "defunct" not in worker.run(["ps", "-e"]).stdout


def test_a_file_is_read_as_the_journal_says_without_a_change_to_the_image(tmp_path: Path) -> None:
    image, block, commands = tmp_path / "disk", tmp_path / "block", tmp_path / "commands"
    guest.make_disk(image, "before", guest.DISK_BYTES)
    number = run(["debugfs", "-R", "blocks /marker", image]).stdout.strip()
    block.write_bytes(b"behind".ljust(1024, b"\0"))
    commands.write_text(f"journal_open\njournal_write -b {number} {block}\njournal_close\n")
    run(["debugfs", "-w", "-f", commands, image])
    content = image.read_bytes()
    assert guest.read_file(image, "/marker") == "behind"
    assert image.read_bytes() == content
    with pytest.raises(FileNotFoundError, match="no file /missing"):
        guest.read_file(image, "/missing")
    image.write_bytes(bytes(4096))
    with pytest.raises(LabError, match="e2fsck"):
        guest.read_file(image, "/marker")


def everything_on(host: Host) -> list[Identity]:
    """All processes of a host, found by their PID namespace from outside."""
    here = os.stat(f"/proc/{host.first_process().pid}/ns/pid").st_ino
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        identity = identify(int(process.name))
        if identity and namespace(process) == here:
            found.append(identity)
    return found


def namespace(process: Path) -> int | None:
    try:
        return os.stat(process / "ns" / "pid").st_ino
    except OSError:
        return None  # it ended, or it is the machine's and protected


def test_a_shutdown_ends_a_host_and_the_next_boot_brings_it_back(worker: Host) -> None:
    everything = everything_on(worker)
    worker.shutdown()
    assert not worker.is_on()
    assert [process for process in everything if runs(process)] == []
    worker.boot()
    assert worker.is_on()


def test_a_process_on_a_host_is_killed_alone_and_dies_with_the_host(lab: Lab, worker: Host) -> None:
    log = lab.log("agent-like")
    argv = ["/bin/sh", "-c", "echo $PPID at $(hostname) $MARK; exec sleep 600"]
    process = worker.spawn("agent-like", argv, log, {"MARK": "m"})
    wait_until("its first line", lambda: lines(log), seconds=5)
    assert lines(log) == ["0 at worker-1 m"]
    assert namespace(Path(f"/proc/{process.target.pid}")) == namespace(Path(f"/proc/{worker.first_process().pid}"))
    process.kill()
    assert not runs(process.target)
    assert process.ended() is not None
    assert worker.is_on()

    stopped = worker.spawn("agent-like", argv, log, {})
    stopped.signal(signal.SIGSTOP)  # nsenter stops with it, and a stopped parent reaps nothing
    worker.power_cut()
    assert not runs(stopped.target)
    assert stopped.ended() is not None
    worker.boot()


def lines(log: Path) -> list[str]:
    if not (text := log.read_text()):
        raise NotYet("nothing")
    return text.splitlines()


def test_a_command_on_a_host_that_takes_too_long_is_ended_there(worker: Host) -> None:
    with pytest.raises(LabError, match=r"worker-1: sleep 601: not done within 0\.5 s"):
        worker.run(["sleep", "601"], seconds=0.5)

    def gone() -> None:
        if "sleep 601" in worker.run(["ps", "-e", "-o", "args"]).stdout:
            raise NotYet("it runs")

    wait_until("the end of sleep", gone, seconds=5)


@pytest.fixture
def served(lab: Lab) -> Iterator[Host]:
    """A host with an agent, and with the sshd beside it."""
    lab.start_agent("worker-2")
    yield lab.hosts["worker-2"]
    lab.kill_agent("worker-2")
    lab.kubectl("delete", "computenode", "worker-2", "--ignore-not-found")


def test_the_sshd_beside_an_agent_is_reached_from_other_hosts_and_lets_no_stranger_in(worker: Host, served: Host) -> None:
    worker.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/stranger"])
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes")
    ssh = ["ssh", "-p", "8022", "-i", "/run/stranger", *(f"-o{option}" for option in options)]
    for user in ("root", "nobody", "unheard-of"):
        for way in ("publickey", "password", "keyboard-interactive"):
            answer = worker.run([*ssh, f"-oPreferredAuthentications={way}", f"{user}@{served.name}", "true"], check=False)
            assert answer.returncode == 255
            # The one way that it offers is told in parentheses: a password is asked of nobody.
            assert "Permission denied (publickey)." in answer.stderr


def test_an_sshd_outlives_its_agent_and_dies_with_its_host(lab: Lab, served: Host) -> None:
    sshd = lab.sshd(served.name)
    assert namespace(Path(f"/proc/{sshd.target.pid}")) == namespace(Path(f"/proc/{served.first_process().pid}"))
    lab.kill_agent(served.name)
    lab.start_agent(served.name)
    assert lab.sshd(served.name) is sshd
    assert runs(sshd.target)

    served.power_cut()
    assert not runs(sshd.target)
    served.boot()
    lab.start_agent(served.name)
    assert runs(lab.sshd(served.name).target)
    assert lab.sshd(served.name).target != sshd.target


def test_an_agents_token_tells_the_api_server_its_node(lab: Lab) -> None:
    agent = json.loads(lab.kubectl("auth", "whoami", "-o", "json", as_="worker-2").stdout)["status"]["userInfo"]
    assert agent["username"] == "system:serviceaccount:kubeferry-system:kubeferry-agent"
    assert agent["extra"]["authentication.kubernetes.io/node-name"] == ["worker-2"]
    controller = lab.kubectl("auth", "whoami", as_="controller").stdout
    assert "system:serviceaccount:kubeferry-system:kubeferry-controller" in controller
    assert lab.kubeconfig("worker-2").stat().st_mode & 0o777 == 0o600


def test_the_api_server_is_reached_from_a_host_and_knows_our_kinds_and_ready_nodes(lab: Lab, worker: Host) -> None:
    server = f"https://{lab.hosts['worker-1'].address.rpartition('.')[0]}.1:6443"
    assert worker.run(["curl", "-sk", f"{server}/readyz"]).stdout == "ok"
    assert lab.kubectl("get", "virtualmachines,migrations,placements,hosttasks,computenodes", "-A").stdout == ""
    nodes = lab.kubectl("get", "nodes", "-l", "kubeferry.io/hypervisor=true", "-o", "name").stdout.split()
    assert nodes == ["node/worker-1", "node/worker-2"]
    assert lab.kubectl("get", "nodes", "-o", "jsonpath={.items[*].spec.taints}").stdout == ""
    lab.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=5s")


def test_what_a_deleted_owner_leaves_is_collected_and_a_namespace_ends(lab: Lab) -> None:
    lab.kubectl("create", "namespace", "short")
    lab.kubectl("create", "configmap", "owner", "--namespace=short")
    uid = lab.kubectl("get", "configmap", "owner", "--namespace=short", "-o", "jsonpath={.metadata.uid}").stdout
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "namespace": "short", "ownerReferences": [owner]}}
    lab.kubectl("create", "-f", "-", stdin=json.dumps(owned))
    lab.kubectl("delete", "configmap", "owner", "--namespace=short")
    lab.kubectl("wait", "--for=delete", "configmap/owned", "--namespace=short", "--timeout=30s")
    lab.kubectl("delete", "namespace", "short", "--timeout=30s")


def test_a_failing_step_says_what_it_waited_for_with_the_log_and_nothing_is_left(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "kube-apiserver"
    broken.write_text("#!/bin/sh\necho 'the disk is made of cheese' >&2\nexit 3\n")
    broken.chmod(0o755)
    for name in ("etcd", "kubectl", "kube-controller-manager"):
        (tmp_path / name).symlink_to(toolchain.bin_directory() / name)
    monkeypatch.setattr(toolchain, "ensure", lambda: tmp_path)
    before = removal.existing()
    with pytest.raises(LabError) as caught:
        Lab(hosts=()).start_infrastructure()
    message = str(caught.value)
    assert "waiting for the API server: kube-apiserver ended with 3" in message
    assert "the disk is made of cheese" in message
    assert removal.existing() == before


def test_a_slot_whose_addresses_somebody_listens_at_is_not_taken() -> None:
    slot = next(slot for slot in reversed(network.SLOTS) if network.is_free(slot))
    with socket.socket() as stranger:
        stranger.bind((Network("", slot).loopback, network.ETCD_PORT))
        stranger.listen()
        assert not network.is_free(slot)
    assert network.is_free(slot)


def first(kind: type[Entry], name: str = "") -> Callable[[list[Entry]], bool]:
    return lambda entries: any(isinstance(entry, kind) and name in getattr(entry, "name", "") for entry in entries)


POINTS = {
    "its first link is on record": first(Link),
    "its namespace is on record": first(Netns),
    "its certificates are made": first(Started, "openssl"),
    "its host boots": first(Started, "doomed"),
    "its API server starts": first(Started, "kube-apiserver"),
    "its agents get their tokens": first(Started, "create token"),
}


@pytest.mark.parametrize("reached", POINTS.values(), ids=POINTS.keys())
def test_a_lab_whose_starter_is_killed_is_removed_whole_and_another_lab_is_left_alone(
    lab: Lab, tmp_path: Path, reached: Callable[[list[Entry]], bool]
) -> None:
    known = removal.existing()
    with (tmp_path / "starter").open("w") as output:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER], env=os.environ | {"PYTHONPATH": str(paths.PACKAGE.parent)}, stdout=output, stderr=output
        )
    with starter:

        def at_the_point() -> Path:
            for directory in removal.existing():
                if directory not in known and reached(Record(directory).entries()):
                    return directory
            raise NotYet("not that far")

        try:
            doomed = wait_until("the point", at_the_point, seconds=60, log=tmp_path / "starter")
        finally:
            starter.kill()
    entries = Record(doomed).entries()

    said = removal.clean(None)

    assert f"{doomed.name}: directory {doomed}" in said
    assert f"{lab.name}: left alone, pid {os.getpid()} is using it (name it to remove it all the same)" in said
    assert what_is_left(doomed, entries) == []
    assert lab.hosts["worker-1"].run(["virsh", "list"]).returncode == 0
    lab.kubectl("get", "nodes")


def what_is_left(directory: Path, entries: list[Entry]) -> list[str]:
    """What a removed lab left: looked for on the machine, not only by the record."""
    left = [str(entry) for entry in entries if isinstance(entry, Started) and runs(entry.process)]
    owner = directory.name.rpartition("-")[2]
    left += [link.name for link in Path("/sys/class/net").iterdir() if link.name == f"kf-{owner}" or link.name.startswith(f"kf-{owner}-")]
    left += [str(netns) for netns in Path("/run/netns").glob(f"kubeferry-{directory.name}-*")]
    left += [str(directory)] if directory.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "cmdline").read_text() + (process / "mountinfo").read_text()
        except OSError:
            continue  # it ended
        if f"{directory}/" in seen:
            left.append(f"process {process.name}: {seen[:200]}")
    return left


def test_the_mount_point_that_labs_made_is_removed_by_the_last_one_only(lab: Lab) -> None:
    second = Lab(hosts=("worker-1",))
    second.start_infrastructure()
    assert second.name != lab.name
    assert f"mount point {mountpoint.PATH}" not in second.stop()
    assert mountpoint.PATH.is_dir()
    lab.hosts["worker-2"].run(["test", "-d", f"{mountpoint.PATH}/images"])
