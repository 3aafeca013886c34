"""Events: what has happened between two words of a status, told once and in order."""

import dataclasses

import pytest
from builders import NOON, migration
from move_life import Life, reverting

from kubeferry.api import reasons
from kubeferry.api.meta import Status, with_condition
from kubeferry.api.migration import MigrationPhase, MigrationStatus
from kubeferry.api.task import TaskProgress, Verb
from kubeferry.api.virtualmachine import PrintableStatus, VirtualMachineStatus
from kubeferry.core import events
from kubeferry.core.observed import VmDecision


class Told(Life):
    """A life whose events are kept, of the Migration and of the VM."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str]] = []

    def _write(self, decision: VmDecision) -> bool:
        before, vm = {m.metadata.name: m.status for m in self.migrations.values()}, self.vm.status
        more = super()._write(decision)
        for name, m in self.migrations.items():
            if m.status is not None and m.status != before[name]:
                self.said += [(e.reason, "Warning" if e.warning else "Normal") for e in events.of_migration(before[name], m.status)]
        if self.vm.status is not None and self.vm.status != vm:
            self.said += [(f"VM{e.reason}", "Warning" if e.warning else "Normal") for e in events.of_vm(vm, self.vm.status)]
        return more

    @property
    def normal(self) -> list[str]:
        return [reason for reason, kind in self.said if kind == "Normal" and not reason.startswith("VM")]

    @property
    def warnings(self) -> list[str]:
        return [reason for reason, kind in self.said if kind == "Warning"]


FORWARD = ["Scheduled", "SourceSealed", "CopyStarted", "DisksCopied", "TargetActive", "AwaitingDecision"]


def test_a_migration_that_is_confirmed_tells_each_step_once_and_in_order() -> None:
    life = Told()
    life.go_on_to()
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    life.step(60)
    assert life.normal == [*FORWARD, "Confirmed"]
    assert life.warnings == []


def test_one_that_is_reverted_tells_so_at_its_end() -> None:
    life = Told()
    life.go_on_to()
    life.wish("Revert")
    life.answer(Verb.SEAL)
    life.answer(Verb.ACTIVATE)
    life.answer(Verb.DISCARD)
    assert life.normal == [*FORWARD, "Reverted"]


def test_a_target_that_refuses_is_told_and_the_failure_of_the_last_one_too() -> None:
    life = Told()
    life.step()
    life.target = "c"
    before = life.status()
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_MEMORY)
    assert life.warnings == ["TargetRefused"]
    refused, scheduled = events.of_migration(before, life.status())
    assert refused.note.startswith("b: InsufficientMemory: ")
    assert (scheduled.reason, scheduled.note) == ("Scheduled", "from a to c")
    life.target = None
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_DISK)
    assert life.warnings == ["TargetRefused", "TargetRefused", "Failed"]


def test_what_fails_once_the_vm_is_stopped_is_a_rollback_and_no_refusal() -> None:
    life = Told()
    life.go_on_to(Verb.COPY)
    life.answer(Verb.COPY, reasons.INSUFFICIENT_DISK)
    assert life.warnings == ["RollingBack"]
    life.answer(Verb.ACTIVATE)
    assert life.warnings == ["RollingBack", "Failed"]


def test_no_feasible_node_is_a_failure_with_its_counts() -> None:
    life = Life()
    life.target = None
    life.step()
    (event,) = events.of_migration(None, life.status())
    assert (event.reason, event.warning) == ("Failed", True)
    assert event.note.startswith("NoFeasibleNode: 0 of 3 nodes are feasible")


def test_a_confirm_that_is_blocked_is_told_by_its_reason_once_for_each() -> None:
    life = Told()
    life.go_on_to()
    life.holds("b", lease=False)
    life.wish("Confirm")
    life.step(10)
    assert life.warnings == ["ConfirmBlocked"]


def test_what_needs_a_human_is_told_again_when_the_reason_is_another() -> None:
    def status(reason: str) -> MigrationStatus:
        conditions = with_condition((), reasons.NEEDS_ATTENTION, Status.TRUE, reason, "look", 1, NOON)
        return MigrationStatus(phase=MigrationPhase.REVERTING, conditions=conditions)

    first = status(reasons.NODE_SILENT)
    assert [(e.reason, e.note) for e in events.of_migration(None, first)] == [("NeedsAttention", "NodeSilent: look")]
    assert events.of_migration(first, first) == ()
    assert [e.note for e in events.of_migration(first, status(reasons.TASK_UNFINISHED))] == ["TaskUnfinished: look"]


def test_the_same_told_twice_is_no_event() -> None:
    for life in (Life().go_on_to(), reverting()):
        assert events.of_migration(life.status(), life.status()) == ()
        assert life.vm.status is not None
        assert events.of_vm(life.vm.status, life.vm.status) == ()


def test_notes_name_the_nodes_and_what_was_copied() -> None:
    notes = {e.reason: e.note for e in events.of_migration(None, Life().go_on_to().status())}
    assert notes["Scheduled"] == "from a to b"
    assert notes["SourceSealed"] == "the VM was proved stopped on a"
    assert notes["DisksCopied"] == f"{5 << 20} bytes, the same on a and b"
    assert notes["TargetActive"] == "the VM was seen running on b"


def test_a_vm_that_moves_tells_where_from_and_where_to_and_that_it_runs() -> None:
    life = Told()
    life.go_on_to()
    assert [reason for reason, _ in life.said if reason.startswith("VM")][-2:] == ["VMMoved", "VMStarted"]


def vm(ready: Status, node: str = "a") -> VirtualMachineStatus:
    conditions = with_condition((), reasons.READY, ready, reasons.RUNNING, "on a", 1, NOON)
    return VirtualMachineStatus(printable_status=PrintableStatus.RUNNING, node_name=node, conditions=conditions)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (Status.FALSE, Status.TRUE, ["Started"]),
        (Status.UNKNOWN, Status.TRUE, []),  # its node was silent: it may have run all the time
        (Status.TRUE, Status.TRUE, []),
        (Status.TRUE, Status.FALSE, []),
    ],
)
def test_a_vm_has_started_when_it_was_known_not_to_run(before: Status, now: Status, said: list[str]) -> None:
    assert [e.reason for e in events.of_vm(vm(before), vm(now))] == said


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        (Status.FALSE, reasons.HALTED, ["Stopped"]),
        (Status.FALSE, reasons.STOPPED, ["Stopped"]),
        (Status.FALSE, reasons.MIGRATING, []),
        (Status.UNKNOWN, reasons.NODE_SILENT, []),
    ],
)
def test_a_vm_has_stopped_when_that_is_known_and_it_is_not_off_for_a_move(status: Status, reason: str, said: list[str]) -> None:
    before = vm(Status.TRUE)
    now = dataclasses.replace(before, conditions=with_condition(before.conditions, reasons.READY, status, reason, "", 1, NOON))
    assert [e.reason for e in events.of_vm(before, now)] == said


def test_a_vm_that_is_made_tells_its_node_its_disks_and_its_start() -> None:
    before = vm(Status.FALSE, node="")
    conditions = with_condition(vm(Status.TRUE).conditions, reasons.SCHEDULED, Status.TRUE, reasons.PLACED, "on a", 1, NOON)
    conditions = with_condition(conditions, reasons.VOLUMES_READY, Status.TRUE, reasons.CREATED, "whole", 1, NOON)
    made = dataclasses.replace(vm(Status.TRUE), conditions=conditions)
    assert [e.reason for e in events.of_vm(before, made)] == ["Scheduled", "Created", "Started"]


def test_a_vm_that_was_at_the_target_is_told_as_such_and_neither_as_scheduled_nor_as_confirmed() -> None:
    life = Life(migration(targetNode="a"))
    life.step()
    (event,) = events.of_migration(None, life.status())
    assert (event.reason, event.note) == ("AlreadyAtTarget", "the VM is on a already. Nothing was touched")
    assert not event.warning
    assert events.of_migration(life.status(), life.status()) == ()


def test_a_copy_that_comes_on_is_no_news_and_neither_is_a_rollback_that_lasts() -> None:
    life = Told()
    life.go_on_to(Verb.COPY)
    for done in (1, 2, 3):
        life.progress(Verb.COPY, TaskProgress(bytes_total=9, bytes_done=done))
    assert life.normal.count("CopyStarted") == 1
    life.answer(Verb.COPY, reasons.INSUFFICIENT_DISK)
    assert life.said[-1] == ("RollingBack", "Warning")
    life.holds("a", lease=False)
    life.step(600)  # it is told by whom it is kept
    assert life.warnings.count("RollingBack") == 1


def test_a_rollback_says_why() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.answer(Verb.COPY, reasons.INSUFFICIENT_DISK)
    notes = {e.reason: e.note for e in events.of_migration(None, life.status())}
    assert notes["RollingBack"] == "rolling back: Copy on a: because of InsufficientDisk"


def test_a_vm_whose_node_is_not_known_has_not_moved() -> None:
    assert events.of_vm(vm(Status.TRUE), dataclasses.replace(vm(Status.TRUE), node_name=None)) == ()
