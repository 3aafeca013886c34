"""The controller's metrics. No label carries the name of a VM, a Migration or a node."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kubeferry.api.meta import Condition, Status, condition, is_true
from kubeferry.api.migration import MigrationPhase, MigrationStatus
from kubeferry.api.reasons import FINISHED, NEEDS_ATTENTION, SUCCEEDED
from kubeferry.controller.store import Store
from kubeferry.scheduling.pipeline import Result

PHASE_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600)
OFF_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600)
PASS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """What is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._finished = Counter("kubeferry_migrations_finished", "Migrations that have ended.", ["outcome", "reason"], registry=registry)
        self._durations = Histogram(
            "kubeferry_migration_duration_seconds", "How long a phase took.", ["phase"], registry=registry, buckets=PHASE_SECONDS
        )
        self._downtime = Histogram(
            "kubeferry_migration_downtime_seconds",
            "For how long a Migration kept its VM off at most.",
            registry=registry,
            buckets=OFF_SECONDS,
        )
        self._passes = Histogram(
            "kubeferry_scheduling_pass_seconds", "How long a scheduling pass took.", registry=registry, buckets=PASS_SECONDS
        )
        self._rejections = Counter(
            "kubeferry_scheduling_rejections", "Nodes that scheduling passes rejected.", ["reason"], registry=registry
        )

    def told(self, before: MigrationStatus | None, now: MigrationStatus) -> None:
        """A Migration's status was written."""
        known = () if before is None else before.phase_transitions
        passed = now.phase_transitions
        for ended, begun in pairwise(passed):
            if begun not in known:
                self._durations.labels(ended.phase).observe((begun.time - ended.time).total_seconds())
        if is_true(now.conditions, FINISHED) and not (before is not None and is_true(before.conditions, FINISHED)):
            end = condition(now.conditions, SUCCEEDED)
            self._finished.labels(now.phase, "" if end is None else end.reason).inc()
            if now.downtime is not None:
                self._downtime.observe(now.downtime.milliseconds / 1000)

    def passed(self, result: Result, seconds: float) -> None:
        """A scheduling pass has ended."""
        self._passes.observe(seconds)
        for each in result.rejected:
            self._rejections.labels(each.reason).inc(len(each.nodes))


class StoreCollector(Collector):
    """What is counted at a scrape, from what watching has seen."""

    def __init__(self, store: Store, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        statuses = [m.status for m in self._store.all_migrations() if m.status is not None]
        migrations = GaugeMetricFamily("kubeferry_migrations", "Migrations, by phase.", labels=["phase"])
        phases = Tally(status.phase for status in statuses)
        for phase in MigrationPhase:
            migrations.add_metric([phase], phases[phase])
        yield migrations
        yield self._oldest_decision(statuses)
        attention = GaugeMetricFamily("kubeferry_needs_attention", "VMs and Migrations that a human must look at.", labels=["reason"])
        told = [status.conditions for status in statuses] + [vm.status.conditions for vm in self._store.all_vms() if vm.status is not None]
        for reason, count in sorted(Tally(each.reason for each in _attention(told)).items()):
            attention.add_metric([reason], count)
        yield attention

    def _oldest_decision(self, statuses: list[MigrationStatus]) -> Metric:
        since = [s.phase_transitions[-1].time for s in statuses if s.phase == MigrationPhase.AWAITING_DECISION and s.phase_transitions]
        age = (self._clock() - min(since)).total_seconds() if since else 0.0
        return GaugeMetricFamily("kubeferry_pending_decision_age_seconds", "For how long the oldest decision is awaited.", value=age)


def _attention(told: list[tuple[Condition, ...]]) -> Iterator[Condition]:
    for conditions in told:
        found = condition(conditions, NEEDS_ATTENTION)
        if found is not None and found.status == Status.TRUE:
            yield found
