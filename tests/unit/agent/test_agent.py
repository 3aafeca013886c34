"""How what is watched wakes the work."""

import asyncio
from collections.abc import Callable

import pytest
from agent_rig import TELL_NODE, Rig
from builders import UID, placement
from fake_cluster import FakeServer
from fake_hypervisor import FakeHypervisor
from manual_clock import ManualAlarm, ManualClock

from kubeferry.agent.agent import Agent
from kubeferry.api.model import dump
from kubeferry.core import ledger
from kubeferry.kube.errors import Unavailable


@pytest.mark.parametrize(("uid", "left"), [("uid-1", 0), ("uid-0", 1)], ids=["of-this-object", "of-an-older-one-of-that-name"])
async def test_news_of_a_deletion_drops_only_the_task_that_is_meant(rig: Rig, uid: str, left: int) -> None:
    agent = Agent(rig.machine, rig.keys, FakeServer(), FakeHypervisor(), ManualClock())
    new = ledger.task(placement(), placement().spec.steps[0])
    body = {"metadata": {"name": new.name, "uid": "uid-1"}, "spec": dump(new.spec)}
    agent.saw_task({"type": "ADDED", "object": body})
    assert len(agent._inbox.of(UID)) == 1
    agent.saw_task({"type": "DELETED", "object": body | {"metadata": {"name": new.name, "uid": uid}}})
    assert len(agent._inbox.of(UID)) == left


class Telling(ManualClock):
    """Tells for how long each alarm was set."""

    def __init__(self) -> None:
        super().__init__()
        self.told: asyncio.Queue[float] = asyncio.Queue()

    def call_at(self, when: float, callback: Callable[[], object], /) -> ManualAlarm:
        self.told.put_nowait(when - self.now)
        return super().call_at(when, callback)


async def test_an_api_server_that_is_away_is_told_again_soon_and_then_every_ten_seconds(rig: Rig) -> None:
    server, clock = FakeServer(), Telling()
    server.before[TELL_NODE] = [Unavailable("no answer")] * 6
    agent = Agent(rig.machine, rig.keys, server, FakeHypervisor(), clock)
    await agent.start()
    waits: list[float] = []
    async with asyncio.timeout(30):
        for _ in range(6):
            waits.append(await clock.told.get())
            clock.advance(waits[-1])
    await agent.stop()
    assert waits == [1, 2, 4, 8, 10, 10]  # a Lease that is not renewed for 40 s makes the node silent


async def test_an_agent_lets_the_other_nodes_in_when_it_starts_and_each_minute(rig: Rig) -> None:
    clock = Telling()
    now = [1000.0]
    agent = Agent(rig.machine, rig.keys, rig.server, FakeHypervisor(), clock, lambda: now[0])
    await agent.start()
    async with asyncio.timeout(30):
        await clock.told.get()
        asked = rig.server.requests.count("list ComputeNode *")
        for _ in range(2):
            clock.advance(20)
            await clock.told.get()
        again = rig.server.requests.count("list ComputeNode *")
        now[0] += 61
        clock.advance(20)
        await clock.told.get()
    await agent.stop()
    assert (asked, again, rig.server.requests.count("list ComputeNode *")) == (1, 1, 2)
