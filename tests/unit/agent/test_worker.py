"""What an agent makes of its tasks."""

import dataclasses
from collections.abc import Callable

import pytest
from agent_rig import PLACEMENT, READ_PLACEMENT, Rig, begins, ended, nothing
from builders import UID
from fake_hypervisor import FakeHypervisor
from structlog.testing import capture_logs

from kubeferry.agent.settings import AllowList
from kubeferry.api import reasons
from kubeferry.api.meta import Meta
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, HostTaskStatus, TaskPhase, TaskState, Verb
from kubeferry.core import ledger
from kubeferry.core.journal import JournalStep
from kubeferry.kube.client import endpoint
from kubeferry.kube.errors import Forbidden, Invalid, KubeError, Unavailable, Unreadable


async def test_a_vm_is_created_and_started_and_every_answer_was_observed(rig: Rig) -> None:
    await rig.place()
    created = await rig.ask(Verb.CREATE)
    assert ended(created) == TaskState.CREATED
    assert created.status is not None
    assert created.status.result is not None
    assert [disk.name for disk in created.status.result.disks] == ["root"]
    image = rig.path / "instances" / UID / "root.raw"
    assert image.stat().st_size == 1 << 30
    assert begins(image) == b"content of the image"
    assert rig.journal().role == Role.ACTIVE
    assert rig.journal().disks["root"].inode == image.stat().st_ino
    assert ended(await rig.ask(Verb.START)) == TaskState.RUNNING
    assert rig.runs()


