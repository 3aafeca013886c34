"""How fast a Copy may be, and that nothing else goes by it."""

import dataclasses

import pytest
from builders import migration
from move_life import Life

from kubeferry.api import reasons
from kubeferry.api.placement import StepState
from kubeferry.api.task import HostTaskStatus, Storage, TaskError, TaskPhase, Verb


def limit(life: Life) -> int | None:
    block = life.asked(Verb.COPY).spec.copy
    assert block is not None
    return block.bandwidth_limit


def limited(life: Life, quantity: str | None) -> None:
    """A person changes the Migration."""
    m = life.migrations["move"]
    life.migrations["move"] = dataclasses.replace(m, spec=migration(bandwidthLimit=quantity).spec)
    life.step()


@pytest.mark.parametrize(("quantity", "bytes_a_second"), [(None, None), ("200Mi", 200 << 20)])
def test_a_copy_is_asked_with_the_limit_of_its_migration(quantity: str | None, bytes_a_second: int | None) -> None:
    life = Life(migration(bandwidthLimit=quantity)).go_on_to(Verb.COPY)
    assert limit(life) == bytes_a_second


def test_a_limit_that_changes_changes_the_task_that_runs_and_nothing_else() -> None:
    life = Life(migration(bandwidthLimit="1Mi")).go_on_to(Verb.COPY)
    before, name = life.spec, life.asked(Verb.COPY).metadata.name
    for quantity, expected in (("2Mi", 2 << 20), (None, None), ("64Ki", 64 << 10)):
        limited(life, quantity)
        assert limit(life) == expected
    assert (life.spec, life.asked(Verb.COPY).metadata.name) == (before, name)
    life.answer(Verb.COPY)
    assert (Verb.ACTIVATE, "b") in life.open()


def test_other_tasks_have_no_limit_and_one_that_has_ended_keeps_its_own() -> None:
    life = Life(migration(bandwidthLimit="1Mi")).go_on_to(Verb.SEAL)
    limited(life, "2Mi")
    assert life.asked(Verb.SEAL).spec.copy is None
    life.answer(Verb.SEAL)
    ended = life.asked(Verb.COPY)
    status = HostTaskStatus(phase=TaskPhase.FAILED, error=TaskError(reason=reasons.TRANSFER_BROKEN, message="cut", retryable=True))
    life.tasks[ended.metadata.name] = dataclasses.replace(ended, status=status)
    m = life.migrations["move"]
    life.migrations["move"] = dataclasses.replace(m, spec=migration(bandwidthLimit="3Mi").spec)
    decision = life.decide()
    assert decision.adjusted == ()
    life.step()
    assert [s.state for s in life.spec.steps if s.verb == Verb.COPY] == [StepState.FAILED]


def test_the_limit_of_a_migration_that_is_gone_stays() -> None:
    life = Life(migration(bandwidthLimit="1Mi")).go_on_to(Verb.COPY)
    life.tasks = {name: dataclasses.replace(task, status=HostTaskStatus(phase=TaskPhase.RUNNING)) for name, task in life.tasks.items()}
    before = life.asked(Verb.COPY)
    life.migrations.clear()
    decision = life.decide()
    assert all(task.spec == before.spec for task in decision.adjusted)


def test_what_preflight_found_is_told() -> None:
    life = Life().go_on_to(Verb.PREFLIGHT)
    assert life.status().storage is None
    life.answer(Verb.PREFLIGHT)
    assert (life.status().storage, life.spec.move and life.spec.move.storage) == (Storage.LOCAL, Storage.LOCAL)


@pytest.mark.parametrize(("reason", "storage"), [(reasons.STORAGE_SHARED, Storage.SHARED), (reasons.STORAGE_UNKNOWN, Storage.UNKNOWN)])
def test_storage_that_is_not_each_hosts_own_ends_it_before_the_vm_is_stopped(reason: str, storage: Storage) -> None:
    life = Life(migration(targetNode="b")).go_on_to(Verb.PREFLIGHT)
    life.target = None
    life.answer(Verb.PREFLIGHT, reason)
    assert life.told(reasons.FINISHED) == ("True", reason)
    assert life.status().storage == storage
    assert all(step.verb != Verb.SEAL for step in life.spec.steps)
