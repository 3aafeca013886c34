"""When each phase began, for how long the VM was off, and how a Copy comes on."""

import dataclasses
from datetime import timedelta

import pytest
from builders import after, host, migration
from move_life import Life, reverting

from kubeferry.api import reasons
from kubeferry.api.migration import Downtime, Transfer
from kubeferry.api.task import HostTaskStatus, TaskPhase, TaskProgress, TaskResult, TaskState, Verb
from kubeferry.core import downtime, ledger, project_transfer


def forward(life: Life, seconds: float = 10) -> Life:
    """Each step of the way forward takes that long."""
    life.step()
    for verb in (Verb.PREPARE, Verb.PREFLIGHT, Verb.SEAL, Verb.COPY, Verb.ACTIVATE):
        life.now += seconds
        life.answer(verb)
    return life


def test_the_time_at_which_each_phase_began_is_told() -> None:
    life = forward(Life())
    told = [(t.phase.value, t.time) for t in life.status().phase_transitions]
    assert told == [
        ("Scheduling", after(0)),
        ("Preparing", after(0)),
        ("Sealing", after(20)),
        ("Copying", after(30)),
        ("Activating", after(40)),
        ("AwaitingDecision", after(50)),
    ]
    life.now = 60
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    assert [(t.phase.value, t.time) for t in life.status().phase_transitions][len(told) :] == [
        ("Confirming", after(60)),
        ("Confirmed", after(60)),
    ]


def test_a_phase_that_lasts_is_told_once() -> None:
    life = forward(Life())
    before = life.status().phase_transitions
    life.holds("b", lease=False)
    life.wish("Confirm")
    assert life.told(reasons.CONFIRM_BLOCKED)[0] == "True"
    assert life.status().phase_transitions == before


def test_the_vm_is_off_from_the_seal_until_it_was_seen_at_the_target() -> None:
    life = forward(Life())
    assert life.status().downtime == Downtime(started_at=after(20), ended_at=after(50), milliseconds=30_000)
    life.now = 900
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    assert life.status().downtime == Downtime(started_at=after(20), ended_at=after(50), milliseconds=30_000)


def test_while_it_is_off_that_is_told_too() -> None:
    life = Life()
    life.now = 7
    life.go_on_to(Verb.COPY)
    assert life.status().downtime == Downtime(started_at=after(7))


def test_nothing_is_told_of_it_before_the_seal() -> None:
    assert Life().go_on_to(Verb.PREFLIGHT).status().downtime is None


def test_a_revert_takes_the_vm_off_twice_and_both_times_count() -> None:
    life = forward(Life())
    life.now = 100
    life.wish("Revert")
    assert life.status().downtime == Downtime(started_at=after(100), milliseconds=30_000)
    life.now = 112
    life.answer(Verb.SEAL)
    life.now = 115
    life.answer(Verb.ACTIVATE)
    life.answer(Verb.DISCARD)
    assert life.status().downtime == Downtime(started_at=after(100), ended_at=after(115), milliseconds=45_000)


def test_a_rollback_ends_the_time_that_the_seal_began() -> None:
    life = Life()
    life.step(5)
    life.answer(Verb.PREPARE)
    life.answer(Verb.PREFLIGHT)
    life.now = 8
    life.answer(Verb.SEAL)
    life.answer(Verb.COPY, reasons.INSUFFICIENT_DISK)
    life.now = 20
    life.answer(Verb.ACTIVATE)
    assert life.status().downtime == Downtime(started_at=after(5), ended_at=after(20), milliseconds=15_000)


def test_a_stop_that_came_to_nothing_counts_too() -> None:
    """Its host does not tell whether the VM was off; for no longer than that it was."""
    life = Life().go_on_to(Verb.SEAL)
    life.now = 4
    life.answer(Verb.SEAL, reasons.HYPERVISOR_ERROR)
    life.now = 6
    life.answer(Verb.ACTIVATE)
    assert life.status().downtime == Downtime(started_at=after(0), ended_at=after(6), milliseconds=6_000)


def test_a_clock_that_was_set_back_takes_no_time_off() -> None:
    assert downtime.on(downtime.off(None, after(10), running=True), after(4)) == Downtime(
        started_at=after(10), ended_at=after(4), milliseconds=0
    )


def test_a_second_word_of_the_same_changes_nothing() -> None:
    once = downtime.on(downtime.off(None, after(0), running=True), after(5))
    assert downtime.on(once, after(9)) == once
    assert downtime.on(None, after(9)) is None
    begun = downtime.off(None, after(0), running=True)
    assert downtime.off(begun, after(3), running=True) == begun


def copying(done: int, total: int, rate: int | None) -> Life:
    life = Life().go_on_to(Verb.COPY)
    life.progress(Verb.COPY, TaskProgress(bytes_total=total, bytes_done=done, rate=rate))
    return life


def test_a_copy_tells_its_part_its_rate_and_when_it_will_be_done() -> None:
    transfer = copying(630, 1000, 100).status().transfer
    assert transfer is not None
    assert (transfer.bytes_done, transfer.bytes_total, transfer.progress) == (630, 1000, "63%")
    assert (transfer.rate, transfer.eta_seconds) == (100, 4)


