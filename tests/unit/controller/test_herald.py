"""Events of what was told: written once, about the right object, and never in the way of the work."""

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from builders import NOON, migration, vm
from fake_cluster import FakeServer
from move_life import Life
from prometheus_client import CollectorRegistry
from structlog.contextvars import bound_contextvars, get_contextvars, merge_contextvars
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kubeferry.api.migration import Migration, MigrationStatus
from kubeferry.controller.herald import WAITING, Herald
from kubeferry.controller.metrics import Metrics
from kubeferry.core.project import unplaced
from kubeferry.kube.errors import Forbidden
from kubeferry.kube.events import EVENTS


async def told_of(herald: Herald, server: FakeServer) -> list[dict[str, Any]]:
    """What was written, once nothing waits any more."""
    herald.start()
    await herald.stop(timedelta(seconds=30))
    return [body for ref, body in server.objects.items() if ref.endpoint == EVENTS]


@pytest.fixture
def read() -> Migration:
    return migration()


@pytest.fixture
def status() -> MigrationStatus:
    return Life().go_on_to().status()


async def test_an_event_names_the_object_what_has_happened_and_who_reports_it(
    herald: Herald, server: FakeServer, read: Migration, status: MigrationStatus
) -> None:
    herald.told(read, status)
    first, *_ = await told_of(herald, server)
    about = {
        "apiVersion": "kubeferry.io/v1alpha1",
        "kind": "Migration",
        "namespace": "shop",
        "name": "move",
        "uid": "uid-move",
        "resourceVersion": "3",
    }
    assert first["regarding"] == about
    assert (first["apiVersion"], first["kind"], first["metadata"]["namespace"]) == ("events.k8s.io/v1", "Event", "shop")
    assert (first["reason"], first["note"], first["type"], first["action"]) == ("Scheduled", "from a to b", "Normal", "Migrate")
    assert first["reportingController"] == "kubeferry.io/controller"
    assert first["reportingInstance"]
    assert first["eventTime"].endswith("Z")
    assert len(first["eventTime"]) == len("2026-01-01T00:00:00.000000Z")


async def test_what_was_told_already_is_not_told_again(
    herald: Herald, server: FakeServer, read: Migration, status: MigrationStatus
) -> None:
    herald.told(read, status)
    before = len(await told_of(herald, server))
    herald.told(read, status)  # another controller, or a second life of this one, after the same write
    assert len(await told_of(herald, server)) == before
    herald.told(dataclasses.replace(read, status=status), status)
    assert len(await told_of(herald, server)) == before
    newer = dataclasses.replace(read, metadata=dataclasses.replace(read.metadata, resource_version="9"))
    herald.told(newer, status)  # the same once more, later
    assert len(await told_of(herald, server)) == 2 * before


async def test_an_event_that_is_refused_is_logged_and_the_others_are_told(
    herald: Herald, server: FakeServer, read: Migration, status: MigrationStatus, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = server.create

    async def refusing(ref: Any, body: Any) -> Any:
        if body["reason"] == "Scheduled":
            raise Forbidden("create Event: HTTP 403: namespace is being terminated")
        return await create(ref, body)

    monkeypatch.setattr(server, "create", refusing)
    herald.told(read, status)
    assert "SourceSealed" in [body["reason"] for body in await told_of(herald, server)]
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert "being terminated" in warning["error"]


async def test_each_line_about_an_event_names_its_object_and_what_the_pass_told(
    herald: Herald, server: FakeServer, read: Migration, status: MigrationStatus
) -> None:
    with capture_logs([merge_contextvars]) as logs:
        with bound_contextvars(vm="shop/web-0", vm_uid="vm-1", migration="shop/the-one-before", node="a", epoch=2, verb="Copy"):
            herald.told(read, status)
            herald.told(vm(), unplaced(vm(), "InvalidSpec", "no", NOON))
        with mock.patch.object(server, "create", side_effect=[Forbidden("create Event: HTTP 403"), ZeroDivisionError, *[{}] * 9]):
            await told_of(herald, server)
    of_pass = {"vm": "shop/web-0", "vm_uid": "vm-1", "node": "a", "epoch": 2, "verb": "Copy"}
    moving = [line for line in logs if line.items() >= {**of_pass, "migration": "shop/move"}.items()]
    assert {line["event"] for line in moving} == {"event", "event could not be told"}
    assert {line["event_reason"] for line in moving if line["event"] != "event"} == {"Scheduled", "SourceSealed"}
    (of_vm,) = [line for line in logs if line not in moving]
    assert of_vm.items() >= {**of_pass, "kind": "VirtualMachine", "migration": "shop/the-one-before"}.items()
    assert get_contextvars() == {}


async def test_a_defect_is_logged_and_the_others_are_told(
    herald: Herald, server: FakeServer, read: Migration, status: MigrationStatus, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = server.create

    async def broken(ref: Any, body: Any) -> Any:
        if body["reason"] == "Scheduled":
            raise ZeroDivisionError
        return await create(ref, body)

    monkeypatch.setattr(server, "create", broken)
    herald.told(read, status)
    assert "SourceSealed" in [body["reason"] for body in await told_of(herald, server)]
    assert [line["log_level"] for line in logs if line["event"] == "event could not be told"] == ["error"]


async def test_a_note_is_cut_to_what_the_api_server_takes_and_stays_text(server: FakeServer, herald: Herald) -> None:
    machine = vm()
    status = unplaced(machine, "InvalidSpec", "ä" * 900, NOON)
    herald.told(machine, status)
    (event,) = await told_of(herald, server)
    assert (event["reason"], event["type"], event["action"]) == ("NeedsAttention", "Warning", "Run")
    assert len(event["note"].encode()) <= 1024
    assert event["note"].endswith("ä")


async def test_a_name_is_never_longer_than_an_object_may_be_called(server: FakeServer, herald: Herald, status: MigrationStatus) -> None:
    long = migration("m" * 253)
    herald.told(long, status)
    assert {len(body["metadata"]["name"]) for body in await told_of(herald, server)} == {253}


async def test_no_pass_waits_for_an_event_and_what_can_not_be_told_in_time_is_cut_off(
    herald: Herald, server: FakeServer, read: Migration, status: MigrationStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hanging(*_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(server, "create", hanging)
    herald.start()
    herald.told(read, status)
    await begun.wait()
    async with asyncio.timeout(30):
        await herald.stop(timedelta(seconds=0.01))


async def test_more_events_than_can_wait_are_not_told_and_nothing_fails(
    herald: Herald, read: Migration, status: MigrationStatus, logs: list[EventDict]
) -> None:
    for _ in range(WAITING):
        herald.told(read, status)
    assert "event is not told: too many wait" in [line["event"] for line in logs]


async def test_what_was_never_started_is_stopped(herald: Herald) -> None:
    await herald.stop(timedelta())


async def test_a_status_of_another_kind_is_a_defect(herald: Herald) -> None:
    with pytest.raises(TypeError, match="is no status of a Migration"):
        herald.told(migration(), object())


async def test_every_end_is_counted_once(server: FakeServer, read: Migration) -> None:
    registry = CollectorRegistry()
    herald = Herald(server, Metrics(registry))
    life = Life()
    life.target = None
    life.step()
    ended = life.status()
    herald.told(read, ended)
    herald.told(dataclasses.replace(read, status=ended), ended)
    labels = {"outcome": "Failed", "reason": "NoFeasibleNode"}
    assert registry.get_sample_value("kubeferry_migrations_finished_total", labels) == 1
