"""The controller's metrics: what is counted as it happens, and what is counted when it is asked."""

import dataclasses
from datetime import timedelta

import pytest
from builders import NOON, after, migration, vm
from move_life import Life
from prometheus_client import CollectorRegistry, generate_latest

from kubeferry.api import reasons
from kubeferry.api.meta import Status, with_condition
from kubeferry.api.migration import MigrationPhase, MigrationStatus, PhaseTransition
from kubeferry.api.task import Verb
from kubeferry.api.virtualmachine import PrintableStatus, VirtualMachineStatus
from kubeferry.controller.metrics import Metrics, StoreCollector
from kubeferry.controller.store import Store
from kubeferry.scheduling.pipeline import Rejection, Result


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"kubeferry_{name}", labels)


def phases(*told: tuple[MigrationPhase, float]) -> MigrationStatus:
    """A status in the last of these phases, each with the seconds past noon at which it began."""
    return MigrationStatus(phase=told[-1][0], phase_transitions=tuple(PhaseTransition(phase=p, time=after(s)) for p, s in told))


def test_a_phase_that_has_ended_is_measured_once(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    sealing = phases((MigrationPhase.PREPARING, 0), (MigrationPhase.SEALING, 3))
    copying = phases((MigrationPhase.PREPARING, 0), (MigrationPhase.SEALING, 3), (MigrationPhase.COPYING, 10))
    for before, now in ((None, sealing), (sealing, sealing), (sealing, copying)):
        metrics.told(before, now)
    assert value(registry, "migration_duration_seconds_sum", phase="Preparing") == 3
    assert value(registry, "migration_duration_seconds_count", phase="Preparing") == 1
    assert value(registry, "migration_duration_seconds_sum", phase="Sealing") == 7
    assert value(registry, "migration_duration_seconds_count", phase="Copying") is None


def test_an_end_is_counted_by_its_outcome_and_reason_with_the_time_that_the_vm_was_off(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    life = Life()
    life.go_on_to(Verb.ACTIVATE)
    life.now = 30
    life.answer(Verb.ACTIVATE)
    awaiting = life.status()
    metrics.told(None, awaiting)
    assert value(registry, "migrations_finished_total", outcome="Confirmed", reason="Confirmed") is None
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    metrics.told(awaiting, life.status())
    metrics.told(life.status(), life.status())
    assert value(registry, "migrations_finished_total", outcome="Confirmed", reason="Confirmed") == 1
    assert value(registry, "migration_downtime_seconds_sum") == 30
    assert value(registry, "migration_downtime_seconds_count") == 1


def test_a_pass_is_measured_and_every_node_that_it_rejects_is_counted_by_reason(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    rejected = (Rejection("IsSource", ("a",), ("",)), Rejection("NodeNotReady", ("b", "c"), ("", "")))
    metrics.passed(Result(feasible=(), rejected=rejected, errors=(), left=()), 0.25)
    assert value(registry, "scheduling_pass_seconds_sum") == 0.25
    assert value(registry, "scheduling_rejections_total", reason="NodeNotReady") == 2
    assert value(registry, "scheduling_rejections_total", reason="IsSource") == 1


def attention(reason: str) -> VirtualMachineStatus:
    conditions = with_condition((), reasons.NEEDS_ATTENTION, Status.TRUE, reason, "look", 1, NOON)
    return VirtualMachineStatus(printable_status=PrintableStatus.ERROR, conditions=conditions)


def test_what_is_there_is_counted_when_it_is_asked(registry: CollectorRegistry) -> None:
    store = Store()
    registry.register(StoreCollector(store, lambda: after(3600)))
    assert value(registry, "migrations", phase="AwaitingDecision") == 0
    assert value(registry, "pending_decision_age_seconds") == 0
    for name, status in (
        ("old", phases((MigrationPhase.ACTIVATING, 0), (MigrationPhase.AWAITING_DECISION, 600))),
        ("young", phases((MigrationPhase.AWAITING_DECISION, 3000))),
        ("done", phases((MigrationPhase.CONFIRMED, 1))),
        ("older", MigrationStatus(phase=MigrationPhase.AWAITING_DECISION)),  # told by a version that noted no times
        ("new", None),
    ):
        store.remember(dataclasses.replace(migration(name), status=status))
    store.remember(dataclasses.replace(vm(), status=attention("NodeSilent")))
    assert value(registry, "migrations", phase="AwaitingDecision") == 3
    assert value(registry, "migrations", phase="Confirmed") == 1
    assert value(registry, "pending_decision_age_seconds") == timedelta(minutes=50).total_seconds()
    assert value(registry, "needs_attention", reason="NodeSilent") == 1


def test_no_label_carries_a_name(registry: CollectorRegistry) -> None:
    store = Store()
    metrics = Metrics(registry)
    registry.register(StoreCollector(store))
    life = Life().go_on_to()
    metrics.told(None, life.status())
    store.remember(dataclasses.replace(migration("a-name"), status=life.status()))
    store.remember(vm())
    text = generate_latest(registry).decode()
    assert "kubeferry_migrations" in text
    for name in ("a-name", "web-0", "shop", 'node="'):
        assert name not in text
