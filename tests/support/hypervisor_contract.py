"""What every `Hypervisor` keeps, the fake as the real one. A test class inherits this and gives it a fixture `bench`."""

import queue
import re
import threading
from collections.abc import Callable
from typing import Protocol

import pytest

from kubeferry.agent.virt.port import ExpiredError, Hypervisor, HypervisorError
from kubeferry.api import reasons

UUID = "1b1c8a52-95b5-4e5c-8c39-5f4b2a6d0001"
OTHER_UUID = "1b1c8a52-95b5-4e5c-8c39-5f4b2a6d0002"


class HypervisorBench(Protocol):
    """A hypervisor that runs nothing, and what others can do to it with virsh."""

    hypervisor: Hypervisor

    def define(self, xml: str) -> None: ...

    def undefine(self, uuid: str) -> None: ...

    def destroy(self, uuid: str) -> None:
        """Back when the domain is gone, whatever virsh said: right after libvirtd's start it may destroy one and say that it found none."""

    def stop_service(self) -> None:
        """End the daemon, not its domains; back when it is gone."""

    def start_service(self) -> None:
        """Start the daemon; back when it answers."""


def machine(uuid: str = UUID, name: str = "contract", machine_type: str = "pc-q35-7.2") -> str:
    """XML of the smallest domain: no disk, nothing to boot."""
    return (
        f"<domain type='qemu'><uuid>{uuid}</uuid><name>{name}</name><memory unit='MiB'>32</memory>"
        f"<os><type arch='x86_64' machine='{machine_type}'>hvm</type></os></domain>"
    )


def allowed() -> bool:
    """What allows every start."""
    return True


def next_event(events: "queue.Queue[tuple[str, int]]", uuid: str) -> int:
    """Wait for an event of that domain; the thread that told it."""
    while True:
        told, thread = events.get(timeout=20)
        if told == uuid:
            return thread


