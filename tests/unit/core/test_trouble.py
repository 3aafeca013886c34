"""What a human is told of a VM's tasks, and when it is looked at again whether there is something to tell."""

import dataclasses
from datetime import datetime, timedelta

import pytest
from builders import NOON, after, host, observed, placement, task, vm

from kubeferry.api import reasons
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask, HostTaskStatus, TaskPhase, Verb
from kubeferry.core import ledger, trouble
from kubeferry.core.observed import Host, Stranger
from kubeferry.core.vm import step


def asked(verb: Verb, node: str = "a") -> Placement:
    """A Placement with one Pending step, asked at noon."""
    empty = placement(steps=(), seq=0)
    return placement(ledger.ask(empty.spec, verb, node, f"host-{node}", NOON))


def stored(of: Placement, *, created: datetime | None = NOON, status: HostTaskStatus | None = None) -> HostTask:
    """The task of its one Pending step, as the API server holds it."""
    (new,) = ledger.pending(of)
    made = task(new, status)
    return dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, creation_timestamp=created))


def running(since: datetime | None) -> HostTaskStatus:
    return HostTaskStatus(phase=TaskPhase.RUNNING, started_at=since)


def found(of: Placement, seconds: float, *tasks: HostTask, hosts: tuple[Host, ...] = (host(),)) -> tuple[str | None, timedelta | None]:
    """The reason that is told that long after noon, and when to look again."""
    told, again = trouble.find(of, observed(vm=vm(), placement=of, tasks=tasks, hosts=hosts), after(seconds))
    return (None if told is None else told.reason), again


def test_an_unbegun_task_is_told_two_minutes_after_it_was_created_however_old_its_step_is() -> None:
    of = asked(Verb.CREATE)
    late = stored(of, created=after(600))
    assert found(of, 601, late) == (None, timedelta(seconds=119))
    assert found(of, 720, late) == (reasons.TASK_UNANSWERED, None)


def test_a_task_that_this_pass_creates_is_not_told_of_and_looked_at_in_two_minutes() -> None:
    assert found(asked(Verb.CREATE), 9999) == (None, timedelta(minutes=2))


@pytest.mark.parametrize(
    "hosts", [(host(lease=False),), (host(lease=None),), (host("b"),)], ids=["silent", "not known to live", "no ComputeNode"]
)
def test_an_unbegun_task_of_a_node_that_is_not_known_to_live_is_not_told_of(hosts: tuple[Host, ...]) -> None:
    of = asked(Verb.CREATE)
    assert found(of, 9999, stored(of), hosts=hosts) == (None, None)


@pytest.mark.parametrize(("verb", "patience"), [(Verb.CREATE, 3600), (Verb.START, 300)])
def test_a_task_that_does_not_end_is_told_when_its_verb_should_have(verb: Verb, patience: float) -> None:
    of = asked(verb)
    begun = stored(of, status=running(after(60)))
    assert found(of, 60, begun) == (None, timedelta(seconds=patience))
    assert found(of, 59 + patience, begun) == (None, timedelta(seconds=1))
    assert found(of, 60 + patience, begun) == (reasons.TASK_UNFINISHED, None)


def test_every_verb_has_its_patience() -> None:
    deadlines = {Verb.PREPARE, Verb.PREFLIGHT, Verb.COPY}
    assert set(trouble.UNFINISHED_AFTER) == set(Verb) - deadlines


def test_a_task_that_does_not_end_is_told_even_of_a_silent_node() -> None:
    of = asked(Verb.START)
    assert found(of, 300, stored(of, status=running(NOON)), hosts=(host(lease=False),)) == (reasons.TASK_UNFINISHED, None)


def test_a_task_whose_agent_does_not_say_when_it_began_counts_from_its_creation() -> None:
    of = asked(Verb.START)
    assert found(of, 310, stored(of, created=after(10), status=running(None))) == (reasons.TASK_UNFINISHED, None)


@pytest.mark.parametrize(("verb", "may_go_on"), [(Verb.CREATE, True), (Verb.START, False)])
def test_what_is_told_of_a_task_that_does_not_end_says_what_where_and_since_when(verb: Verb, may_go_on: bool) -> None:
    of = asked(verb)
    told, _ = trouble.find(of, observed(tasks=(stored(of, status=running(after(60))),), hosts=(host(),)), after(9999))
    assert told is not None
    assert told.message.startswith(f"{verb} was begun by the agent of a at 2026-01-01 12:01:00 UTC")
    assert ("may go on" in told.message) == may_go_on
    assert "kubectl get computenode a" in told.message


def test_what_is_told_of_an_unbegun_task_says_when_it_was_created() -> None:
    of = asked(Verb.CREATE)
    told, _ = trouble.find(of, observed(tasks=(stored(of, created=after(600)),), hosts=(host(),)), after(9999))
    assert told is not None
    assert told.message.startswith("Create was asked of a at 2026-01-01 12:10:00 UTC")


def test_a_step_that_waits_for_a_silent_node_hides_no_trouble_of_another() -> None:
    first = asked(Verb.CREATE)
    of = placement(ledger.ask(first.spec, Verb.START, "b", "host-b", NOON))
    tasks = tuple(
        dataclasses.replace(stored(first), metadata=dataclasses.replace(stored(first).metadata, name=new.name), spec=new.spec)
        for new in ledger.pending(of)
    )
    hosts = (host("a", lease=False), host("b"))
    assert found(of, 90, *tasks, hosts=hosts) == (None, timedelta(seconds=30))
    assert found(of, 120, *tasks, hosts=hosts) == (reasons.TASK_UNANSWERED, None)


def test_of_a_stranger_that_was_met_it_is_told_what_it_asks_and_what_was_expected() -> None:
    of = asked(Verb.CREATE)
    (wanted,) = ledger.pending(of)
    other = dataclasses.replace(wanted.spec, node="z", placement=dataclasses.replace(wanted.spec.placement, name="another"))
    told, again = trouble.find(of, observed(strangers=(Stranger(wanted, other),)), NOON)
    assert told is not None
    assert (told.reason, again) == (reasons.TASK_MISMATCH, timedelta(minutes=1))
    assert "it asks Create of z at epoch 1 for Placement another; expected was Create of a at epoch 1" in told.message
    assert f"kubectl get hosttask {wanted.name}" in told.message


def test_of_a_stranger_that_cannot_be_read_that_is_told() -> None:
    of = asked(Verb.CREATE)
    (wanted,) = ledger.pending(of)
    told, again = trouble.find(of, observed(strangers=(Stranger(wanted, None),)), NOON)
    assert told is not None
    assert (told.reason, again) == (reasons.TASK_MISMATCH, timedelta(minutes=1))
    assert "it can't be read; expected was Create of a" in told.message


def test_a_stranger_keeps_from_being_asked_what_it_stands_in_the_way_of_and_nothing_else() -> None:
    of = placement(ledger.ask(asked(Verb.CREATE).spec, Verb.START, "a", "host-a", NOON))
    first, second = ledger.pending(of)
    decision = step(observed(vm=vm(), placement=of, hosts=(host(),), strangers=(Stranger(first, None),)), NOON, "x")
    assert decision.tasks == (second,)
    assert decision.requeue_after == timedelta(minutes=1)
