"""An agent's metrics: how long tasks take and how they end, and what a Copy sends."""

from agent_rig import Rig
from prometheus_client import CollectorRegistry

from kubeferry.agent.metrics import Metrics
from kubeferry.api.task import TaskPhase, TaskProgress, Verb


def test_the_bytes_of_a_copy_are_counted_as_they_go_and_passed_on() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    passed: list[int] = []
    for had in (0, 30):  # of what the target has of an earlier try, nothing is sent
        tell = metrics.counted(lambda progress: passed.append(progress.bytes_done))
        for done in (0, 40, 40, 100):
            tell(TaskProgress(bytes_total=100, bytes_done=done, bytes_sent=max(0, done - had)))
    assert passed == [0, 40, 40, 100] * 2
    assert registry.get_sample_value("kubeferry_transfer_bytes_total", {"kind": "sent"}) == 170


def test_a_task_is_measured_by_verb_and_outcome() -> None:
    registry = CollectorRegistry()
    Metrics(registry).ended(Verb.SEAL, TaskPhase.FAILED, 2.5)
    labels = {"verb": "Seal", "outcome": "Failed"}
    assert registry.get_sample_value("kubeferry_host_task_seconds_sum", labels) == 2.5


async def test_a_worker_measures_the_tasks_that_it_ends(rig: Rig) -> None:
    await rig.created()
    labels = {"verb": "Create", "outcome": "Succeeded"}
    assert rig.metrics.get_sample_value("kubeferry_host_task_seconds_count", labels) == 1
