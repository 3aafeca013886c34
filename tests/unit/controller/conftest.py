"""A fake API server, and a controller's parts on top of it."""

from collections.abc import Iterator

import pytest
from fake_cluster import FakeServer
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kubeferry.controller.herald import Herald
from kubeferry.controller.metrics import Metrics
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


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def herald(server: FakeServer, metrics: Metrics) -> Herald:
    return Herald(server, metrics)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as logs:
        yield logs
