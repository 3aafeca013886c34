"""Calls to a hypervisor that may not return."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
from builders import UID
from fake_hypervisor import FakeHypervisor
from hypervisor_contract import OTHER_UUID, UUID, allowed, machine

from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.virt.port import ExpiredError, HypervisorError
from kubeferry.api import reasons


class Hanging(FakeHypervisor):
    """Answers `domains`, `create` and `destroy` once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.asked = 0

    def domains(self) -> dict[str, bool]:
        self.asked += 1
        self.released.wait()
        return {UID: True}

    def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        self.released.wait()
        super().create(xml, allowed)

    def destroy(self, uuid: str) -> None:
        self.released.wait()
        super().destroy(uuid)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.released.set()


async def test_a_call_that_does_not_return_is_told(hanging: Hanging) -> None:
    calls = HypervisorCalls(hanging, callers=2, deadline=0.01)
    assert not calls.hung.is_set()
    with pytest.raises(HypervisorError, match="did not return from domains") as hung:
        await calls.domains()
    assert hung.value.reason == reasons.HYPERVISOR_HUNG
    assert calls.hung.is_set()


async def test_once_a_call_hung_every_later_one_fails_at_once(hanging: Hanging) -> None:
    calls = HypervisorCalls(hanging, callers=9, deadline=0.01)
    with pytest.raises(HypervisorError):
        await calls.domains()
    later: tuple[Callable[[], Awaitable[object]], ...] = (
        calls.domains,
        calls.facts,
        lambda: calls.create(machine(), allowed),
        lambda: calls.shutdown(UID),
        lambda: calls.destroy(UID),
        lambda: calls.watch(print),
    )
    for call in later:
        with pytest.raises(HypervisorError, match="was not asked") as hung:
            await call()
        assert hung.value.reason == reasons.HYPERVISOR_HUNG
    assert hanging.asked == 1


@pytest.mark.parametrize("what", ["create", "destroy"])
async def test_a_start_and_a_forced_end_are_given_more_time_than_other_calls(hanging: Hanging, what: str) -> None:
    calls = HypervisorCalls(hanging, callers=2, deadline=0.01, long_deadline=3600)
    start = asyncio.create_task(calls.create(machine(), allowed) if what == "create" else calls.destroy(UID))
    done, _ = await asyncio.wait({start}, timeout=0.1)
    assert not done
    hanging.released.set()
    await start
    assert not calls.hung.is_set()


async def test_a_start_that_does_not_return_is_told_too(hanging: Hanging) -> None:
    calls = HypervisorCalls(hanging, callers=2, long_deadline=0.01)
    with pytest.raises(HypervisorError, match="did not return from create"):
        await calls.create(machine(), allowed)


async def test_the_power_button_and_the_end_are_those_of_the_domain_that_is_named() -> None:
    port = FakeHypervisor()
    calls = HypervisorCalls(port, callers=2)
    for uuid, name in ((UUID, "contract"), (OTHER_UUID, "other")):
        await calls.create(machine(uuid, name), allowed)
    port.listen(UUID)
    await calls.shutdown(UUID)
    assert port.domains() == {OTHER_UUID: True}
    await calls.destroy(OTHER_UUID)
    assert port.domains() == {}


async def test_what_no_longer_allows_a_start_ends_it(hanging: Hanging) -> None:
    hanging.released.set()
    with pytest.raises(ExpiredError):
        await HypervisorCalls(hanging, callers=2).create(machine(), lambda: False)


async def test_as_many_calls_as_there_are_callers_are_made_at_a_time() -> None:
    together = threading.Barrier(40, timeout=10)

    class Meeting(FakeHypervisor):
        def domains(self) -> dict[str, bool]:
            together.wait()
            return {}

    calls = HypervisorCalls(Meeting(), callers=40)
    assert await asyncio.gather(*(calls.domains() for _ in range(40))) == [{}] * 40