class HypervisorContract:
    """The tests."""

    def test_facts_tell_what_scheduling_compares(self, bench: HypervisorBench) -> None:
        facts = bench.hypervisor.facts()
        aliases = {machine.name: machine.canonical for machine in facts.machine_types}
        assert facts.domain_type == "qemu"
        assert re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3}){2}", facts.version)
        assert aliases["q35"] in aliases
        assert aliases["pc-q35-7.2"] is None
        assert facts.cpu.count >= 1
        assert facts.memory > 1 << 30

    def test_a_created_domain_runs_until_it_is_destroyed_and_leaves_nothing(self, bench: HypervisorBench) -> None:
        assert bench.hypervisor.domains() == {}
        bench.hypervisor.create(machine(), allowed)
        assert bench.hypervisor.domains() == {UUID: True}
        bench.destroy(UUID)
        assert bench.hypervisor.domains() == {}

    def test_a_domain_that_stopped_can_be_created_again(self, bench: HypervisorBench) -> None:
        bench.hypervisor.create(machine(), allowed)
        bench.destroy(UUID)
        bench.hypervisor.create(machine(), allowed)
        assert bench.hypervisor.domains() == {UUID: True}

    def test_a_start_that_is_no_longer_allowed_at_the_last_moment_starts_nothing(self, bench: HypervisorBench) -> None:
        with pytest.raises(ExpiredError):
            bench.hypervisor.create(machine(), lambda: False)
        assert bench.hypervisor.domains() == {}
        bench.hypervisor.create(machine(), allowed)
        assert bench.hypervisor.domains() == {UUID: True}

    def test_what_allows_a_start_is_asked_after_everything_that_may_take_its_time(self, bench: HypervisorBench) -> None:
        asked: list[str] = []
        bench.stop_service()
        with pytest.raises(HypervisorError):
            bench.hypervisor.create(machine(), lambda: bool(asked.append("unreachable")))
        bench.start_service()
        bench.hypervisor.create(machine(), allowed)
        with pytest.raises(HypervisorError):
            bench.hypervisor.create(machine(), lambda: bool(asked.append("known")))
        assert asked == []

    @pytest.mark.parametrize(
        "second",
        [
            pytest.param(machine(), id="the same domain"),
            pytest.param(machine(name="renamed"), id="the same uuid under another name"),
            pytest.param(machine(uuid=OTHER_UUID), id="the same name with another uuid"),
        ],
    )
    def test_a_second_domain_beside_a_running_one_is_refused_if_it_is(self, bench: HypervisorBench, second: str) -> None:
        bench.hypervisor.create(machine(), allowed)
        with pytest.raises(HypervisorError) as refused:
            bench.hypervisor.create(second, allowed)
        assert refused.value.reason == reasons.HYPERVISOR_ERROR
        assert bench.hypervisor.domains() == {UUID: True}

    def test_a_foreign_definition_of_the_uuid_is_told_and_never_started(self, bench: HypervisorBench) -> None:
        bench.define(machine())
        assert bench.hypervisor.domains() == {UUID: False}
        with pytest.raises(HypervisorError) as refused:
            bench.hypervisor.create(machine(), allowed)
        assert refused.value.reason == reasons.HYPERVISOR_ERROR
        assert bench.hypervisor.domains() == {UUID: False}
        bench.undefine(UUID)
        assert bench.hypervisor.domains() == {}

    @pytest.mark.parametrize(
        "xml",
        [
            pytest.param("<domain", id="malformed"),
            pytest.param(machine().replace("<memory unit='MiB'>32</memory>", ""), id="without memory"),
            pytest.param(machine(machine_type="pc-q35-999"), id="of a machine type that is not offered"),
        ],
    )
    def test_xml_that_can_not_run_is_refused(self, bench: HypervisorBench, xml: str) -> None:
        with pytest.raises(HypervisorError) as refused:
            bench.hypervisor.create(xml, allowed)
        assert refused.value.reason == reasons.HYPERVISOR_ERROR
        assert bench.hypervisor.domains() == {}

    def test_the_power_button_leaves_it_to_the_guest_and_one_without_a_system_runs_on(self, bench: HypervisorBench) -> None:
        bench.hypervisor.create(machine(), allowed)
        for _ in range(2):
            bench.hypervisor.shutdown(UUID)
            assert bench.hypervisor.domains() == {UUID: True}

    def test_a_domain_is_destroyed_whether_the_guest_likes_it_or_not_and_no_other_is(self, bench: HypervisorBench) -> None:
        for uuid, name in ((UUID, "contract"), (OTHER_UUID, "other")):
            bench.hypervisor.create(machine(uuid, name), allowed)
        bench.hypervisor.destroy(UUID)
        assert bench.hypervisor.domains() == {OTHER_UUID: True}

    def test_a_domain_that_is_gone_is_stopped_again_as_if_it_were_there(self, bench: HypervisorBench) -> None:
        bench.hypervisor.create(machine(), allowed)
        bench.destroy(UUID)
        bench.hypervisor.shutdown(UUID)
        bench.hypervisor.destroy(UUID)
        assert bench.hypervisor.domains() == {}

    def test_a_definition_without_a_process_is_left_as_it_is(self, bench: HypervisorBench) -> None:
        bench.define(machine())
        bench.hypervisor.shutdown(UUID)
        bench.hypervisor.destroy(UUID)
        assert bench.hypervisor.domains() == {UUID: False}

    def test_a_watcher_is_told_of_start_and_end_from_another_thread(self, bench: HypervisorBench) -> None:
        events: queue.Queue[tuple[str, int]] = queue.Queue()
        assert bench.hypervisor.domains() == {}
        bench.hypervisor.watch(lambda uuid: events.put((uuid, threading.get_ident())))
        bench.hypervisor.create(machine(), allowed)
        assert next_event(events, UUID) != threading.get_ident()
        bench.hypervisor.create(machine(uuid=OTHER_UUID, name="other"), allowed)
        assert next_event(events, OTHER_UUID) != threading.get_ident()
        bench.destroy(UUID)
        assert next_event(events, UUID) != threading.get_ident()
        bench.hypervisor.destroy(OTHER_UUID)
        assert next_event(events, OTHER_UUID) != threading.get_ident()

    def test_without_its_service_it_is_unreachable_and_with_it_everything_is_as_before(self, bench: HypervisorBench) -> None:
        events: queue.Queue[tuple[str, int]] = queue.Queue()
        bench.hypervisor.watch(lambda uuid: events.put((uuid, threading.get_ident())))
        bench.hypervisor.create(machine(), allowed)
        bench.stop_service()
        calls: tuple[Callable[[], object], ...] = (
            bench.hypervisor.domains,
            bench.hypervisor.facts,
            lambda: bench.hypervisor.create(machine(), allowed),
            lambda: bench.hypervisor.shutdown(UUID),
            lambda: bench.hypervisor.destroy(UUID),
        )
        for call in calls:
            with pytest.raises(HypervisorError) as refused:
                call()
            assert refused.value.reason == reasons.HYPERVISOR_UNREACHABLE
        bench.start_service()
        assert bench.hypervisor.domains() == {UUID: True}
        while not events.empty():
            events.get_nowait()
        bench.destroy(UUID)
        next_event(events, UUID)

    def test_a_service_that_was_restarted_between_two_calls_goes_unnoticed(self, bench: HypervisorBench) -> None:
        bench.hypervisor.create(machine(), allowed)
        bench.stop_service()
        bench.start_service()
        assert bench.hypervisor.domains() == {UUID: True}

    def test_a_watcher_that_came_while_the_service_was_down_is_told_later(self, bench: HypervisorBench) -> None:
        events: queue.Queue[tuple[str, int]] = queue.Queue()
        bench.stop_service()
        with pytest.raises(HypervisorError):
            bench.hypervisor.watch(lambda uuid: events.put((uuid, threading.get_ident())))
        bench.start_service()
        bench.hypervisor.create(machine(), allowed)
        next_event(events, UUID)
