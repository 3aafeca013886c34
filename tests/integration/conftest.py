"""One lab for all tests that need nothing but a cluster: each test has a namespace and VMs of its own."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.lab import Lab
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


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of the test's own. Its VMs are off afterwards: a guest that idles takes 3 % of a processor from those that follow."""
    name = f"test-{next(_numbers)}"
    lab.kubectl("create", "namespace", name)
    yield name
    for vm in json.loads(lab.kubectl("get", "fvm", "-n", name, "-o", "json").stdout)["items"]:
        switch_off(lab, vm["metadata"]["uid"])


def switch_off(lab: Lab, uid: str) -> None:
    """End a VM, and shut its start gate."""
    lab.kubectl("patch", "placement", uid, "--type=merge", "-p", '{"spec":{"running":false}}', check=False)
    for node in qemu_by_host(lab.hosts, uid):
        lab.hosts[node].run(["/usr/bin/virsh", "-c", "qemu:///system", "destroy", uid], check=False)  # it may have just ended
