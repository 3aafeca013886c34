"""A VM gets other CPUs and memory: at the target of a Migration, and at its next start."""

import dataclasses
from typing import Any

import pytest
from builders import domain, migration
from move_life import Life, running

from kubeferry.api import reasons
from kubeferry.api.domain import Cpu, Memory
from kubeferry.api.placement import PlacementSpec, Resources, SpecPending
from kubeferry.api.role import Role
from kubeferry.api.task import HostTaskSpec, Verb
from kubeferry.api.virtualmachine import RunStrategy, VirtualMachine
from kubeferry.core import gate
from kubeferry.core.host import Refuse
from kubeferry.core.journal import Journal, JournalStep

MIB = 1 << 20
OLD, NEW = Resources(cpu=2, memory=512 * MIB), Resources(cpu=4, memory=1024 * MIB)
BOTH: dict[str, Any] = {"cpu": {"cores": 4}, "memory": {"guest": "1Gi"}}


def asks(of: VirtualMachine, cpu: int, memory: int) -> VirtualMachine:
    """The VM whose owner asks for that."""
    wanted = dataclasses.replace(of.spec.template.spec.domain, cpu=Cpu(cores=cpu), memory=Memory(guest=memory * MIB))
    spec = dataclasses.replace(of.spec.template.spec, domain=wanted)
    return dataclasses.replace(of, spec=dataclasses.replace(of.spec, template=dataclasses.replace(of.spec.template, spec=spec)))


def resizing(**resize: Any) -> Life:
    life = Life(migration(resize=resize or BOTH))
    life.vm = asks(life.vm, 2, 512)
    return life


def sizes(task: HostTaskSpec) -> Resources:
    block = task.prepare or task.activate or task.start
    assert block is not None
    return Resources(cpu=block.domain.cpu_cores, memory=block.domain.memory)


def size(spec: PlacementSpec) -> Resources:
    return Resources(cpu=spec.domain.cpu_cores, memory=spec.domain.memory)


def test_the_target_is_asked_for_the_new_ones_and_the_source_keeps_the_old() -> None:
    life = resizing().go_on_to(Verb.PREPARE)
    assert (life.places[0].cpus, life.places[0].memory) == (NEW.cpu, NEW.memory)
    assert sizes(life.asked(Verb.PREPARE).spec) == NEW
    for verb in (Verb.PREPARE, Verb.PREFLIGHT, Verb.SEAL, Verb.COPY):
        life.answer(verb)
    assert sizes(life.asked(Verb.ACTIVATE).spec) == NEW
    assert size(life.spec) == OLD


def test_a_confirmed_resize_is_told_to_the_spec_and_forgotten_when_it_is_there() -> None:
    life = resizing().go_on_to()
    life.wish("Confirm")
    assert size(life.spec) == NEW
    assert life.spec.spec_pending == SpecPending(cpu=4, memory=1024 * MIB, was=OLD)
    assert life.decide().resize == NEW
    assert life.of_vm(reasons.SPEC_IN_SYNC) == ("True", reasons.AS_EXPECTED), "it is on its way"
    life.vm = asks(life.vm, 4, 1024)
    life.step()
    assert (life.spec.spec_pending, life.decide().resize) == (None, None)
    assert life.of_vm(reasons.RESTART_REQUIRED)[0] == "False"


def test_a_reverted_resize_has_changed_nothing() -> None:
    life = resizing().go_on_to()
    life.wish("Revert")
    life.answer(Verb.SEAL)
    assert sizes(life.asked(Verb.ACTIVATE).spec) == OLD
    life.answer(Verb.ACTIVATE)
    assert (size(life.spec), life.spec.spec_pending, life.decide().resize) == (OLD, None, None)


