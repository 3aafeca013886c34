"""What an agent tells of its host, when it writes it, and whom it wakes."""

import asyncio
import dataclasses

import pytest
from agent_rig import HOST_ID, NODE, TELL_NODE, Rig
from builders import UID

from kubeferry.agent import report as report_module
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, InstancesPath
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import Verb
from kubeferry.kube.errors import Unavailable


@pytest.fixture(autouse=True)
def quiet_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that nobody else writes to: what changes on it is told, too."""
    room = InstancesPath(path="/instances", total=1 << 40, free=1 << 39, filesystem_id="8:1")
    monkeypatch.setattr(report_module, "instances_file_system", lambda _path: room)


async def test_the_compute_node_tells_what_the_journals_and_the_hypervisor_say(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    await rig.publisher.publish()
    told = await rig.told()
    assert [(i.uid, i.role, i.state, i.epoch, i.epoch_id) for i in told.inventory] == [(UID, Role.ACTIVE, RunState.RUNNING, 1, "e1")]
    assert told.hypervisor is not None
    assert (told.host_id, told.boot_id, told.hypervisor.type) == (HOST_ID, "boot-1", "qemu")
    assert {(c.type, c.status, c.reason) for c in told.conditions} == {
        (reasons.READY, "True", reasons.AGENT_READY),
        (reasons.JOURNALS_READABLE, "True", reasons.AS_EXPECTED),
    }


async def test_the_lease_is_renewed_only_after_the_inventory_stands_in_the_api(rig: Rig) -> None:
    rig.server.before[TELL_NODE] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await rig.publisher.publish()
    assert not [request for request in rig.server.requests if "Lease" in request]
    await rig.publisher.publish()
    assert [request for request in rig.server.requests if "Lease" in request]


async def test_an_unchanged_compute_node_is_told_again_after_a_minute_and_not_before(rig: Rig) -> None:
    await rig.publisher.publish()
    rig.server.requests.clear()
    for _ in range(6):
        rig.clock.advance(10)
        await rig.publisher.publish()
    assert TELL_NODE not in rig.server.requests
    rig.clock.advance(10)
    await rig.publisher.publish()
    assert rig.server.requests.count(TELL_NODE) == 1


async def test_a_compute_node_that_changed_is_told_at_once(rig: Rig) -> None:
    await rig.publisher.publish()
    rig.hypervisor.stop_service()
    await rig.publisher.publish()
    assert reasons.HYPERVISOR_UNREACHABLE in {c.reason for c in (await rig.told()).conditions}


async def test_a_write_without_an_answer_is_done_again(rig: Rig) -> None:
    await rig.publisher.publish()
    rig.clock.advance(61)
    rig.server.before[TELL_NODE] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await rig.publisher.publish()
    rig.server.requests.clear()
    await rig.publisher.publish()
    assert rig.server.requests.count(TELL_NODE) == 1


async def test_a_compute_node_that_was_deleted_is_back_within_a_minute(rig: Rig) -> None:
    await rig.publisher.publish()
    await rig.cluster.delete(ComputeNode, (await rig.cluster.get(ComputeNode, "a")).metadata)
    rig.clock.advance(61)
    await rig.publisher.publish()
    assert (await rig.told()).boot_id == "boot-1"


async def test_the_boot_is_read_each_time_it_is_asked_for_and_written_where_it_does_not_stand(rig: Rig) -> None:
    await rig.publisher.publish()
    rig.server.requests.clear()
    for _ in range(3):
        await rig.publisher.ensure_boot_published()
    assert rig.server.requests == [f"get {NODE}"] * 3
    rig.server.objects[NODE]["status"]["bootId"] = "boot-0"  # restored from a backup
    await rig.publisher.ensure_boot_published()
    assert (await rig.told()).boot_id == "boot-1"


async def test_a_gate_waits_for_no_look_at_the_host_once_there_was_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.publisher.publish()
    del rig.server.objects[NODE]

    looking = asyncio.Event()

    async def hangs() -> None:
        looking.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(rig.report, "now", hangs)
    telling = asyncio.create_task(rig.publisher.publish())
    async with asyncio.timeout(10):
        await looking.wait()
        await rig.publisher.ensure_boot_published()
    telling.cancel()
    assert (await rig.told()).boot_id == "boot-1"


async def test_an_agent_that_never_saw_its_journals_tells_nothing_and_renews_no_lease(rig: Rig) -> None:
    await rig.created()
    await rig.publisher.publish()
    before = await rig.told()
    (rig.path / "state" / "journals").rename(rig.path / "elsewhere")
    rig.boot(rig.settings, "boot-2")
    rig.server.requests.clear()
    with pytest.raises(StorageError, match="no directory"):
        await rig.publisher.publish()
    assert rig.server.requests == []
    assert (await rig.told()) == before
    (rig.path / "elsewhere").rename(rig.path / "state" / "journals")
    await rig.publisher.publish()
    assert [item.uid for item in (await rig.told()).inventory] == [UID]


@pytest.mark.parametrize(
    ("role", "runs", "woken"),
    [
        pytest.param(Role.ACTIVE, False, [UID], id="active-and-stopped"),
        pytest.param(Role.ACTIVE, True, [], id="active-and-running"),
        pytest.param(Role.INCOMING, False, [], id="incoming-and-stopped"),
    ],
)
async def test_only_a_vm_that_is_active_here_and_does_not_run_is_woken(rig: Rig, role: Role, *, runs: bool, woken: list[str]) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.journals.write(dataclasses.replace(rig.journal(), role=role))
    if not runs:
        rig.hypervisor.power_cut()
    await rig.publisher.publish()
    assert rig.woken == woken


async def test_nobody_is_woken_while_it_is_not_known_whether_the_vm_runs(rig: Rig) -> None:
    await rig.created()
    rig.hypervisor.stop_service()
    await rig.publisher.publish()
    assert rig.woken == []
