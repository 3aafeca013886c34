"""The open tasks of a node."""

import dataclasses

from builders import NOON, UID, placement, succeeded, task

from kubeferry.agent.inbox import Inbox
from kubeferry.api.task import HostTask, HostTaskStatus, TaskPhase, TaskState, Verb
from kubeferry.core import ledger


def two_tasks() -> tuple[HostTask, HostTask]:
    """A Create, and a Start after it."""
    stored = placement()
    stored = placement(ledger.ask(stored.spec, Verb.START, "a", "host-a", NOON))
    create, start = (task(ledger.task(stored, step)) for step in stored.spec.steps)
    return create, start


def made_anew(old: HostTask) -> HostTask:
    """Another object of that name."""
    return dataclasses.replace(old, metadata=dataclasses.replace(old.metadata, uid="another"))


def test_tasks_come_in_the_order_in_which_they_were_asked_and_go_when_they_have_ended() -> None:
    create, start = two_tasks()
    inbox = Inbox()
    assert inbox.put(start)
    assert inbox.put(dataclasses.replace(create, status=HostTaskStatus(phase=TaskPhase.RUNNING)))
    assert [t.spec.verb for t in inbox.of(UID)] == [Verb.CREATE, Verb.START]
    assert inbox.of("another") == ()
    assert not inbox.put(dataclasses.replace(create, status=succeeded(TaskState.CREATED)))
    assert [t.spec.verb for t in inbox.of(UID)] == [Verb.START]
    inbox.end(start)
    assert not inbox.put(start)
    assert inbox.of(UID) == ()


def test_a_task_of_an_older_epoch_comes_last_whatever_its_number() -> None:
    create, start = two_tasks()
    old = dataclasses.replace(start, spec=dataclasses.replace(start.spec, epoch=1, seq=9))
    new = dataclasses.replace(create, spec=dataclasses.replace(create.spec, epoch=2, seq=3))
    inbox = Inbox()
    inbox.put(new)
    inbox.put(old)
    assert [(t.spec.epoch, t.spec.seq) for t in inbox.of(UID)] == [(2, 3), (1, 9)]


def test_late_news_that_a_task_is_gone_does_not_lose_the_one_that_bears_its_name_now() -> None:
    create, _ = two_tasks()
    again = made_anew(create)
    inbox = Inbox()
    inbox.put(create)
    inbox.put(again)
    inbox.drop(create.metadata.name, create.metadata.uid)
    assert inbox.of(UID) == (again,)


def test_late_news_that_a_task_has_ended_does_not_lose_the_one_that_bears_its_name_now() -> None:
    create, _ = two_tasks()
    again = made_anew(create)
    inbox = Inbox()
    inbox.put(again)
    inbox.put(dataclasses.replace(create, status=succeeded(TaskState.CREATED)))
    assert inbox.of(UID) == (again,)
    inbox.drop("unknown", "unknown")
    assert inbox.of(UID) == (again,)


def test_late_news_of_a_task_from_before_it_ended_does_not_open_it_again() -> None:
    create, _ = two_tasks()
    inbox = Inbox()
    inbox.put(create)
    inbox.end(create)
    inbox.put(dataclasses.replace(create, status=HostTaskStatus(phase=TaskPhase.RUNNING)))
    assert inbox.of(UID) == ()
    again = made_anew(create)
    inbox.put(again)
    assert inbox.of(UID) == (again,)


def test_nothing_is_kept_of_a_task_that_is_gone() -> None:
    create, _ = two_tasks()
    inbox = Inbox()
    inbox.end(create)
    inbox.drop(create.metadata.name, create.metadata.uid)
    inbox.put(create)
    assert inbox.of(UID) == (create,)
