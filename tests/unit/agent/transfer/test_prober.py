"""The target's end of a preflight, where its file system hangs or lies."""

import asyncio
import dataclasses
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sshd import REQUEST, Caller, Target

from kubeferry.agent.storage import looks
from kubeferry.agent.storage.probe import Probe
from kubeferry.agent.transfer import prober, wire
from kubeferry.agent.transfer.wire import AnswerState, ProbeRequest, Request
from kubeferry.api import reasons

THEIRS = Probe(name=".probe-host-a-0123", content="a" * 32)


def ask(caller: Caller, request: Request = REQUEST) -> None:
    caller.send(wire.message(ProbeRequest(request=request, probe=THEIRS, certificate=caller.own.certificate)))


def left_at(target: Target) -> list[str]:
    return [name for name in os.listdir(target.machine.settings.instances_path) if name.startswith(".probe-")]


class Hanging:
    """A file system that does not answer before it is released."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        self.hung = 0

    def hang(self, *_: object) -> bool:
        self.hung += 1
        self.begun.set()
        self.released.wait(60)
        return False


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Whatever looks for the other host's file hangs, and is not waited for long."""
    file_system = Hanging()
    monkeypatch.setattr(looks, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(prober, "is_seen", file_system.hang)
    yield file_system
    file_system.released.set()


async def test_the_directory_is_looked_at_after_ours_was_left_and_ours_is_gone_at_the_end(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this host changes in the directory has its file system forget what it knew of it: a cache that knew nothing of theirs."""
    seen: list[list[str]] = []

    def noted(path: Path, _: Probe) -> bool:
        seen.append(os.listdir(path))
        return False

    monkeypatch.setattr(prober, "is_seen", noted)
    target.expect()
    async with target.serving(), target.call("probe-storage") as caller:
        ask(caller)
        answer = await caller.answer()
        assert answer.probed is not None
        assert seen == [[answer.probed.probe.name]]
        assert left_at(target) == [answer.probed.probe.name]
        caller.writer.write_eof()
        await target.idle()
        assert left_at(target) == []


async def test_a_look_that_hangs_is_told_and_holds_up_nothing_else_of_the_agent(target: Target, hanging: Hanging) -> None:
    target.expect()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    async with asyncio.timeout(20), target.serving():
        async with target.call("probe-storage") as caller:
            ask(caller)
            assert await asyncio.to_thread(hanging.begun.wait, 15)
            assert not hanging.released.is_set()
            answer = await caller.answer()
        assert answer.error is not None
        assert (answer.error.reason, answer.error.retryable) == (reasons.STORAGE_ERROR, True)
        assert "does not answer within 0 s" in answer.error.message
        async with target.call("make-instance-dir") as caller:
            caller.send(wire.message(REQUEST))
            assert (await caller.answer()).state == AnswerState.MADE


async def test_few_threads_hang_and_further_probes_are_refused_until_they_come_back(target: Target, hanging: Hanging) -> None:
    async with asyncio.timeout(20), target.serving():
        for number in range(looks.THREADS + 2):
            refusal = await probe_of(target, f"vm-{number}")
            expected = "does not answer within" if number < looks.THREADS else f"{looks.THREADS} earlier looks at it hang"
            assert expected in refusal
            assert refusal.startswith(reasons.STORAGE_ERROR)
        assert hanging.hung == looks.THREADS
        hanging.released.set()
        await asyncio.to_thread(target.service._prober._looks._threads.shutdown)  # each has removed what it left
        assert left_at(target) == []


async def probe_of(target: Target, uid: str) -> str:
    """The refusal of a probe for another VM."""
    target.journals.write(dataclasses.replace(target.expect(), uid=uid))
    async with target.call("probe-storage") as caller:
        ask(caller, dataclasses.replace(REQUEST, uid=uid))
        return await caller.refusal()


async def test_a_file_that_is_left_only_after_it_was_given_up_goes_again(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    released, left, gone = threading.Event(), threading.Event(), threading.Event()
    leave = prober.left

    @contextmanager
    def late(*where: Any) -> Iterator[Probe]:
        released.wait(60)
        with leave(*where) as probe:
            left.set()
            yield probe
        gone.set()

    monkeypatch.setattr(looks, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(prober, "left", late)
    target.expect()
    async with target.serving(), target.call("probe-storage") as caller:
        ask(caller)
        assert "does not answer within 0 s" in await caller.refusal()
        assert not left.is_set()
        released.set()
        assert await asyncio.to_thread(gone.wait, 30)
        assert left.is_set()
        assert left_at(target) == []


async def test_a_source_that_is_cut_off_while_the_target_leaves_its_file_leaves_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, released, ended = threading.Event(), threading.Event(), threading.Event()
    leave = prober.left

    @contextmanager
    def slow(*where: Any) -> Iterator[Probe]:
        leaving.set()
        released.wait(60)
        with leave(*where) as probe:
            ended.set()
            yield probe

    monkeypatch.setattr(prober, "left", slow)
    target.expect()
    async with target.serving(), target.call("probe-storage") as caller:
        ask(caller)
        await asyncio.to_thread(leaving.wait, 30)
        idle = asyncio.create_task(target.idle())
        assert not (await asyncio.wait({idle}, timeout=0.2))[0], "it is not idle while its thread is at work"
        released.set()
        await idle
        assert ended.is_set()
        assert left_at(target) == []
