"""One lab for all tests that need nothing but a cluster: each test has a namespace and VMs of its own."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_people import Caller

from lab.lab import Lab
from lab.steps import NotYet, wait_until
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


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of the test's own. Its VMs are off afterwards: a guest that idles takes 3 % of a processor from those that follow."""
    name = f"test-{next(_numbers)}"
    lab.kubectl("create", "namespace", name)
    wait_until("the controller to see every agent alive", lambda: none_silent(lab), seconds=90, log=lab.log("controller"))
    yield name
    for vm in json.loads(lab.kubectl("get", "fvm", "-n", name, "-o", "json").stdout)["items"]:
        switch_off(lab, vm["metadata"]["uid"])


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


def switch_off(lab: Lab, uid: str) -> None:
    """End a VM, and shut its start gate."""
    lab.kubectl("patch", "placement", uid, "--type=merge", "-p", '{"spec":{"running":false}}', check=False)
    for node in qemu_by_host(lab.hosts, uid):
        lab.hosts[node].run(["/usr/bin/virsh", "-c", "qemu:///system", "destroy", uid], check=False)  # it may have just ended
