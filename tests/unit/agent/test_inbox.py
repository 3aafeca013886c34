"""The open tasks of a node."""

import dataclasses

from builders import NOON, UID, placement, succeeded, task

from kubeferry.agent.inbox import Inbox
from kubeferry.api.task import HostTaskStatus, TaskPhase, TaskState, Verb
from kubeferry.core import ledger


def test_tasks_come_in_the_order_in_which_they_were_asked_and_go_when_they_have_ended() -> None:
    stored = placement()
    stored = placement(ledger.ask(stored.spec, Verb.START, "a", "host-a", NOON))
    create, start = (task(ledger.task(stored, step)) for step in stored.spec.steps)
    inbox = Inbox()
    inbox.put(start)
    inbox.put(dataclasses.replace(create, status=HostTaskStatus(phase=TaskPhase.RUNNING)))
    assert [t.spec.verb for t in inbox.of(UID)] == [Verb.CREATE, Verb.START]
    assert inbox.of("another") == ()
    inbox.put(dataclasses.replace(create, status=succeeded(TaskState.CREATED)))
    assert [t.spec.verb for t in inbox.of(UID)] == [Verb.START]
    inbox.drop(start.metadata.name)
    assert inbox.of(UID) == ()
