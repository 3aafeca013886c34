"""A fence: it stands for a seal only of the boot that it names, read after nodeName was cleared, of a host that is silent."""

import dataclasses
from typing import Any

import pytest
from builders import after, migration
from move_life import Life, reverting

from kubeferry.api import reasons
from kubeferry.api.placement import StepState
from kubeferry.api.role import Role
from kubeferry.api.task import DiscardMode, ProofKind, TaskState, Verb
from kubeferry.core import guards
from kubeferry.core.observed import ReplacePlacement
from kubeferry.core.vm import step


def fenced(**changes: Any) -> Life:
    """A migration that is being reverted; its target is attested dead, as far as nothing else is said."""
    life = reverting()
    told = {"lease_fresh": False, "fence": "boot-b-1"} | changes
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], **told)
    return life


def test_a_fence_stands_for_the_seal_of_a_dead_target() -> None:
    life = fenced()
    life.step()
    assert (life.spec.node_name, sorted(life.open())) == ("a", [(Verb.ACTIVATE, "a"), (Verb.SEAL, "b")])
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    assert activate.proof is not None
    assert (activate.proof.kind, activate.proof.node) == (ProofKind.FENCE, "b")


@pytest.mark.parametrize(
    "changes",
    [{"fence": None}, {"fence": "boot-b-0"}, {"lease_fresh": True}, {"lease_fresh": None}],
    ids=["no-fence", "of-another-boot", "alive", "not-known-yet"],
)
def test_anything_less_is_no_proof(changes: dict[str, Any]) -> None:
    life = fenced(**changes)
    life.step()
    assert (life.spec.node_name, life.open()) == ("", [(Verb.SEAL, "b")])


def test_a_host_that_took_the_nodes_name_is_not_the_one_that_was_fenced() -> None:
    life = fenced()
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], status=dataclasses.replace(life.hosts["b"].status, host_id="host-new"))
    life.step()
    assert life.spec.node_name == ""


def test_a_compute_node_that_was_not_read_in_this_pass_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    life = fenced()
    unread = dataclasses.replace(life.seen(), live=frozenset())
    decision = step(unread, after(0), "e9")
    assert decision.placement is None
    monkeypatch.setattr(guards, "fence_reread", lambda spec, node: False)
    decision = step(unread, after(0), "e9")
    assert isinstance(decision.placement, ReplacePlacement)
    assert decision.placement.spec.node_name == "a", "old news would start it twice"


def test_without_its_guard_a_fence_would_count_for_any_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "fence_boot", lambda host: True)
    life = fenced(fence="boot-b-0")
    life.step()
    assert life.spec.node_name == "a"


def test_the_activate_stays_the_same_when_the_fenced_host_seals_after_all() -> None:
    life = fenced()
    life.step()
    before = life.asked(Verb.ACTIVATE).spec
    life.end(Verb.SEAL, TaskState.SEALED)
    assert life.asked(Verb.ACTIVATE).spec == before
    del life.tasks[life.asked(Verb.ACTIVATE).metadata.name]
    life.step()
    assert life.asked(Verb.ACTIVATE).spec == before


def test_the_lock_is_given_up_and_the_seal_and_the_discard_wait_for_the_host() -> None:
    life = fenced()
    life.step()
    life.answer(Verb.ACTIVATE)
    assert (life.spec.lock, life.open()) == (None, [(Verb.SEAL, "b")])
    marked = life.copy_on("b")
    assert marked is not None
    assert (marked.discard, marked.unsealed) == (DiscardMode.TRASH, True)
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], lease_fresh=True)
    life.end(Verb.SEAL, TaskState.SEALED)
    assert life.open() == [(Verb.DISCARD, "b")]
    life.answer(Verb.DISCARD)
    assert [copy.node for copy in life.spec.copies] == ["a"]


def test_a_fenced_host_that_returns_in_a_later_epoch_is_sealed_before_its_copy_is_discarded() -> None:
    life = fenced()
    life.step()
    life.answer(Verb.ACTIVATE)
    life.migrations["next"] = migration("next", created=5)
    life.target = "c"
    life.step()
    assert life.spec.epoch == 4
    assert sorted(life.open()) == [(Verb.PREPARE, "c"), (Verb.SEAL, "b")]
    seal = life.asked(Verb.SEAL).spec
    assert seal.seal is not None
    assert (seal.epoch, seal.seal.shutdown_timeout_seconds) == (4, 0)
    life.end(Verb.SEAL, TaskState.SEALED)
    assert (Verb.DISCARD, "b") in life.open()


def test_a_discard_that_is_refused_by_an_active_copy_never_leads_to_its_seal() -> None:
    life = Life().go_on_to()
    life.wish("Confirm")
    for _ in range(3):
        life.answer(Verb.DISCARD, "RefusedByRole")
        assert all(s.verb != Verb.SEAL or s.state != StepState.PENDING for s in life.spec.steps)
        life.step(300)
    assert life.open() == [(Verb.DISCARD, "a")]
    assert life.hosts["b"].copy_of(life.spec.virtual_machine.uid).role == Role.ACTIVE  # type: ignore[union-attr]


def test_beside_a_seal_that_has_failed_it_is_the_fence_that_is_the_proof() -> None:
    """A Seal that failed proves nothing; it is asked again, and the fence is read again for it."""
    life = reverting()
    life.answer(Verb.SEAL, reasons.NOT_STOPPED)
    life.hosts["b"] = dataclasses.replace(life.hosts["b"], lease_fresh=False, fence="boot-b-1")
    life.step(10)
    activate = life.asked(Verb.ACTIVATE).spec.activate
    assert activate is not None
    assert activate.proof is not None
    assert activate.proof.kind == ProofKind.FENCE
