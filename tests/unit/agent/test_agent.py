"""How what is watched wakes the work."""

import asyncio
import os
import time
from collections.abc import Callable

import aiohttp
import pytest
from agent_rig import CHILDREN, TELL_NODE, Rig
from builders import UID, placement
from fake_cluster import FakeServer
from fake_hypervisor import FakeHypervisor
from manual_clock import ManualAlarm, ManualClock
from scraper import get

from kubeferry import __version__
from kubeferry.agent.agent import AUTHORIZE, AUTHORIZED_EVERY, SWEEP, SWEPT_EVERY, Agent
from kubeferry.agent.transfer.peers import Outbound, Peers
from kubeferry.api.model import dump
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, Verb
from kubeferry.core import ledger
from kubeferry.core.journal import Journal, JournalStep
from kubeferry.kube.client import endpoint
from kubeferry.kube.errors import Unavailable
from kubeferry.kube.server import Ref


@pytest.mark.parametrize(("uid", "left"), [("uid-1", 0), ("uid-0", 1)], ids=["of-this-object", "of-an-older-one-of-that-name"])
async def test_news_of_a_deletion_drops_only_the_task_that_is_meant(rig: Rig, uid: str, left: int) -> None:
    agent = Agent(rig.machine, rig.keys, FakeServer(), FakeHypervisor(), ManualClock(), CHILDREN)
    new = ledger.task(placement(), placement().spec.steps[0])
    body = {"metadata": {"name": new.name, "uid": "uid-1"}, "spec": dump(new.spec)}
    agent.saw_task({"type": "ADDED", "object": body})
    assert len(agent._inbox.of(UID)) == 1
    agent.saw_task({"type": "DELETED", "object": body | {"metadata": {"name": new.name, "uid": uid}}})
    assert len(agent._inbox.of(UID)) == left


class Telling(ManualClock):
    """Tells for how long each alarm was set, but that of the sweeper."""

    def __init__(self) -> None:
        super().__init__()
        self.told: asyncio.Queue[float] = asyncio.Queue()

    def call_at(self, when: float, callback: Callable[[], object], /) -> ManualAlarm:
        if when - self.now != SWEPT_EVERY.total_seconds():
            self.told.put_nowait(when - self.now)
        return super().call_at(when, callback)


async def test_an_api_server_that_is_away_is_told_again_soon_and_then_every_ten_seconds(rig: Rig) -> None:
    server, clock = FakeServer(), Telling()
    server.before[TELL_NODE] = [Unavailable("no answer")] * 6
    agent = Agent(rig.machine, rig.keys, server, FakeHypervisor(), clock, CHILDREN)
    await agent.start()
    waits: list[float] = []
    async with asyncio.timeout(30):
        while len(waits) < 6:
            if (wait := await clock.told.get()) == AUTHORIZED_EVERY.total_seconds():
                continue
            waits.append(wait)
            clock.advance(wait)
    await agent.stop()
    assert waits == [1, 2, 4, 8, 10, 10]  # a Lease that is not renewed for 40 s makes the node silent


async def test_an_agent_lets_the_other_nodes_in_when_it_starts_and_what_holds_that_up_does_not_hold_up_its_lease(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def authorize(_: Peers) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Peers, "authorize", authorize)
    clock = Telling()
    agent = Agent(rig.machine, rig.keys, rig.server, FakeHypervisor(), clock, CHILDREN)
    renewals = []
    publish = agent.publisher.publish

    async def publishing() -> None:
        await publish()
        renewals.append(clock.now)

    monkeypatch.setattr(agent.publisher, "publish", publishing)
    await agent.start()
    async with asyncio.timeout(30):
        await begun.wait()
        for _ in range(3):
            clock.advance(await clock.told.get())  # only a renewal sets an alarm: the other chore never comes to its end
    await agent.stop()
    assert len(renewals) >= 3


async def test_an_agent_serves_its_metrics_until_it_is_stopped(rig: Rig) -> None:
    agent = Agent(rig.machine, rig.keys, rig.server, FakeHypervisor(), ManualClock(), CHILDREN)
    await agent.start()
    port = agent._metrics.port
    try:
        status, _, text = await get(port)
    finally:
        await agent.stop()
    assert (status, f'\nkubeferry_build_info{{version="{__version__}"}} 1.0\n' in text) == (200, True)
    assert "\nkubeferry_work_queue_depth " in text
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(port)


async def test_who_may_call_is_looked_at_again_each_minute(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Peers] = []

    async def authorize(peers: Peers) -> None:
        asked.append(peers)

    monkeypatch.setattr(Peers, "authorize", authorize)
    agent = Agent(rig.machine, rig.keys, rig.server, FakeHypervisor(), ManualClock(), CHILDREN)
    assert await agent._do_chore(AUTHORIZE) == AUTHORIZED_EVERY
    assert len(asked) == 1


async def test_what_has_been_in_the_trash_for_its_time_is_swept_when_the_agent_starts_and_then_again(rig: Rig) -> None:
    trash = rig.settings.instances_path / ".trash"
    rig.journals.write(Journal(uid="goes", epoch=1, epoch_id="e1", role=Role.DELETING, step=JournalStep(seq=1, verb=Verb.DISCARD)))
    ages = {"goes-1": 1e6, "old-1": rig.settings.trash_ttl_seconds + 60, "new-1": rig.settings.trash_ttl_seconds - 60}
    for name, age in ages.items():
        (trash / name).mkdir(parents=True)
        os.utime(trash / name, (time.time() - age,) * 2)
    agent = Agent(rig.machine, rig.keys, rig.server, FakeHypervisor(), ManualClock(), CHILDREN)
    assert await agent._do_chore(SWEEP) == SWEPT_EVERY
    assert sorted(os.listdir(trash)) == ["goes-1", "new-1"], "a discard that was interrupted looks for its files there"
    (trash / "goes-1").rmdir()
    (trash / "new-1").rmdir()
    trash.rmdir()
    trash.symlink_to("elsewhere")
    assert await agent._do_chore(SWEEP) == SWEPT_EVERY, "what can't be swept now is looked at again"


async def test_of_each_news_of_a_task_the_copies_are_told_whether_it_has_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(Outbound, "saw", lambda _, task, *, ended: seen.append((task.verb, ended)))
    agent = Agent(rig.machine, rig.keys, rig.server, FakeHypervisor(), ManualClock(), CHILDREN)
    await rig.place()
    task = await rig.write(Verb.CREATE)
    body = rig.server.objects[Ref(endpoint(HostTask), task.metadata.name)]
    agent.saw_task({"type": "ADDED", "object": body})
    agent.saw_task({"type": "MODIFIED", "object": body | {"status": {"phase": "Succeeded"}}})
    assert seen == [(Verb.CREATE, False), (Verb.CREATE, True)]
