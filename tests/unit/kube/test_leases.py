"""Whose agent is alive: judged by what was seen, never by what a clock elsewhere says."""

from datetime import UTC, datetime

import pytest
from fake_cluster import FakeServer

from kubeferry.kube.leases import LEASES, LeaseWatch, read_leases, renew_lease
from kubeferry.kube.server import Ref


@pytest.fixture
def leases() -> LeaseWatch:
    return LeaseWatch()


def test_a_lease_seen_for_the_first_time_is_neither_fresh_nor_old_until_it_changes_or_forty_seconds_passed(leases: LeaseWatch) -> None:
    assert leases.saw({"n1": "2999-01-01"}, 100.0) == {"n1"}
    assert leases.fresh("n1", 100.0) is None
    assert leases.fresh("n1", 140.0) is None
    assert leases.fresh("n1", 140.1) is False
    assert leases.undecided
    assert leases.saw({"n1": "2999-01-01"}, 141.0) == {"n1"}
    assert not leases.undecided


def test_a_lease_is_fresh_from_its_first_change_for_forty_seconds(leases: LeaseWatch) -> None:
    leases.saw({"n1": "t0"}, 100.0)
    assert leases.saw({"n1": "t1"}, 110.0) == {"n1"}
    assert leases.fresh("n1", 150.0)
    assert not leases.fresh("n1", 150.1)


def test_a_lease_whose_clock_went_back_is_fresh_because_it_changed(leases: LeaseWatch) -> None:
    leases.saw({"n1": "2026-01-02"}, 100.0)
    leases.saw({"n1": "2026-01-01"}, 110.0)
    assert leases.fresh("n1", 110.0)


def test_a_node_is_told_once_when_it_falls_silent(leases: LeaseWatch) -> None:
    leases.saw({"n1": "t0"}, 100.0)
    leases.saw({"n1": "t1"}, 110.0)
    assert leases.saw({"n1": "t1"}, 150.0) == frozenset()
    assert leases.saw({"n1": "t1"}, 160.0) == {"n1"}
    assert leases.saw({"n1": "t1"}, 170.0) == frozenset()


def test_a_lease_that_went_is_not_fresh_and_must_change_again_when_it_is_back(leases: LeaseWatch) -> None:
    leases.saw({"n1": "t0"}, 100.0)
    leases.saw({"n1": "t1"}, 110.0)
    assert leases.saw({}, 115.0) == {"n1"}
    assert not leases.fresh("n1", 115.0)
    leases.saw({"n1": "t2"}, 120.0)
    assert not leases.fresh("n1", 120.0)


def test_a_node_without_a_lease_is_not_fresh(leases: LeaseWatch) -> None:
    assert not leases.fresh("n1", 100.0)


async def test_renewing_creates_the_lease_then_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    await renew_lease(server, "ferry", "n1", "host-1", datetime(2026, 1, 1, tzinfo=UTC))
    await renew_lease(server, "ferry", "n1", "host-2", datetime(2026, 1, 2, tzinfo=UTC))
    spec = {"holderIdentity": "host-2", "leaseDurationSeconds": 40, "renewTime": "2026-01-02T00:00:00.000000Z"}
    assert server.objects[Ref(LEASES, "n1", "ferry")]["spec"] == spec
    monkeypatch.setattr("kubeferry.kube.leases.PAGE_SIZE", 1)
    await renew_lease(server, "ferry", "n2", "host-3", datetime(2026, 1, 3, tzinfo=UTC))
    await renew_lease(server, "elsewhere", "n9", "host-9", datetime(2026, 1, 3, tzinfo=UTC))
    assert await read_leases(server, "ferry") == {"n1": "2026-01-02T00:00:00.000000Z", "n2": "2026-01-03T00:00:00.000000Z"}