def test_without_a_rate_there_is_no_estimate() -> None:
    for rate in (None, 0):
        transfer = copying(0, 1000, rate).status().transfer
        assert transfer is not None
        assert (transfer.progress, transfer.rate, transfer.eta_seconds) == ("0%", rate, None)


def test_of_nothing_everything_is_done() -> None:
    transfer = copying(0, 0, None).status().transfer
    assert transfer is not None
    assert transfer.progress == "100%"


def test_nearly_everything_is_not_all() -> None:
    transfer = copying(999_999, 1_000_000, 1).status().transfer
    assert transfer is not None
    assert transfer.progress == "99%"


def test_a_copy_that_was_acknowledged_is_told_whole_with_its_digest() -> None:
    life = copying(1, 2, 1)
    life.answer(Verb.COPY)
    transfer = life.status().transfer
    assert transfer is not None
    assert (transfer.progress, transfer.rate, transfer.eta_seconds) == ("100%", None, None)
    assert transfer.digest
    assert reverting().status().transfer == transfer


def test_the_progress_of_another_task_is_not_this_copys() -> None:
    life = copying(1, 2, 1)
    copy = life.asked(Verb.COPY)
    other = dataclasses.replace(copy, spec=dataclasses.replace(copy.spec, seq=99))
    life.tasks = {"other": dataclasses.replace(other, metadata=dataclasses.replace(copy.metadata, name="other"))}
    told = project_transfer.transfer(migration(), life.spec, life.tasks.values())
    assert told is None


@pytest.mark.parametrize("sent", [None, 0])
def test_a_copy_that_is_asked_again_and_finds_the_targets_whole_is_whole_with_what_was_told_of_it(sent: int | None) -> None:
    life = copying(5, 20, 1)
    asked = life.asked(Verb.COPY)
    result = TaskResult(state=TaskState.RELEASED, bytes_copied=sent)
    life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=HostTaskStatus(phase=TaskPhase.SUCCEEDED, result=result))
    life.step()
    assert life.status().transfer == Transfer(bytes_total=20, bytes_done=20, progress="100%")


def test_of_one_that_nothing_was_told_of_nothing_is_made_up() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.end(Verb.COPY, TaskState.RELEASED)
    assert life.told("DisksCopied") == ("True", "Done")
    assert life.status().transfer is None


def test_one_that_has_ended_before_phases_had_times_is_not_told_to_have_ended_now() -> None:
    life = Life().go_on_to()
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    m = life.migrations["move"]
    life.migrations["move"] = dataclasses.replace(m, status=dataclasses.replace(life.status(), phase_transitions=()))
    life.wish("Confirm")
    assert life.status().observed_generation == life.migrations["move"].metadata.generation
    assert life.status().phase_transitions == ()


def test_what_is_asked_is_in_progress_and_only_what_was_acknowledged_is_done() -> None:
    life = Life()
    life.step()
    for verb, kind in ((Verb.PREPARE, "Prepared"), (Verb.PREFLIGHT, "Prepared"), (Verb.SEAL, "SourceSealed"), (Verb.COPY, "DisksCopied")):
        assert life.told(kind) == ("False", "InProgress")
        life.answer(verb)
        if verb != Verb.PREPARE:
            assert life.told(kind) == ("True", "Done")
    assert life.told("TargetActive") == ("False", "InProgress")


def test_a_second_pass_of_one_that_has_begun_changes_its_report_and_nothing_else() -> None:
    life = Life()
    life.step()
    begun = life.status()
    life.target = "c"
    life.now = 9
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_DISK)
    assert life.status().phase_transitions == begun.phase_transitions
    assert [t.phase.value for t in begun.phase_transitions] == ["Scheduling", "Preparing"]


def test_one_that_had_to_wait_tells_so_before_its_pass() -> None:
    life = Life()
    life.hosts["c"] = host("c", lease=None)
    life.step()
    life.hosts["c"] = host("c")
    life.step()
    assert [t.phase.value for t in life.status().phase_transitions] == ["Pending", "Scheduling", "Preparing"]


def test_how_long_a_copy_is_silent_counts_from_its_last_word_and_not_from_when_somebody_looked() -> None:
    """A controller that is told of the last byte, and of nothing else, looks again for it."""
    life = Life().go_on_to(Verb.COPY)
    life.progress(Verb.COPY, TaskProgress(bytes_total=100, bytes_done=1))
    life.now += 2
    life.progress(Verb.COPY, TaskProgress(bytes_total=100, bytes_done=2))
    decided = life.step()
    assert decided.requeue_after == ledger.NOTED_EVERY - timedelta(seconds=2)
    life.step(3)
    noted = life.now
    decided = life.step()
    assert decided.requeue_after == timedelta(seconds=60)
    life.step(60)
    assert [(s.verb, s.state) for s in life.spec.steps if s.verb == Verb.SEAL] == [], "it is on its way back"
    assert life.now - noted == 60
