"""One lab for all tests that need nothing but a cluster: each test has a namespace and VMs of its own."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.lab import Lab

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
def namespace(lab: Lab) -> str:
    """A namespace of the test's own."""
    name = f"test-{next(_numbers)}"
    lab.kubectl("create", "namespace", name)
    return name
