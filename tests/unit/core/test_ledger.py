"""The ledger: outcomes recorded, old ones dropped, tasks asked by deterministic names."""

import dataclasses

from builders import NOON, after, failed, placement, succeeded, task

from kubeferry.api import reasons
from kubeferry.api.placement import StepState
from kubeferry.api.task import TaskState, Verb
from kubeferry.core import ledger
from kubeferry.core.observed import Stranger


def test_a_tasks_name_depends_on_vm_epoch_number_and_verb_only() -> None:
    spec = placement().spec
    (step,) = spec.steps
    name = ledger.task_name(spec, step)
    assert name == ledger.task_name(dataclasses.replace(spec, node_name="b", seq=9), step)
    assert name != ledger.task_name(dataclasses.replace(spec, lineage=("x1",)), step)
    assert name != ledger.task_name(spec, dataclasses.replace(step, seq=2))
    assert name != ledger.task_name(spec, dataclasses.replace(step, verb=Verb.START))
    assert len(name) <= 63


def test_a_step_of_an_older_epoch_keeps_its_name_and_its_id() -> None:
    stored = placement()
    before = ledger.task(stored, stored.spec.steps[0])
    later = placement(stored.spec, epoch=2, lineage=("e2", "e1"))
    assert ledger.task(later, later.spec.steps[0]) == before


def test_an_answer_is_taken_once_and_acknowledged_on_the_copy() -> None:
    stored = placement(epoch=2, lineage=("e2", "e1"))
    asked = ledger.ask(stored.spec, Verb.START, "a", "host-a", NOON)
    stored = placement(asked)
    done = task(ledger.task(stored, stored.spec.steps[1]), succeeded(TaskState.RUNNING))
    settled = ledger.settle(stored, [done], after(1))
    assert settled.steps[1].state == StepState.SUCCEEDED
    assert settled.steps[1].finished_at == after(1)
    assert settled.copies[0].epoch_id == "e2"
    assert ledger.settle(placement(settled), [done], after(9)) == settled


def test_a_task_of_another_history_with_the_same_number_is_not_taken_for_an_answer() -> None:
    stored = placement()
    other = placement(lineage=("x1",))
    stray = task(ledger.task(other, other.spec.steps[0]), succeeded(TaskState.CREATED))
    assert ledger.settle(stored, [stray], after(1)) == stored.spec


def test_failures_go_after_an_hour_but_the_newest_stays() -> None:
    spec = placement().spec
    for _ in range(2):
        refused = task(ledger.task(placement(spec), spec.steps[-1]), failed(reasons.INSUFFICIENT_DISK))
        spec = ledger.ask(ledger.settle(placement(spec), [refused], NOON), Verb.CREATE, "a", "host-a", NOON)
    spec = dataclasses.replace(spec, steps=spec.steps[:2])
    assert [s.seq for s in ledger.settle(placement(spec), [], after(3599)).steps] == [1, 2]
    assert [s.seq for s in ledger.settle(placement(spec), [], after(3600)).steps] == [2]


def test_steps_of_an_older_epoch_go_once_they_are_settled() -> None:
    stored = placement(epoch=2, lineage=("e2", "e1"))
    assert ledger.settle(stored, [], after(9999)).steps == stored.spec.steps
    done = task(ledger.task(stored, stored.spec.steps[0]), succeeded(TaskState.CREATED))
    assert ledger.settle(stored, [done], after(1)).steps == ()


def test_a_task_that_a_newer_ledger_asked_is_not_taken_for_an_old_one() -> None:
    stored = placement()
    newer = placement(ledger.ask(stored.spec, Verb.START, "a", "host-a", NOON))
    asked = task(ledger.task(newer, newer.spec.steps[1]))
    assert ledger.recorded(stored.spec, [asked]) == ()


def test_a_task_that_bears_the_right_name_and_asks_something_else_answers_for_nothing() -> None:
    stored = placement()
    new = ledger.task(stored, stored.spec.steps[0])
    forged = task(dataclasses.replace(new, spec=dataclasses.replace(new.spec, node="b")), succeeded(TaskState.CREATED))
    assert ledger.settle(stored, [forged], after(1)) == stored.spec
    assert ledger.strangers(stored, [forged]) == (Stranger(new, forged.spec),)
    assert ledger.strangers(stored, [task(new)]) == ()
    assert ledger.strangers(stored, []) == ()


def test_an_old_step_that_ends_late_takes_no_acknowledgement_back() -> None:
    stored = placement(epoch=2, lineage=("e2", "e1"))
    stored = placement(ledger.ask(stored.spec, Verb.START, "a", "host-a", NOON))
    late, newer = (task(ledger.task(stored, step), succeeded(TaskState.RUNNING)) for step in stored.spec.steps)
    first = ledger.settle(stored, [newer], after(1))
    assert first.copies[0].epoch_id == "e2"
    assert ledger.settle(placement(first), [late], after(2)).copies[0].epoch_id == "e2"
    assert ledger.settle(stored, [late, newer], after(2)).copies[0].epoch_id == "e2"


def test_a_step_that_is_pending_elsewhere_acknowledges_nothing_here() -> None:
    stored = placement(epoch=2, lineage=("e2", "e1"))
    assert ledger.settle(stored, [], after(1)).copies[0].epoch_id == "e1"


def test_of_what_went_well_the_newest_of_each_verb_stays() -> None:
    spec = placement().spec
    for _ in range(3):
        spec = ledger.ask(spec, Verb.START, "a", "host-a", NOON)
    stored = placement(spec)
    done = [task(ledger.task(stored, step), succeeded(TaskState.RUNNING)) for step in spec.steps]
    assert [(s.seq, s.verb) for s in ledger.settle(stored, done, after(1)).steps] == [(1, Verb.CREATE), (4, Verb.START)]


def test_a_vm_was_created_once_its_create_went_well_or_an_epoch_has_passed() -> None:
    stored = placement()
    assert not ledger.created(stored.spec)
    done = task(ledger.task(stored, stored.spec.steps[0]), succeeded(TaskState.CREATED))
    assert ledger.created(ledger.settle(stored, [done], after(1)))
    assert ledger.created(dataclasses.replace(stored.spec, epoch=2, lineage=("e2", "e1"), steps=()))
