"""A fake API server, and a controller's parts on top of it."""

from collections.abc import Iterator

import pytest
from fake_cluster import FakeServer
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kubeferry.controller.store import Store
from kubeferry.kube.client import Cluster


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def cluster(server: FakeServer) -> Cluster:
    return Cluster(server, "kubeferry-controller")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as logs:
        yield logs
