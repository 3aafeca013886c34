"""Sealing: the guest is asked for as long as it was given, then made to, and nothing is called sealed that was not proved stopped."""

import dataclasses
from collections.abc import Callable

import pytest
from agent_rig import Rig
from builders import UID
from fake_hypervisor import FakeHypervisor
from hypervisor_contract import machine
from image_holder import held_by_qemu
from structlog.testing import capture_logs

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.interruption import Interruption
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.sealer import END_WITHIN, LOOK_EVERY, PRESS_EVERY, Sealer
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core.journal import Journal, JournalStep


class Life:
    """The time in which a VM is sealed: it passes only in pauses, and things happen in it."""

    def __init__(self) -> None:
        self.now = 500.0
        self.pauses: list[float] = []
        self._due: list[tuple[float, Callable[[], object]]] = []

    def after(self, seconds: float, happens: Callable[[], object]) -> None:
        self._due.append((self.now + seconds, happens))

    def clock(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        due = [happens for when, happens in self._due if when <= self.now]
        self._due = [(when, happens) for when, happens in self._due if when > self.now]
        for happens in due:
            happens()


class Guest(FakeHypervisor):
    """Runs the VM, and notes when its button was pressed and when it was destroyed."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self.life = life
        self.begun = life.now
        self.presses: list[float] = []
        self.destroyed: list[float] = []
        self.create(machine(UID, "web"), lambda: True)

    def shutdown(self, uuid: str) -> None:
        self.presses.append(self.life.now - self.begun)
        super().shutdown(uuid)

    def destroy(self, uuid: str) -> None:
        self.destroyed.append(self.life.now - self.begun)
        super().destroy(uuid)


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.fixture
def guest(life: Life) -> Guest:
    return Guest(life)


def sealing(rig: Rig, grace: int = 0) -> Journal:
    """The VM's journal as the role table wants it written."""
    step = JournalStep(seq=7, verb=Verb.SEAL, grace_seconds=grace)
    return Journal(uid=UID, epoch=3, epoch_id="e3", role=Role.SEALING, step=step, domain=rig.domain())


async def seal(rig: Rig, guest: FakeHypervisor, life: Life, grace: int) -> Journal:
    calls = HypervisorCalls(guest, callers=2)
    sealer = Sealer(rig.journals, calls, StopProof(rig.machine, calls), life.clock, life.pause)
    return await sealer.seal(sealing(rig, grace), Interruption())


async def test_a_guest_that_listens_shuts_down_at_once_and_is_not_forced(rig: Rig, guest: Guest, life: Life) -> None:
    guest.listen(UID)
    sealed = await seal(rig, guest, life, 60)
    assert sealed == dataclasses.replace(sealing(rig, 60), role=Role.SEALED)
    assert (guest.presses, guest.destroyed) == ([0.0], [])
    assert life.pauses == [LOOK_EVERY]


async def test_the_sealed_journal_is_the_one_that_is_stored(rig: Rig, guest: Guest, life: Life) -> None:
    sealed = await seal(rig, guest, life, 0)
    assert rig.journal() == sealed
    assert sealed.role == Role.SEALED


async def test_the_button_is_pressed_again_until_the_guest_listens(rig: Rig, guest: Guest, life: Life) -> None:
    life.after(2.6, lambda: guest.listen(UID))
    await seal(rig, guest, life, 60)
    assert guest.presses == [0.0, 1.0, 2.0, 3.0]
    assert guest.destroyed == []
    assert max(life.pauses) == LOOK_EVERY < PRESS_EVERY


async def test_a_guest_that_powers_itself_off_meanwhile_is_pressed_no_more(rig: Rig, guest: Guest, life: Life) -> None:
    life.after(1.5, lambda: FakeHypervisor.destroy(guest, UID))
    await seal(rig, guest, life, 60)
    assert (guest.presses, guest.destroyed) == ([0.0, 1.0], [])


async def test_a_guest_that_does_not_listen_is_ended_when_its_time_is_over_and_not_before(rig: Rig, guest: Guest, life: Life) -> None:
    await seal(rig, guest, life, 3)
    assert guest.presses == [0.0, 1.0, 2.0]
    assert guest.destroyed == [3.0]


async def test_without_a_time_of_grace_the_guest_is_not_asked(rig: Rig, guest: Guest, life: Life) -> None:
    guest.listen(UID)
    await seal(rig, guest, life, 0)
    assert (guest.presses, guest.destroyed) == ([], [0.0])


async def test_a_vm_that_does_not_run_is_sealed_without_a_press(rig: Rig, guest: Guest, life: Life) -> None:
    FakeHypervisor.destroy(guest, UID)
    assert (await seal(rig, guest, life, 60)).role == Role.SEALED
    assert (guest.presses, guest.destroyed, life.pauses) == ([], [], [])


async def test_the_journal_says_sealing_before_the_guest_is_touched(rig: Rig, life: Life) -> None:
    roles: list[Role] = []

    class Looking(Guest):
        def shutdown(self, uuid: str) -> None:
            roles.append(rig.journal().role)
            super().shutdown(uuid)

        def destroy(self, uuid: str) -> None:
            roles.append(rig.journal().role)
            super().destroy(uuid)

    rig.journals.write(dataclasses.replace(sealing(rig), epoch=2, epoch_id="e2", role=Role.ACTIVE))
    await seal(rig, Looking(life), life, 1)
    assert roles == [Role.SEALING, Role.SEALING]


async def test_a_journal_that_can_not_be_written_leaves_the_guest_alone(rig: Rig, guest: Guest, life: Life) -> None:
    journal = sealing(rig)
    calls = HypervisorCalls(guest, callers=2)
    lost = JournalStore(rig.path / "nowhere")
    with pytest.raises(Exception, match="nowhere"):
        await Sealer(lost, calls, StopProof(rig.machine, calls), life.clock, life.pause).seal(journal, Interruption())
    assert (guest.presses, guest.destroyed) == ([], [])
    assert guest.domains() == {UID: True}


async def test_what_is_not_proved_stopped_is_not_sealed(rig: Rig, guest: Guest, life: Life) -> None:
    image = rig.path / "instances" / UID / "root.raw"
    image.parent.mkdir()
    image.write_bytes(b"guest" * 1000)
    with held_by_qemu(image), pytest.raises(RefusedError) as refused:
        await seal(rig, guest, life, 0)
    assert refused.value.reason == reasons.NOT_STOPPED
    assert rig.journal().role == Role.SEALING
    assert (await seal(rig, guest, life, 0)).role == Role.SEALED


async def test_a_domain_that_is_just_being_forgotten_is_waited_for(rig: Rig, life: Life) -> None:
    class Slow(Guest):
        def destroy(self, uuid: str) -> None:
            life.after(END_WITHIN - LOOK_EVERY, lambda: FakeHypervisor.destroy(self, uuid))

    assert (await seal(rig, Slow(life), life, 0)).role == Role.SEALED


async def test_a_domain_that_does_not_end_is_told_in_the_end_and_the_vm_is_not_sealed(rig: Rig, life: Life) -> None:
    class Immortal(Guest):
        def destroy(self, uuid: str) -> None:
            self.destroyed.append(life.now)

    with pytest.raises(HypervisorError, match="it runs") as refused:
        await seal(rig, Immortal(life), life, 0)
    assert (refused.value.reason, refused.value.retryable) == (reasons.HYPERVISOR_ERROR, True)
    assert sum(life.pauses) == END_WITHIN
    assert rig.journal().role == Role.SEALING


async def test_a_definition_that_stays_behind_is_named_and_the_vm_is_not_sealed(rig: Rig, life: Life) -> None:
    defined = FakeHypervisor()
    defined.define(machine(UID, "web"))
    with pytest.raises(HypervisorError, match="undefine it"):
        await seal(rig, defined, life, 60)
    assert rig.journal().role == Role.SEALING


async def test_a_button_that_can_not_be_pressed_is_no_reason_to_give_up(rig: Rig, life: Life) -> None:
    class Stuck(Guest):
        def shutdown(self, uuid: str) -> None:
            raise HypervisorError(reasons.HYPERVISOR_ERROR, "the monitor was cut off")

    stuck = Stuck(life)
    assert (await seal(rig, stuck, life, 2)).role == Role.SEALED
    assert stuck.destroyed == [2.0]


async def test_a_hypervisor_that_falls_silent_ends_it(rig: Rig, guest: Guest, life: Life) -> None:
    life.after(1.0, guest.stop_service)
    with pytest.raises(HypervisorError) as refused:
        await seal(rig, guest, life, 60)
    assert refused.value.reason == reasons.HYPERVISOR_UNREACHABLE
    assert life.now - 500.0 == 1.0
    assert rig.journal().role == Role.SEALING


@pytest.mark.parametrize(
    ("grace", "listens", "how", "seconds"),
    [(60, True, "the guest shut down", 0.2), (2, False, "forced", 2.0), (0, True, "forced", 0.0)],
)
async def test_how_it_ended_and_how_long_that_took_is_logged(
    rig: Rig, guest: Guest, life: Life, grace: int, listens: bool, how: str, seconds: float
) -> None:
    if listens:
        guest.listen(UID)
    with capture_logs() as logs:
        await seal(rig, guest, life, grace)
    told = [entry for entry in logs if entry["event"] == "VM stopped"]
    assert [(entry["how"], entry["seconds"], entry["grace_seconds"]) for entry in told] == [(how, seconds, grace)]


async def test_a_journal_without_a_domain_is_a_defect(rig: Rig, guest: Guest, life: Life) -> None:
    calls = HypervisorCalls(guest, callers=2)
    sealer = Sealer(rig.journals, calls, StopProof(rig.machine, calls), life.clock, life.pause)
    with pytest.raises(ValueError, match="has no domain"):
        await sealer.seal(dataclasses.replace(sealing(rig), domain=None), Interruption())
    assert guest.domains() == {UID: True}
