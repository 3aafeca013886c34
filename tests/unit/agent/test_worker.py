"""What an agent makes of its tasks, with real files, a hypervisor that keeps libvirt's rules, and an API server that keeps its own."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import NOON, UID, placement
from fake_cluster import FakeServer
from fake_hypervisor import FakeHypervisor

from kubeferry.agent import starter as starter_module
from kubeferry.agent.creator import Creator
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.inbox import Inbox
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.publisher import Publisher
from kubeferry.agent.settings import AgentSettings, AllowList
from kubeferry.agent.starter import Starter
from kubeferry.agent.worker import Worker
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode
from kubeferry.api.domain import DiskSource, Domain, HostPath, KernelBoot
from kubeferry.api.meta import Meta
from kubeferry.api.placement import Placement, PlacementSpec, StepState
from kubeferry.api.role import Role, RunState
from kubeferry.api.task import HostTask, TaskPhase, TaskState, Verb
from kubeferry.core import ledger
from kubeferry.core.journal import Journal
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.errors import Unavailable
from kubeferry.kube.server import Ref

HOST_ID = "host-a"


class Rig:
    """An agent's worker on host `a`, and what is around it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("instances", "state/journals", "images"):
            (path / name).mkdir(parents=True)
        (path / "images" / "root").write_bytes(b"content of the image")
        (path / "images" / "vmlinuz").write_bytes(b"a kernel")
        images = [str(path / "images")]
        settings = AgentSettings.model_validate(
            {
                "nodeName": "a",
                "instancesPath": path / "instances",
                "statePath": path / "state",
                "runPath": path / "run",
                "virtualizationType": "qemu",
                "allow": {"hostPaths": images, "kernelPaths": images},
            }
        )
        self.server = FakeServer()
        self.cluster = Cluster(self.server, "test")
        self.hypervisor = FakeHypervisor()
        self.journals = JournalStore(settings.state_path)
        self.inbox = Inbox()
        self.woken: list[str] = []
        self.boot(settings, "boot-1")

    def boot(self, settings: AgentSettings, boot_id: str) -> None:
        """A new life of the agent."""
        machine = Machine(settings=settings, host_id=HOST_ID, boot_id=boot_id)
        self.settings = settings
        self.calls = HypervisorCalls(self.hypervisor)
        self.publisher = Publisher(machine, self.cluster, self.journals, self.calls, self.woken.append)
        starter = Starter(machine, self.cluster, self.journals, self.calls, self.publisher)
        creator = Creator(machine, self.journals, self.calls)
        self.worker = Worker(machine, self.cluster, self.journals, self.calls, self.inbox, creator, starter, lambda: None)

    def domain(self) -> Domain:
        spec = placement().spec.domain
        disk = dataclasses.replace(spec.disks[0], source=DiskSource(host_path=HostPath(path=str(self.path / "images" / "root"))))
        return dataclasses.replace(spec, disks=(disk,), kernel_boot=KernelBoot(kernel_path=str(self.path / "images" / "vmlinuz")))

    async def place(self, **changes: object) -> Placement:
        """The VM's Placement, as the controller stores it at first."""
        spec = dataclasses.replace(placement().spec, domain=self.domain(), **changes)
        return await self.cluster.create(Placement, Meta(name=UID), spec=spec)

    async def change(self, **changes: object) -> Placement:
        """The controller writes the Placement."""
        stored = await self.cluster.get(Placement, UID)
        return await self.cluster.replace(Placement, stored.metadata, dataclasses.replace(stored.spec, **changes))

    async def ask(self, verb: Verb) -> HostTask:
        """The controller asks, as it always does: ledger, then task; the worker works; the task as it ended."""
        stored = await self.cluster.get(Placement, UID)
        done = dataclasses.replace(stored.spec, steps=tuple(dataclasses.replace(s, state=StepState.SUCCEEDED) for s in stored.spec.steps))
        stored = await self.change(**_fields(ledger.ask(done, verb, "a", HOST_ID, NOON)))
        new = ledger.task(stored, stored.spec.steps[-1])
        self.inbox.put(await self.cluster.create(HostTask, Meta(name=new.name), spec=new.spec))
        await self.worker.reconcile(UID)
        return await self.cluster.get(HostTask, new.name)

    def journal(self) -> Journal:
        journal = self.journals.read(UID)
        assert journal is not None
        return journal

    def runs(self) -> bool:
        return self.hypervisor.domains().get(UID, False)


