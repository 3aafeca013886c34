"""What a migration goes by: the ledger, the proofs, the domain, what was told before."""

import dataclasses

import pytest
from builders import NOON, host, migration, vm
from move_life import REPORT, Life, discarding, running

from kubeferry.api import reasons
from kubeferry.api.placement import Copy, StepState
from kubeferry.api.role import RunState
from kubeferry.api.task import DiscardMode, DiskResult, TaskResult, TaskState, Verb
from kubeferry.core import guards
from kubeferry.core.observed import Choice
from kubeferry.core.vm import step


def test_a_start_that_was_asked_is_waited_for() -> None:
    spec = running()
    (create, start) = spec.steps
    life = Life(spec=dataclasses.replace(spec, steps=(create, dataclasses.replace(start, state=StepState.PENDING))))
    life.step()
    assert life.spec.lock is None
    assert "Start of a" in life.whole(reasons.SCHEDULED).message


def test_the_answer_of_the_pass_to_another_migration_is_not_taken() -> None:
    life = Life()
    life.decide()
    life._write(life.decide())
    decision = step(life.seen(Choice("uid-other", "c", "", REPORT)), NOON, "e2")
    assert decision.place is not None
    assert decision.placement is None


def test_a_marked_copy_counts_although_its_host_does_not_tell_of_it() -> None:
    life = discarding()
    life.hosts["a"] = host("a")
    life.migrations["next"] = migration("next", created=5)
    life.target = None
    life.step()
    assert life.places[-1].holders == {"a"}


def test_a_discard_that_fails_does_not_stop_the_next_migration() -> None:
    life = discarding()
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    life.answer(Verb.DISCARD, reasons.STORAGE_ERROR)
    life.answer(Verb.PREPARE)
    assert (Verb.PREFLIGHT, "b") in life.open()


def test_a_confirm_waits_for_the_word_running(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life()
    life.go_on_to()
    monkeypatch.setattr(guards, "confirm_running", lambda spec: False)
    life.wish("Confirm")
    assert life.told(reasons.CONFIRM_BLOCKED) == ("True", reasons.TARGET_NOT_ACTIVE)


@pytest.mark.parametrize(("wish", "cores"), [("Confirm", 4), ("Revert", 2)])
def test_the_target_runs_with_the_domain_of_the_move_and_the_vm_keeps_it_only_if_confirmed(wish: str, cores: int) -> None:
    life = Life()
    life.go_on_to(Verb.ACTIVATE)
    move = life.spec.move
    assert move is not None
    larger = dataclasses.replace(move.domain, cpu_cores=4)
    spec = dataclasses.replace(life.spec, move=dataclasses.replace(move, domain=larger))
    life.placement = dataclasses.replace(life.placement, spec=spec)
    life.tasks.clear()
    life.step()
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    assert activate.domain.cpu_cores == 4
    life.answer(Verb.ACTIVATE)
    life.wish(wish)
    if wish == "Revert":
        life.answer(Verb.SEAL)
        activate = life.asked(Verb.ACTIVATE).spec.activate
        assert activate is not None
        assert activate.domain.cpu_cores == 2
        life.answer(Verb.ACTIVATE)
    assert life.spec.domain.cpu_cores == cores


def test_each_of_two_copies_that_are_to_go_is_asked_of_its_own_host() -> None:
    life = discarding()
    second = Copy(node="c", host_id="host-c", epoch_id="e1", discard=DiscardMode.TRASH)
    life.placement = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, copies=(*life.spec.copies, second)))
    life.step()
    assert sorted(life.open()) == [(Verb.DISCARD, "a"), (Verb.DISCARD, "c")]
    for node in ("a", "c"):
        (asked,) = (t for t in life.tasks.values() if t.spec.node == node)
        life.tasks[asked.metadata.name] = dataclasses.replace(asked, status=life._done(asked))
        life.step()
        assert node not in [c.node for c in life.spec.copies]
    assert life.open() == []


def test_a_preflight_says_nothing_of_the_journals_epoch_and_a_seal_does() -> None:
    life = Life()
    life.go_on_to(Verb.SEAL)
    assert [c.epoch_id for c in life.spec.copies] == ["e1", "e2"]
    life.answer(Verb.SEAL)
    assert [c.epoch_id for c in life.spec.copies] == ["e2", "e2"]


def test_a_vm_that_moved_and_is_to_go_runs_on() -> None:
    life = discarding()
    life.vm = vm(deleted=True)
    life.step()
    assert life.spec.running


def test_a_vm_that_stopped_after_its_move_is_told_as_stopped() -> None:
    life = discarding()
    life.answer(Verb.DISCARD)
    life.holds("b", state=RunState.STOPPED)
    life.step()
    assert life.of_vm(reasons.READY) == ("False", reasons.STOPPED)


def test_what_the_disks_occupied_is_told_on_while_no_host_tells_anew() -> None:
    life = Life()
    (create, start) = life.spec.steps
    result = TaskResult(state=TaskState.RUNNING, disks=(DiskResult(name="root", allocated=7 << 20),))
    steps = (create, dataclasses.replace(start, result=result))
    life.holds("a", state=RunState.STOPPED)
    life.placement = dataclasses.replace(life.placement, spec=dataclasses.replace(life.spec, steps=steps))
    life.step()
    life.holds("a", state=RunState.RUNNING)
    life.go_on_to(Verb.COPY)
    assert life.vm.status is not None
    assert [v.allocated for v in life.vm.status.volumes] == [7 << 20]


def test_when_it_took_the_lock_is_told_and_stays() -> None:
    life = Life()
    life.step()
    life.now = 100
    life.answer(Verb.PREPARE)
    assert life.status().started_at == NOON