@pytest.mark.parametrize(("cpu", "memory"), [(3, 512), (2, 768), (3, 768)])
def test_what_its_owner_has_changed_meanwhile_is_not_written_over(cpu: int, memory: int) -> None:
    life = resizing().go_on_to()
    life.vm = asks(life.vm, cpu, memory)
    life.wish("Confirm")
    to = life.decide().resize
    if to is not None:  # the one that still is as it was
        assert to == Resources(cpu=4 if cpu == 2 else cpu, memory=(1024 if memory == 512 else memory) * MIB)
        life.vm = asks(life.vm, to.cpu, to.memory // MIB)
        life.step()
    assert life.decide().resize is None
    assert life.of_vm(reasons.SPEC_IN_SYNC) == ("False", reasons.CHANGED_MEANWHILE)
    assert size(life.spec) == NEW, "what was confirmed runs on"
    life.vm = asks(life.vm, 4, 1024)
    life.step()
    assert life.of_vm(reasons.SPEC_IN_SYNC) == ("True", reasons.AS_EXPECTED)
    assert life.spec.spec_pending is None


@pytest.mark.parametrize(
    ("resize", "edited", "then"),
    [({"cpu": {"cores": 4}}, (2, 768), (4, 768)), ({"memory": {"guest": "1Gi"}}, (3, 512), (3, 1024))],
    ids=["cpu", "memory"],
)
def test_what_a_resize_leaves_alone_is_its_owners_to_change(resize: Any, edited: tuple[int, int], then: tuple[int, int]) -> None:
    life = resizing(**resize).go_on_to()
    life.vm = asks(life.vm, *edited)
    life.wish("Confirm")
    assert life.decide().resize == Resources(cpu=then[0], memory=then[1] * MIB)
    life.vm = asks(life.vm, *then)
    life.step()
    assert life.spec.spec_pending is None
    assert life.of_vm(reasons.RESTART_REQUIRED) == ("True", reasons.SPEC_CHANGED)


def test_what_a_resize_does_not_name_is_as_the_spec_says() -> None:
    life = resizing(cpu={"cores": 4})
    life.vm = asks(life.vm, 2, 768)
    life.go_on_to(Verb.PREPARE)
    assert sizes(life.asked(Verb.PREPARE).spec) == Resources(cpu=4, memory=768 * MIB)


def test_a_move_that_is_no_resize_changes_nothing_of_it() -> None:
    life = Life()
    life.vm = asks(life.vm, 3, 768)
    life.go_on_to()
    life.wish("Confirm")
    assert (size(life.spec), life.spec.spec_pending) == (OLD, None)


def test_a_resize_that_brings_what_the_spec_says_leaves_nothing_to_be_told() -> None:
    life = resizing()
    life.vm = asks(life.vm, 4, 1024)
    life.go_on_to()
    life.wish("Confirm")
    assert (size(life.spec), life.spec.spec_pending) == (NEW, None)


def test_a_resize_on_the_node_where_the_vm_is_ends_before_anything_is_touched() -> None:
    life = Life(migration(resize=BOTH, targetNode="a"))
    life.step()
    assert life.told(reasons.SUCCEEDED) == ("False", reasons.UNABLE_TO_MIGRATE_TO_SELF)
    assert (life.spec.lock, life.open()) == (None, [])


def edited(*, pending: bool = False) -> Life:
    """A VM that runs with the old ones, and whose owner asks for others."""
    life = Life()
    life.migrations.clear()
    if pending:
        was = Resources(cpu=1, memory=MIB)
        life.placement = dataclasses.replace(
            life.placement, spec=dataclasses.replace(running(), spec_pending=SpecPending(cpu=2, memory=512 * MIB, was=was))
        )
    life.vm = asks(life.vm, 3, 768)
    life.step()
    return life


def test_other_resources_come_with_the_next_start() -> None:
    life = edited()
    assert life.of_vm(reasons.RESTART_REQUIRED) == ("True", reasons.SPEC_CHANGED)
    life.want(RunStrategy.HALTED)
    life.answer(Verb.STOP)
    assert (size(life.spec), life.of_vm(reasons.RESTART_REQUIRED)[0]) == (OLD, "False")
    life.want(RunStrategy.ALWAYS)
    assert sizes(life.asked(Verb.START).spec) == size(life.spec) == Resources(cpu=3, memory=768 * MIB)
    assert life.of_vm(reasons.RESTART_REQUIRED)[0] == "False"


def test_a_move_leaves_a_resize_that_waits_to_be_told() -> None:
    life = edited(pending=True)
    life.migrations["later"] = migration("later")
    before = life.spec.spec_pending
    assert before is not None
    life.go_on_to()
    life.wish("Confirm", "later")
    assert life.spec.spec_pending == before


def test_at_the_target_the_spec_has_to_wait_for_the_decision() -> None:
    life = resizing().go_on_to()
    life.want(RunStrategy.HALTED)
    life.answer(Verb.STOP)
    life.vm = asks(life.vm, 3, 768)
    life.want(RunStrategy.ALWAYS)
    assert (size(life.spec), sizes(life.asked(Verb.START).spec)) == (OLD, NEW)


def test_while_a_resize_is_not_told_what_was_confirmed_is_started() -> None:
    life = edited(pending=True)
    assert life.of_vm(reasons.RESTART_REQUIRED)[0] == "False"
    life.want(RunStrategy.HALTED)
    life.answer(Verb.STOP)
    life.want(RunStrategy.ALWAYS)
    assert sizes(life.asked(Verb.START).spec) == OLD


def test_a_start_that_is_asked_keeps_what_it_tells() -> None:
    """The task of a step is made of the Placement: with another domain it would be another task under the same name."""
    life = edited()
    for strategy in (RunStrategy.HALTED, RunStrategy.ALWAYS):
        life.want(strategy)
    first = life.asked(Verb.START)
    life.vm = asks(life.vm, 4, 1024)
    for strategy in (RunStrategy.HALTED, RunStrategy.ALWAYS):
        life.want(strategy)
    assert life.of_vm(reasons.NEEDS_ATTENTION)[0] == "False"
    starts = [t for t in life.tasks.values() if t.spec.verb == Verb.START]
    assert [sizes(t.spec) for t in starts] == [sizes(first.spec)] * 2
    assert life.of_vm(reasons.RESTART_REQUIRED)[0] == "True"


def test_at_the_target_a_vm_is_started_with_what_it_has_there() -> None:
    life = resizing().go_on_to()
    for strategy, verb in ((RunStrategy.HALTED, Verb.STOP), (RunStrategy.ALWAYS, Verb.START)):
        life.want(strategy)
        asked = life.asked(verb)
        if verb == Verb.START:
            assert (asked.spec.node, sizes(asked.spec)) == ("b", NEW)
            life.wish("Confirm")
            assert life.spec.lock is None
            assert life.of_vm(reasons.NEEDS_ATTENTION)[0] == "False", "and the Confirm leaves it the same task"
            return
        life.answer(verb)


@pytest.mark.parametrize(("cpu", "memory", "opens"), [(2, 512, True), (3, 512, False), (2, 768, False)])
def test_an_agent_starts_by_itself_only_what_the_placement_wants(cpu: int, memory: int, opens: bool) -> None:
    held = domain(cpu_cores=cpu, memory=memory * MIB)
    journal = Journal(uid=held.uuid, epoch=1, epoch_id="e1", role=Role.ACTIVE, step=JournalStep(seq=1, verb=Verb.START), domain=held)
    answer = gate.start(running(), journal, "a", "host-a", None)
    assert answer is None if opens else isinstance(answer, Refuse) and answer.reason == reasons.GATE_SHUT


def test_an_agent_starts_by_itself_at_the_target_what_was_moved_there() -> None:
    life = resizing().go_on_to()
    moved = domain(cpu_cores=4, memory=1024 * MIB)
    journal = Journal(uid=moved.uuid, epoch=2, epoch_id="e2", role=Role.ACTIVE, step=JournalStep(seq=1, verb=Verb.ACTIVATE), domain=moved)
    assert gate.start(life.spec, journal, "b", "host-b", None) is None
    stale = dataclasses.replace(journal, domain=domain())
    assert isinstance(gate.start(life.spec, stale, "b", "host-b", None), Refuse)
