"""Serving metrics: what a scraper gets, and what an administrator is told when it can't be."""

import kopf
import pytest
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry, Gauge
from pydantic import ValidationError
from scraper import get

from kubeferry import __version__
from kubeferry.kube.queue import WorkQueue
from kubeferry.kube.telemetry import MetricsServer, MetricsSettings, ProcessCollector

NEARBY = MetricsSettings.model_validate({"address": "127.0.0.1", "port": 0})


async def test_a_scraper_gets_the_numbers_of_now() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("answer", "To all.", registry=registry)
    server = MetricsServer(NEARBY, registry)
    await server.start()
    try:
        for now in (41, 42):
            gauge.set(now)
            status, kind, body = await get(server.port)
            assert (status, f"answer {now}.0" in body) == (200, True)
            assert kind.startswith("text/plain; version=")
        assert (await get(server.port, "/else"))[0] == 404
    finally:
        await server.stop()


async def test_a_port_that_is_taken_ends_the_start_with_its_number() -> None:
    first = MetricsServer(NEARBY, CollectorRegistry())
    await first.start()
    second = MetricsServer(MetricsSettings.model_validate({"address": "127.0.0.1", "port": first.port}), CollectorRegistry())
    try:
        with pytest.raises(kopf.PermanentError, match=f"metrics can't be served at 127.0.0.1 port {first.port}"):
            await second.start()
    finally:
        await second.stop()
        await first.stop()


async def test_a_start_that_is_tried_again_listens_at_the_same_port() -> None:
    server = MetricsServer(NEARBY, CollectorRegistry())
    await server.start()
    port = server.port
    await server.start()
    try:
        assert server.port == port
        assert (await get(port))[0] == 200
    finally:
        await server.stop()


async def test_what_was_never_started_is_stopped_and_has_no_port() -> None:
    server = MetricsServer(NEARBY, CollectorRegistry())
    with pytest.raises(ValueError, match="not served yet"):
        _ = server.port
    await server.stop()


def test_by_default_every_address_is_listened_at() -> None:
    assert (str(MetricsSettings().address), MetricsSettings().port) == ("0.0.0.0", 9808)  # noqa: S104 - what is told, not bound


@pytest.mark.parametrize("settings", [{"address": "host-a"}, {"port": 65536}, {"port": -1}, {"ports": 1}])
def test_settings_that_can_not_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MetricsSettings.model_validate(settings)


async def test_the_version_and_the_queues_are_told() -> None:
    async def fails(_: str) -> None:
        raise RuntimeError("no")

    clock = ManualClock()
    queues = [WorkQueue(fails, clock), WorkQueue(fails, clock)]
    registry = CollectorRegistry()
    registry.register(ProcessCollector(queues))
    assert registry.get_sample_value("kubeferry_build_info", {"version": __version__}) == 1
    for queue in queues:
        queue.add("a")
        queue.add("a")
    queues[0].add("b")
    assert registry.get_sample_value("kubeferry_work_queue_depth") == 3
    await queues[0]._work_on("a")
    assert registry.get_sample_value("kubeferry_reconcile_errors_total") == 1
