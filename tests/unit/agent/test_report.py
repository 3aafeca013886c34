"""What a host says of itself while parts of it can't be looked at."""

import dataclasses
import threading
from collections.abc import Iterator

import pytest
from agent_rig import Rig
from builders import UID

from kubeferry.agent import report as report_module
from kubeferry.agent.report import FREE_STEP, Report
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNodeStatus, InstancesPath, InventoryItem, SshEndpoint
from kubeferry.api.meta import Condition, Status, condition
from kubeferry.api.role import Role, RunState

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


async def test_what_lies_in_the_trash_counts_as_free(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "instances_file_system", lambda _path: ROOM)
    given_up = rig.path / "instances" / ".trash" / f"{UID}-3"
    given_up.mkdir(parents=True)
    (given_up / "root.raw").write_bytes(b"x" * FREE_STEP)
    assert (await rig.report.now()).instances == dataclasses.replace(ROOM, free=FREE_STEP * 4)


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
    await rig.report.now()
    rig.hypervisor.stop_service()
    (rig.path / "state" / "journals").rmdir()
    message = told(await rig.report.now(), reasons.READY).message
    assert message.count("the fake's service is stopped") == 1
    assert str(rig.path / "state" / "journals") in message


async def test_a_hypervisor_that_can_not_tell_of_itself_still_tells_what_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.created()

    def fails() -> None:
        raise HypervisorError(reasons.HYPERVISOR_ERROR, "no capabilities")

    monkeypatch.setattr(rig.hypervisor, "facts", fails)
    status = await rig.report.now()
    assert [(item.uid, item.state) for item in status.inventory] == [(UID, RunState.STOPPED)]
    assert told(status, reasons.READY).message == "no capabilities"


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


@pytest.fixture
def answers() -> Iterator[threading.Event]:
    """Whether a file system answers: set at first, and in the end."""
    made = threading.Event()
    made.set()
    yield made
    made.set()


async def test_a_file_system_of_disks_that_hangs_is_told_and_hides_nothing_else(
    rig: Rig, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.created()
    monkeypatch.setattr(report_module, "instances_file_system", lambda _path: answers.wait() and ROOM)
    report = Report(rig.machine, rig.journals, rig.calls)
    answers.clear()
    report._look_at_room._deadline = 0.01
    status = await report.now()
    assert (told(status, reasons.READY).status, told(status, reasons.READY).reason) == (Status.FALSE, reasons.STORAGE_ERROR)
    assert str(rig.path / "instances") in told(status, reasons.READY).message
    assert [item.uid for item in status.inventory] == [UID]


async def test_a_file_system_of_journals_that_hangs_is_told_and_what_was_held_is_told_on(
    rig: Rig, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.created()
    everything = rig.journals.all
    monkeypatch.setattr(rig.journals, "all", lambda: answers.wait() and everything())
    report = Report(rig.machine, rig.journals, rig.calls)
    before = await report.now()
    answers.clear()
    report._look_at_journals._deadline = 0.01
    status = await report.now()
    for kind in (reasons.READY, reasons.JOURNALS_READABLE):
        assert (told(status, kind).status, told(status, kind).reason) == (Status.FALSE, reasons.STORAGE_ERROR)
    assert str(rig.path / "state") in told(status, reasons.READY).message
    assert [item.uid for item in status.inventory] == [UID]
    assert status.instances == before.instances


def item(status: ComputeNodeStatus) -> InventoryItem:
    (only,) = status.inventory
    return only


@pytest.mark.parametrize(
    ("occupied", "steps"),
    [pytest.param(1, 1, id="up-not-down"), pytest.param(FREE_STEP, 1, id="whole"), pytest.param(FREE_STEP + 1, 2, id="next")],
)
async def test_what_a_copy_occupies_is_told_in_steps_and_never_less(
    rig: Rig, occupied: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.created()
    monkeypatch.setattr(report_module, "occupied_bytes", lambda *_: occupied)
    assert item(await rig.report.now()).allocated == steps * FREE_STEP


async def test_what_a_copy_occupies_is_that_of_the_files_that_its_journal_created(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "FREE_STEP", 1)
    await rig.created()
    assert rig.journal().created == ("kernel", "root.raw")
    (rig.path / "instances" / UID / "notes").write_bytes(b"x" * 70000)
    expected = sum((rig.path / "instances" / UID / name).stat().st_blocks * 512 for name in ("kernel", "root.raw"))
    assert item(await rig.report.now()).allocated == expected > 0


async def test_of_a_copy_that_is_gone_or_can_not_be_looked_at_no_bytes_are_told_and_of_others_they_are(rig: Rig) -> None:
    await rig.created()
    rig.journals.write(dataclasses.replace(rig.journal(), uid="gone", role=Role.GONE, created=()))
    rig.journals.write(dataclasses.replace(rig.journal(), uid="lost"))
    rig.journals.write(dataclasses.replace(rig.journal(), uid="prepared", role=Role.INCOMING, created=()))
    status = await rig.report.now()
    assert {item.uid: item.allocated for item in status.inventory} == {UID: FREE_STEP, "lost": None, "prepared": 0}, (
        "of what is gone nothing is told"
    )
    assert told(status, reasons.READY).status == Status.TRUE
    (rig.path / "instances").rename(rig.path / "elsewhere")
    assert {item.uid: item.allocated for item in (await rig.report.now()).inventory}[UID] is None


async def test_files_that_can_not_be_looked_at_are_told_and_what_they_occupy_is_not(
    rig: Rig, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.created()
    monkeypatch.setattr(report_module, "occupied_bytes", lambda *_: answers.wait() and 1)
    report = Report(rig.machine, rig.journals, rig.calls)
    assert item(await report.now()).allocated == FREE_STEP
    answers.clear()
    report._look_at_files._deadline = 0.01
    status = await report.now()
    assert item(status).allocated is None
    assert (told(status, reasons.READY).status, told(status, reasons.READY).reason) == (Status.FALSE, reasons.STORAGE_ERROR)
    assert "the files in" in told(status, reasons.READY).message


@pytest.mark.parametrize(
    "ssh", [None, SshEndpoint(address="10.0.0.1", port=8022, host_key="ssh-ed25519 AAAA", identity_key="ssh-ed25519 BBBB")]
)
async def test_how_other_agents_reach_this_host_is_told(rig: Rig, ssh: SshEndpoint | None) -> None:
    machine = dataclasses.replace(rig.machine, ssh=ssh)
    assert (await Report(machine, rig.journals, rig.calls).now()).ssh == ssh