async def test_a_start_that_is_asked_again_is_answered_and_starts_nothing(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    await rig.ask(Verb.START)
    before = rig.server.requests.count(READ_PLACEMENT)
    assert ended(await rig.ask(Verb.START)) == TaskState.RUNNING
    assert rig.server.requests.count(READ_PLACEMENT) == before + 3  # twice by `ask`, once for the lineage: no gate


async def test_a_create_that_is_asked_again_repeats_its_answer_from_the_journal(rig: Rig) -> None:
    await rig.place(running=False)
    await rig.ask(Verb.CREATE)
    (rig.path / "images" / "root").unlink()
    assert ended(await rig.ask(Verb.CREATE)) == TaskState.CREATED


REFUSED: list[object] = [
    pytest.param(lambda rig: (rig.path / "images" / "root").unlink(), reasons.SOURCE_UNUSABLE, id="no-source"),
    pytest.param(
        lambda rig: (rig.path / "instances" / UID).mkdir() or (rig.path / "instances" / UID / "root.raw").touch(),
        reasons.FOREIGN_FILES,
        id="files-of-nobody",
    ),
    pytest.param(
        lambda rig: rig.boot(rig.settings.model_copy(update={"allow": AllowList()}), "boot-1"),
        reasons.PATH_NOT_ALLOWED,
        id="empty-allow-list",
    ),
    pytest.param(lambda rig: rig.hypervisor.define(_xml()), reasons.FOREIGN_DOMAIN, id="a-domain-of-nobody"),
    pytest.param(lambda rig: rig.hypervisor.stop_service(), reasons.HYPERVISOR_UNREACHABLE, id="no-libvirt"),
    pytest.param(lambda rig: (rig.path / "state" / "journals").rmdir(), reasons.JOURNALS_LOST, id="no-journals"),
]


def _xml() -> str:
    return f"<domain><uuid>{UID}</uuid><name>other</name><memory>1</memory><os><type machine='q35'>hvm</type></os></domain>"


@pytest.mark.parametrize(("harm", "reason"), REFUSED)
async def test_a_create_that_cannot_be_done_says_why_and_leaves_no_journal(rig: Rig, harm: Callable[[Rig], object], reason: str) -> None:
    await rig.place()
    harm(rig)
    assert ended(await rig.ask(Verb.CREATE)) == reason
    if (rig.path / "state" / "journals").is_dir():
        assert rig.journals.read(UID) is None
    assert list((rig.path / "instances").glob("*/*")) in ([], [rig.path / "instances" / UID / "root.raw"])


async def test_deleting_a_task_cancels_nothing(rig: Rig) -> None:
    stored = await rig.place()
    new = ledger.task(stored, stored.spec.steps[0])
    task = await rig.cluster.create(HostTask, Meta(name=new.name), spec=new.spec)
    await rig.cluster.delete(HostTask, task.metadata)
    rig.inbox.put(task)
    await rig.worker.reconcile(UID)
    assert rig.journal().role == Role.ACTIVE


async def test_a_corrupt_journal_stops_that_vm_and_no_other(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.journals.write(dataclasses.replace(rig.journal(), uid="other"))
    (rig.path / "state" / "journals" / f"{UID}.json").write_text("{")
    assert ended(await rig.ask(Verb.START)) == reasons.JOURNAL_UNREADABLE
    await rig.publisher.publish()
    assert [item.uid for item in (await rig.told()).inventory] == ["other"]


class Watched(FakeHypervisor):
    """Tells what stood in journal and API when a domain was started."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig
        self.seen: list[tuple[int, str, JournalStep, str]] = []

    def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        journal = self._rig.journal()
        tasks = (body for ref, body in self._rig.server.objects.items() if ref.endpoint == endpoint(HostTask))
        (start,) = (body for body in tasks if body["spec"]["verb"] == Verb.START)
        self.seen.append((journal.epoch, journal.epoch_id, journal.step, start["status"]["phase"]))
        super().create(xml, allowed)


async def test_a_start_is_journaled_and_told_as_running_before_it_is_made(rig: Rig) -> None:
    await rig.created(epoch=2, lineage=("e2", "e1"))
    hypervisor = rig.hypervisor = Watched(rig)
    rig.boot(rig.settings, "boot-1")
    task = await rig.ask(Verb.START)
    assert ended(task) == TaskState.RUNNING
    assert hypervisor.seen == [(2, "e2", JournalStep(seq=task.spec.seq, verb=Verb.START), TaskPhase.RUNNING)]


async def test_a_task_of_a_placement_that_was_made_anew_is_refused(rig: Rig) -> None:
    await rig.created()

    def made_anew() -> None:
        rig.server.objects[PLACEMENT]["metadata"]["uid"] = "another"

    rig.server.before[READ_PLACEMENT] = [nothing, nothing, made_anew]
    task = await rig.ask(Verb.START)
    assert ended(task) == reasons.HISTORY_DIVERGED
    assert task.status is not None
    assert task.status.error is not None
    assert "another" in task.status.error.message
    assert task.spec.placement.uid in task.status.error.message
    assert rig.journal().step.verb == Verb.CREATE


@pytest.mark.parametrize("error", [Forbidden("no right"), Invalid("no such thing"), Unreadable("not ours")], ids=lambda e: e.reason)
async def test_a_placement_that_can_not_be_read_whoever_waits_ends_the_task(rig: Rig, error: KubeError) -> None:
    await rig.created()
    rig.server.before[READ_PLACEMENT] = [nothing, nothing, error]
    assert ended(await rig.ask(Verb.START)) == error.reason


async def test_what_nobody_thought_of_ends_the_task_and_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.place()

    def fails(_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(rig.journals, "write", fails)
    with capture_logs() as logs:
        task = await rig.ask(Verb.CREATE)
    assert ended(task) == reasons.INTERNAL_ERROR
    assert task.status is not None
    assert task.status.error is not None
    assert "ZeroDivisionError('a defect')" in task.status.error.message
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["task failed unexpectedly"]


async def test_a_task_that_ended_is_not_opened_again_by_late_news(rig: Rig) -> None:
    await rig.place()
    task = await rig.ask(Verb.CREATE)
    rig.inbox.put(dataclasses.replace(task, status=HostTaskStatus(phase=TaskPhase.RUNNING)))
    assert rig.inbox.of(UID) == ()


async def test_a_placement_that_can_not_be_read_now_leaves_the_task_to_be_done_again(rig: Rig) -> None:
    await rig.created()
    rig.server.before[READ_PLACEMENT] = [nothing, nothing, Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await rig.ask(Verb.START)
    assert [task.spec.verb for task in rig.inbox.of(UID)] == [Verb.START]
    assert await rig.worker.reconcile(UID) is None
    assert rig.inbox.of(UID) == ()
    assert rig.runs()
