"""How what is watched wakes the work."""

import pytest
from agent_rig import Rig
from builders import UID, placement
from fake_cluster import FakeServer
from fake_hypervisor import FakeHypervisor
from manual_clock import ManualClock

from kubeferry.agent.agent import Agent
from kubeferry.api.model import dump
from kubeferry.core import ledger


@pytest.mark.parametrize(("uid", "left"), [("uid-1", 0), ("uid-0", 1)], ids=["of-this-object", "of-an-older-one-of-that-name"])
async def test_news_of_a_deletion_drops_only_the_task_that_is_meant(rig: Rig, uid: str, left: int) -> None:
    agent = Agent(rig.machine, FakeServer(), FakeHypervisor(), ManualClock())
    new = ledger.task(placement(), placement().spec.steps[0])
    body = {"metadata": {"name": new.name, "uid": "uid-1"}, "spec": dump(new.spec)}
    agent.saw_task({"type": "ADDED", "object": body})
    assert len(agent._inbox.of(UID)) == 1
    agent.saw_task({"type": "DELETED", "object": body | {"metadata": {"name": new.name, "uid": uid}}})
    assert len(agent._inbox.of(UID)) == left
