"""One lab for all tests that need nothing but a cluster: each test has a namespace and VMs of its own."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_people import Caller
from watcher import Watcher

from lab.guest import read_file
from lab.lab import Lab
from lab.steps import NotYet, run, wait_until
from lab.witness import qemu_by_host

LOGS = Path(__file__).resolve().parents[2] / "build" / "test-logs"
"""Where the logs of the lab are left, for who wants to know why a test failed."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A control plane, three hosts, controller and agents; removed at the end."""
    with Lab() as started:
        yield started
        shutil.copytree(started.directory / "logs", LOGS, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def api() -> Iterator[Lab]:
    """A control plane with the manifests and the identities, and nobody who acts on it; removed at the end."""
    started = Lab(hosts=("worker-1", "worker-2"))
    started.start_infrastructure()
    yield started
    started.stop()


@pytest.fixture
def room(api: Lab) -> str:
    """A namespace of the test's own, of that control plane."""
    name = f"room-{next(_numbers)}"
    api.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def admin(api: Lab, room: str) -> Caller:
    return Caller(api, "admin", room)


@pytest.fixture(scope="session")
def witness() -> Iterator[Watcher]:
    """Sees every guest of the machine, all the time."""
    with Watcher() as watcher:
        yield watcher


@pytest.fixture
def namespace(lab: Lab, witness: Watcher) -> Iterator[str]:
    """A namespace of the test's own. Its VMs are off afterwards: a guest that idles takes 3 % of a processor from those that follow.

    Whatever the test was about: none of them ever ran twice, and its disk is whole where status says it is.
    """
    name = f"test-{next(_numbers)}"
    lab.kubectl("create", "namespace", name)
    wait_until("the controller to see every agent alive", lambda: none_silent(lab), seconds=90, log=lab.log("controller"))
    yield name
    vms = json.loads(lab.kubectl("get", "fvm", "-n", name, "-o", "json").stdout)["items"]
    for vm in vms:
        switch_off(lab, name, vm["metadata"]["name"], vm["metadata"]["uid"])
    for vm in vms:
        if ran := witness.most_of[vm["metadata"]["uid"]]:
            assert ran == 1
            assert_whole(lab, vm)


@pytest.fixture
def cordoned(lab: Lab) -> Iterator[None]:
    """Every node but worker-1 takes no new VM."""
    lab.kubectl("cordon", "worker-2", "worker-3")
    yield
    lab.kubectl("uncordon", "worker-2", "worker-3")


def none_silent(lab: Lab) -> None:
    """Whether no agent counts as silent: one that a test before had killed is seen again a moment after its Lease changes."""
    alive: dict[str, bool | None] = {}
    for line in lab.log("controller").read_text().splitlines():
        if '"agent looked at"' in line:
            told = json.loads(line)
            alive[told["node"]] = told["alive"]
    if silent := [node for node in lab.hosts if alive.get(node) is False]:
        raise NotYet(f"{', '.join(silent)} count as silent")


def assert_whole(lab: Lab, vm: dict[str, Any]) -> None:
    """A VM that ran has its one ACTIVE copy where status says it is, with a disk that is the one it was made with."""
    meta = vm["metadata"]

    def told() -> str:
        now = json.loads(lab.kubectl("get", "fvm", meta["name"], "-n", meta["namespace"], "-o", "json").stdout)
        nodes = json.loads(lab.kubectl("get", "computenodes", "-o", "json").stdout)["items"]
        held = [(n["metadata"]["name"], item) for n in nodes for item in n["status"].get("inventory", ()) if item["uid"] == meta["uid"]]
        if [name for name, item in held if item["role"] == "ACTIVE"] != [now["status"]["nodeName"]]:
            raise NotYet(f"{now['status']['nodeName']} was expected to have the ACTIVE copy: {held}")
        return str(now["status"]["nodeName"])

    node = wait_until(f"the one ACTIVE copy of {meta['name']} where its status says", told, seconds=60, log=lab.log("controller"))
    (disk,) = (lab.hosts[node].root / "instances" / meta["uid"]).glob("root.*")
    with tempfile.TemporaryDirectory() as directory:
        raw = Path(directory, "raw")
        run(["qemu-img", "convert", "-f", disk.suffix[1:], "-O", "raw", disk, raw])
        assert read_file(raw, "/marker").startswith("worker-")


def switch_off(lab: Lab, namespace: str, name: str, uid: str) -> None:
    """End a VM, and shut its start gate, whatever holds it: a Migration that no test has decided, say."""
    lab.kubectl("patch", "fvm", name, "-n", namespace, "--type=merge", "-p", '{"spec":{"runStrategy":"Halted"}}', check=False)
    lab.kubectl("patch", "placement", uid, "--type=merge", "-p", '{"spec":{"running":false}}', check=False)
    for node in qemu_by_host(lab.hosts, uid):
        lab.hosts[node].run(["/usr/bin/virsh", "-c", "qemu:///system", "destroy", uid], check=False)  # it may have just ended
