"""What a host says of itself while parts of it can't be looked at."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_rig import Rig
from builders import UID

from kubeferry.agent import report as report_module
from kubeferry.agent.report import FREE_STEP, Report
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNodeStatus, InstancesPath
from kubeferry.api.meta import Condition, Status, condition
from kubeferry.api.role import RunState

ROOM = InstancesPath(path="/instances", total=FREE_STEP * 9, free=FREE_STEP * 3 + FREE_STEP - 1, filesystem_id="8:1")


def told(status: ComputeNodeStatus, kind: str) -> Condition:
    found = condition(status.conditions, kind)
    assert found is not None
    return found


async def test_free_bytes_are_told_in_steps_and_never_more_than_there_are(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "instances_file_system", lambda _path: ROOM)
    assert (await rig.report.now()).instances == dataclasses.replace(ROOM, free=FREE_STEP * 3)


async def test_conditions_of_a_host_are_of_no_generation(rig: Rig) -> None:
    assert {c.observed_generation for c in (await rig.report.now()).conditions} == {None}


async def test_without_libvirt_the_inventory_is_told_and_no_state_is_guessed(rig: Rig) -> None:
    await rig.created()
    before = await rig.report.now()
    rig.hypervisor.stop_service()
    status = await rig.report.now()
    assert [(item.uid, item.state) for item in status.inventory] == [(UID, RunState.UNKNOWN)]
    assert status.hypervisor == before.hypervisor
    assert (told(status, reasons.READY).status, told(status, reasons.READY).reason) == (Status.FALSE, reasons.HYPERVISOR_UNREACHABLE)


async def test_without_the_instances_path_the_inventory_is_told(rig: Rig) -> None:
    await rig.created()
    (rig.path / "instances").rename(rig.path / "elsewhere")
    status = await rig.report.now()
    assert [(item.uid, item.state) for item in status.inventory] == [(UID, RunState.STOPPED)]
    assert status.instances is None
    assert (told(status, reasons.READY).status, told(status, reasons.READY).reason) == (Status.FALSE, reasons.STORAGE_ERROR)
    (rig.path / "elsewhere").rename(rig.path / "instances")
    assert told(await rig.report.now(), reasons.READY).status == Status.TRUE


async def test_without_the_journals_what_was_told_last_is_told_on(rig: Rig) -> None:
    await rig.created()
    before = await rig.report.now()
    (rig.path / "state" / "journals").rename(rig.path / "elsewhere")
    status = await rig.report.now()
    assert status.inventory == before.inventory != ()
    for kind in (reasons.READY, reasons.JOURNALS_READABLE):
        assert (told(status, kind).status, told(status, kind).reason) == (Status.FALSE, reasons.JOURNALS_LOST)


async def test_everything_that_fails_is_told_at_once(rig: Rig) -> None:
    rig.hypervisor.stop_service()
    (rig.path / "state" / "journals").rmdir()
    message = told(await rig.report.now(), reasons.READY).message
    assert str(rig.path / "state" / "journals") in message
    assert "the fake's service is stopped" in message


async def test_a_journal_that_can_not_be_read_is_told_by_name_and_the_host_stays_ready(rig: Rig) -> None:
    await rig.created()
    rig.journals.write(dataclasses.replace(rig.journal(), uid="other"))
    (rig.path / "state" / "journals" / f"{UID}.json").write_text("{")
    status = await rig.report.now()
    assert [item.uid for item in status.inventory] == ["other"]
    found = told(status, reasons.JOURNALS_READABLE)
    assert (found.status, found.reason) == (Status.FALSE, reasons.JOURNAL_UNREADABLE)
    assert UID in found.message
    assert "other" not in found.message
    assert told(status, reasons.READY).status == Status.TRUE
    (rig.path / "state" / "journals" / f"{UID}.json").unlink()
    found = told(await rig.report.now(), reasons.JOURNALS_READABLE)
    assert (found.status, found.reason) == (Status.TRUE, reasons.AS_EXPECTED)


class Dead:
    """A file system that answers until it is told not to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.looks = 0

    def look(self, _path: Path) -> InstancesPath:
        self.looks += 1
        self.answers.wait()
        return ROOM


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dead]:
    made = Dead()
    monkeypatch.setattr(report_module, "instances_file_system", made.look)
    yield made
    made.answers.set()


async def test_a_file_system_that_does_not_answer_is_told_and_hides_nothing_else(rig: Rig, dead: Dead) -> None:
    await rig.created()
    report = Report(rig.machine, rig.journals, rig.calls, deadline=0.01)
    dead.answers.clear()
    status = await report.now()
    assert (told(status, reasons.READY).status, told(status, reasons.READY).reason) == (Status.FALSE, reasons.STORAGE_ERROR)
    assert [item.uid for item in status.inventory] == [UID]


async def test_no_second_look_is_sent_after_one_that_hangs_and_none_waits_for_it_again(rig: Rig, dead: Dead) -> None:
    report = Report(rig.machine, rig.journals, rig.calls, deadline=0.01)
    dead.answers.clear()
    await report.now()
    report._deadline = 3600
    async with asyncio.timeout(10):
        for _ in range(3):
            assert told(await report.now(), reasons.READY).reason == reasons.STORAGE_ERROR
    assert dead.looks == 1
    look = report._hanging
    assert look is not None
    dead.answers.set()
    await asyncio.wait({look})
    assert told(await report.now(), reasons.READY).status == Status.TRUE
    assert dead.looks == 1