def _fields(spec: PlacementSpec) -> dict[str, object]:
    return {"seq": spec.seq, "steps": spec.steps}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def ended(task: HostTask) -> str:
    """How a task ended, in a word."""
    assert task.status is not None
    assert task.status.finished_at is not None
    if task.status.phase == TaskPhase.SUCCEEDED:
        assert task.status.result is not None
        return task.status.result.state
    assert task.status.error is not None
    return task.status.error.reason


async def test_a_vm_is_created_and_started_and_every_answer_was_observed(rig: Rig) -> None:
    await rig.place()
    created = await rig.ask(Verb.CREATE)
    assert ended(created) == TaskState.CREATED
    assert created.status is not None
    assert created.status.result is not None
    assert [disk.name for disk in created.status.result.disks] == ["root"]
    image = rig.path / "instances" / UID / "root.raw"
    assert image.stat().st_size == 1 << 30
    assert image.read_bytes()[:20] == b"content of the image"
    assert rig.journal().role == Role.ACTIVE
    assert rig.journal().disks["root"].inode == image.stat().st_ino
    assert ended(await rig.ask(Verb.START)) == TaskState.RUNNING
    assert rig.runs()


async def test_a_start_that_is_asked_again_is_answered_and_starts_nothing(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    await rig.ask(Verb.START)
    before = rig.server.requests.count(f"get {Ref(endpoint(Placement), UID)}")
    assert ended(await rig.ask(Verb.START)) == TaskState.RUNNING
    assert rig.server.requests.count(f"get {Ref(endpoint(Placement), UID)}") == before + 3  # twice by `ask`, once for the lineage: no gate


async def test_a_create_that_is_asked_again_repeats_its_answer_from_the_journal(rig: Rig) -> None:
    await rig.place(running=False)
    await rig.ask(Verb.CREATE)
    (rig.path / "images" / "root").unlink()
    assert ended(await rig.ask(Verb.CREATE)) == TaskState.CREATED


async def test_the_boot_is_published_before_the_gate_is_asked(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    told = rig.server.requests.index(f"patch status of {Ref(endpoint(ComputeNode), 'a')}")
    gate = len(rig.server.requests) - 1 - rig.server.requests[::-1].index(f"get {Ref(endpoint(Placement), UID)}")
    assert rig.runs()
    assert told < gate
    node = await rig.cluster.get(ComputeNode, "a")
    assert node.status is not None
    assert node.status.boot_id == "boot-1"


async def test_without_the_api_server_nothing_starts(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    rig.server.before[f"get {Ref(endpoint(Placement), UID)}"] = [Unavailable("no answer")]
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()


async def test_without_the_published_boot_nothing_starts(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    rig.server.before[f"patch status of {Ref(endpoint(ComputeNode), 'a')}"] = [Unavailable("no answer")]
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()
    node = await rig.cluster.get(ComputeNode, "a")
    assert node.status is not None
    assert node.status.boot_id == "boot-2"


TAKEN_AWAY = [
    pytest.param({"node_name": "b", "host_id": "host-b"}, id="another-node"),
    pytest.param({"node_name": ""}, id="no-node"),
    pytest.param({"host_id": "host-new"}, id="another-host-of-this-name"),
    pytest.param({"running": False}, id="wanted-stopped"),
    pytest.param({"lineage": ("x1",), "copies": ()}, id="another-history"),
]


@pytest.mark.parametrize("changes", TAKEN_AWAY)
async def test_a_host_that_comes_back_after_the_vm_was_taken_from_it_stays_silent(rig: Rig, changes: dict[str, object]) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    assert rig.runs()
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    await rig.change(**changes)
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()


async def test_a_host_that_comes_back_starts_what_is_still_its_own(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    rig.woken.clear()
    await rig.publisher.publish()
    assert rig.woken == [UID]
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()


async def test_a_placement_that_is_gone_starts_nothing(rig: Rig) -> None:
    stored = await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    await rig.cluster.delete(Placement, dataclasses.replace(stored.metadata))
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()


async def test_an_answer_that_is_too_old_is_asked_for_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    clock = iter([0.0, 5.1, 10.0, 10.1])  # asked, would start; asked again, starts
    monkeypatch.setattr(starter_module, "boottime", lambda: next(clock))
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()
    assert next(clock, None) is None


async def test_answers_that_are_always_too_old_start_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    ticks = iter(range(0, 1000, 6))
    monkeypatch.setattr(starter_module, "boottime", lambda: float(next(ticks)))
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()


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


ROOM = [
    pytest.param({"cpu_cores": 9}, reasons.INSUFFICIENT_CPU, id="more-cpus-than-the-host-has"),
    pytest.param({"memory": 17 << 30}, reasons.INSUFFICIENT_MEMORY, id="more-memory-than-the-host-has"),
]


@pytest.mark.parametrize(("wanted", "reason"), ROOM)
async def test_what_does_not_fit_is_refused_before_anything_is_made(rig: Rig, wanted: dict[str, object], reason: str) -> None:
    await rig.place()
    await rig.change(domain=dataclasses.replace(rig.domain(), **wanted))
    assert ended(await rig.ask(Verb.CREATE)) == reason
    assert rig.journals.read(UID) is None


async def test_what_other_copies_hold_is_not_given_twice(rig: Rig) -> None:
    await rig.place(running=False)
    await rig.ask(Verb.CREATE)
    other = dataclasses.replace(rig.journal(), uid="other")
    assert other.reserved is not None
    rig.journals.write(dataclasses.replace(other, reserved=dataclasses.replace(other.reserved, memory=16 << 30)))
    (rig.path / "state" / "journals" / f"{UID}.json").unlink()
    for file in (rig.path / "instances" / UID).iterdir():
        file.unlink()
    assert ended(await rig.ask(Verb.CREATE)) == reasons.INSUFFICIENT_MEMORY


async def test_a_create_that_was_killed_midway_goes_on_from_its_journal(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.place()
    written = JournalStore.write

    def die(store: JournalStore, journal: Journal) -> None:
        written(store, journal)
        if journal.created == ("kernel", "root.raw"):
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalStore, "write", die)
    with pytest.raises(KeyboardInterrupt):
        await rig.ask(Verb.CREATE)
    monkeypatch.undo()
    assert rig.journal().role == Role.INCOMING
    assert (rig.path / "instances" / UID / "kernel").exists()
    rig.boot(rig.settings, "boot-1")
    await rig.worker.reconcile(UID)
    assert rig.journal().role == Role.ACTIVE
    assert rig.runs()


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
    node = await rig.cluster.get(ComputeNode, "a")
    assert node.status is not None
    assert [item.uid for item in node.status.inventory] == ["other"]


async def test_the_compute_node_tells_what_the_journals_and_the_hypervisor_say(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    await rig.publisher.publish()
    node = await rig.cluster.get(ComputeNode, "a")
    assert node.status is not None
    assert [(i.uid, i.role, i.state, i.epoch, i.epoch_id) for i in node.status.inventory] == [(UID, Role.ACTIVE, RunState.RUNNING, 1, "e1")]
    assert (node.status.host_id, node.status.hypervisor is not None and node.status.hypervisor.type) == (HOST_ID, "qemu")
    rig.hypervisor.stop_service()
    await rig.publisher.publish()
    node = await rig.cluster.get(ComputeNode, "a")
    assert node.status is not None
    assert node.status.inventory[0].state == RunState.UNKNOWN
    assert [(c.type, c.status, c.reason) for c in node.status.conditions] == [(reasons.READY, "False", reasons.HYPERVISOR_UNREACHABLE)]


async def test_the_lease_is_renewed_only_after_the_inventory_stands_in_the_api(rig: Rig) -> None:
    rig.server.before[f"patch status of {Ref(endpoint(ComputeNode), 'a')}"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await rig.publisher.publish()
    assert not [request for request in rig.server.requests if "Lease" in request]
    await rig.publisher.publish()
    assert [request for request in rig.server.requests if "Lease" in request]


async def test_an_unchanged_compute_node_is_not_written_again(rig: Rig) -> None:
    for _ in range(3):
        await rig.publisher.publish()
    wrote = f"patch status of {Ref(endpoint(ComputeNode), 'a')}"
    assert rig.server.requests.count(wrote) == 2  # the first found no ComputeNode


async def test_a_call_that_hangs_is_told_and_ends_the_agent(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Hung(FakeHypervisor):
        def domains(self) -> dict[str, bool]:
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
            return {}

    rig.hypervisor = Hung()
    rig.boot(rig.settings, "boot-1")
    rig.publisher._hypervisor._deadline = 0.01
    await rig.publisher.publish()
    assert rig.calls.hung.is_set()
    node = await rig.cluster.get(ComputeNode, "a")
    assert node.status is not None
    assert node.status.conditions[0].reason == reasons.HYPERVISOR_HUNG
    release.set()
