"""The start gate: before every start, this boot is told, the disks are free, and the Placement says so at that moment."""

import dataclasses
from collections.abc import Callable

import pytest
from agent_rig import NODE, PLACEMENT, READ_PLACEMENT, TELL_NODE, Rig, ended, nothing
from builders import UID
from fake_hypervisor import FakeHypervisor
from image_holder import held_by_qemu

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode
from kubeferry.api.placement import Placement
from kubeferry.api.task import TaskState, Verb
from kubeferry.kube.errors import Unavailable
from kubeferry.kube.server import Body, PatchType, Ref


async def test_the_boot_is_published_before_the_gate_is_asked(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    told = rig.server.requests.index(TELL_NODE)
    gate = len(rig.server.requests) - 1 - rig.server.requests[::-1].index(READ_PLACEMENT)
    assert rig.runs()
    assert told < gate
    assert (await rig.told()).boot_id == "boot-1"


async def test_without_the_api_server_nothing_starts(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    rig.server.before[READ_PLACEMENT] = [Unavailable("no answer")]
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()


async def test_without_the_published_boot_nothing_starts(rig: Rig) -> None:
    await rig.place()
    await rig.ask(Verb.CREATE)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    rig.server.before[TELL_NODE] = [Unavailable("no answer")]
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()
    rig.clock.advance(10)
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()
    assert (await rig.told()).boot_id == "boot-2"


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


async def test_a_compute_node_that_was_deleted_stands_again_before_the_placement_is_read(rig: Rig) -> None:
    await rig.created()
    await rig.publisher.publish()
    await rig.cluster.delete(ComputeNode, (await rig.cluster.get(ComputeNode, "a")).metadata)
    stood: list[object] = []
    rig.server.before[READ_PLACEMENT] = [lambda: stood.append(rig.server.objects[NODE]["status"]["bootId"])]
    assert await rig.worker.reconcile(UID) is None
    assert stood == ["boot-1"]
    assert rig.runs()


async def test_a_boot_counts_as_published_only_if_the_answer_names_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.created()
    rig.server.objects[NODE]["status"]["bootId"] = "boot-0"
    patch = rig.server.patch

    async def of_another_boot(ref: Ref, body: Body, kind: PatchType, *, status: bool, manager: str) -> Body:
        stored = dict(await patch(ref, body, kind, status=status, manager=manager))
        return stored | {"status": stored["status"] | {"bootId": "boot-0"}} if ref == NODE else stored

    monkeypatch.setattr(rig.server, "patch", of_another_boot)
    assert ended(await rig.ask(Verb.START)) == reasons.GATE_SHUT
    assert not rig.runs()


async def test_a_start_task_of_an_epoch_that_the_placement_has_left_by_the_time_of_the_gate_starts_nothing(rig: Rig) -> None:
    await rig.created()

    def next_epoch() -> None:
        rig.server.objects[PLACEMENT]["spec"] |= {"epoch": 2, "lineage": ["e2", "e1"]}

    # Read twice by `ask`, then for the lineage, then by the gate.
    rig.server.before[READ_PLACEMENT] = [nothing, nothing, nothing, next_epoch]
    assert ended(await rig.ask(Verb.START)) == reasons.GATE_SHUT


@pytest.mark.parametrize("late", range(3))
async def test_an_answer_that_is_too_old_is_asked_for_again(rig: Rig, late: int) -> None:
    await rig.created()
    before = rig.server.requests.count(READ_PLACEMENT)
    rig.server.before[READ_PLACEMENT] = [lambda: rig.clock.advance(5.1)] * late  # while the answer is under way
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()
    assert rig.server.requests.count(READ_PLACEMENT) == before + late + 1


async def test_an_answer_is_acted_on_for_five_seconds(rig: Rig) -> None:
    await rig.created()
    before = rig.server.requests.count(READ_PLACEMENT)
    rig.server.before[READ_PLACEMENT] = [lambda: rig.clock.advance(5)]
    assert await rig.worker.reconcile(UID) is None
    assert rig.runs()
    assert rig.server.requests.count(READ_PLACEMENT) == before + 1


async def test_answers_that_are_always_too_old_start_nothing(rig: Rig) -> None:
    await rig.created()
    rig.server.before[READ_PLACEMENT] = [lambda: rig.clock.advance(5.1)] * 3
    assert await rig.worker.reconcile(UID) is not None
    assert not rig.runs()


async def test_a_disk_that_another_process_holds_starts_nothing(rig: Rig) -> None:
    await rig.created()
    with held_by_qemu(rig.path / "instances" / UID / "root.raw"):
        assert ended(await rig.ask(Verb.START)) == reasons.IMAGE_IN_USE
        assert not rig.runs()
    assert ended(await rig.ask(Verb.START)) == TaskState.RUNNING


async def test_a_domain_that_is_gone_a_moment_after_its_start_is_not_told_as_running(rig: Rig) -> None:
    class Brief(FakeHypervisor):
        def create(self, xml: str, allowed: Callable[[], bool]) -> None:
            super().create(xml, allowed)
            self.destroy(UID)

    await rig.created()
    rig.hypervisor = Brief()
    rig.boot(rig.settings, "boot-1")
    task = await rig.ask(Verb.START)
    assert ended(task) == reasons.HYPERVISOR_ERROR
    assert task.status is not None
    assert task.status.error is not None
    assert task.status.error.retryable
