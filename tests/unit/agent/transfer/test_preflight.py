"""The source's end of a preflight, where the target or its own file system keeps it waiting. (How it ends well: `test_peers`.)"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sshd import REQUEST, Sshd, Target

from kubeferry.agent.storage import looks, probe
from kubeferry.agent.storage.probe import Probe
from kubeferry.agent.transfer import prober, tls, wire
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.preflight import PREFLIGHT_SECONDS, Preflights
from kubeferry.agent.transfer.vocabulary import PROBE
from kubeferry.agent.transfer.wire import Answer, AnswerState, DataPort, FrameType, Probed
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.core.limits import LIMITS

Reached = tuple[Target, Sshd, SshEndpoint, Keys]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ENDS_SECONDS = 5.0
"""More than the end of what was ended takes, and less than any wait for the other host."""
THEIRS = Probe(name=".probe-host-b-0123", content="b" * 32)


class Source:
    """Host `a`, at whose preflight's alarm the test is."""

    def __init__(self, instances_path: Path, endpoint: SshEndpoint, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
        instances_path.mkdir()
        self.instances_path = instances_path
        self.endpoint = endpoint
        self._keys = keys
        self._preflights = Preflights(instances_path, "host-a")
        self._alarms: list[Callable[[], None]] = []
        self._call_later = asyncio.get_running_loop().call_later
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._called_later)

    def _called_later(self, delay: float, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        if delay == PREFLIGHT_SECONDS:
            self._alarms.append(callback)
        return self._call_later(delay, callback, *args, **kwargs)

    def begin(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self._preflights.run(self.endpoint, self._keys.identity, REQUEST))

    def time_is_over(self) -> None:
        (alarm,) = self._alarms
        alarm()

    async def refusal(self) -> TransferError:
        with pytest.raises(TransferError) as refused:
            await self.begin()
        return refused.value

    async def refusal_at_the_end(self, reached: asyncio.Event) -> TransferError:
        """Of a preflight whose time is over when it has come so far."""
        running = self.begin()
        await reached.wait()
        self.time_is_over()
        with pytest.raises(TransferError) as refused:
            async with asyncio.timeout(ENDS_SECONDS):
                await running
        return refused.value


@pytest.fixture
async def source(reached: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    _, _, endpoint, keys = reached
    return Source(tmp_path / "instances", endpoint, keys, monkeypatch)


class Ends:
    """What serves connections, each until the other side has ended it."""

    def __init__(self, serve: Script) -> None:
        self._serve = serve
        self._open: set[asyncio.Task[Any]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        with suppress(ConnectionError):
            await self._serve(reader, writer)
            await reader.read()
        writer.close()

    async def ended(self) -> None:
        await asyncio.gather(*self._open)


@asynccontextmanager
async def agent(target: Target, asked: asyncio.Event, answers: Mapping[str, Script]) -> AsyncIterator[None]:
    """An agent that answers to commands as it is told to, and to any other command nothing: it is asked then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = json.loads(await reader.readuntil())["command"]
        await wire.next_frame(reader)
        if command in answers:
            await answers[command](reader, writer)
        else:
            asked.set()

    ends = Ends(serve)
    async with await asyncio.start_unix_server(ends, target.socket):
        yield
        await ends.ended()


@asynccontextmanager
async def silent_port(came: asyncio.Event) -> AsyncIterator[int]:
    """A port that takes connections and says nothing."""

    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        came.set()

    ends = Ends(serve)
    async with await asyncio.start_server(ends, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await ends.ended()


def saying(content: bytes) -> Script:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return say


def probed(port: int) -> bytes:
    data = DataPort(port=port, token=tls.make_token(), certificate=tls.make_identity().certificate)
    return wire.message(Answer(state=AnswerState.PROBED, probed=Probed(seen=False, probe=THEIRS, data=data)))


def test_it_is_over_before_the_controller_gives_it_up() -> None:
    assert LIMITS.preflight.total_seconds() > PREFLIGHT_SECONDS + looks.LOOK_SECONDS


async def test_a_target_that_only_tells_that_it_is_at_work_is_not_listened_to(reached: Reached, source: Source) -> None:
    async def be_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            writer.write(wire.frame(FrameType.ALIVE))
            await writer.drain()
            await moment(reader)

    async with agent(reached[0], asyncio.Event(), {PROBE: be_alive}):
        refused = await source.refusal()
    assert (refused.reason, refused.retryable) == (reasons.TRANSFER_BROKEN, True)
    assert "a frame of type ALIVE came, MESSAGE was expected" in str(refused)
    assert os.listdir(source.instances_path) == []


async def test_a_target_that_answers_byte_by_byte_is_given_up_at_the_end(reached: Reached, source: Source) -> None:
    begun = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in probed(1):
            if not reader.at_eof():
                writer.write(bytes([byte]))
                begun.set()
                await moment(reader)

    async with agent(reached[0], asyncio.Event(), {PROBE: trickle}):
        refused = await source.refusal_at_the_end(begun)
    assert (refused.reason, refused.retryable) == (reasons.TRANSFER_BROKEN, True)
    assert "was given up after 45 s, when it was to hear what the target sees" in str(refused)
    assert os.listdir(source.instances_path) == []


async def moment(reader: asyncio.StreamReader) -> None:
    """Sooner over if the other side ends."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)


async def test_a_directory_that_is_never_made_is_given_up_at_the_end(
    reached: Reached, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()
    monkeypatch.setattr(tls, "connect", lambda *_: nullcontext())
    async with agent(reached[0], asked, {PROBE: saying(probed(1))}):
        refused = await source.refusal_at_the_end(asked)
    assert refused.reason == reasons.TRANSFER_BROKEN
    assert "when it was to have the instance directory made" in str(refused)


async def test_a_data_port_that_takes_and_says_nothing_is_given_up_at_the_end(reached: Reached, source: Source) -> None:
    came = asyncio.Event()
    async with silent_port(came) as port, agent(reached[0], asyncio.Event(), {PROBE: saying(probed(port))}):
        refused = await source.refusal_at_the_end(came)
    assert (refused.reason, refused.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)
    assert "when it was to reach the target's data port" in str(refused)


async def test_an_sshd_that_takes_and_says_nothing_is_given_up_at_the_end(source: Source) -> None:
    came = asyncio.Event()
    async with silent_port(came) as port:
        source.endpoint = replace(source.endpoint, port=port)
        refused = await source.refusal_at_the_end(came)
    assert refused.reason == reasons.SSH_UNREACHABLE
    assert "when it was to reach the target's sshd" in str(refused)


async def test_a_preflight_that_is_cancelled_ends_at_once(reached: Reached, source: Source) -> None:
    asked = asyncio.Event()
    async with agent(reached[0], asked, {}):
        running = source.begin()
        await asked.wait()
        running.cancel()
        async with asyncio.timeout(ENDS_SECONDS):
            with pytest.raises(asyncio.CancelledError):
                await running
    assert os.listdir(source.instances_path) == []


class Cached:
    """A host's view of storage: what it knows of a directory is from when it last changed something in it."""

    def __init__(self) -> None:
        self._known: list[str] = []
        self._left = probe.left

    @contextmanager
    def left(self, path: Path, host_id: str) -> Iterator[Probe]:
        with self._left(path, host_id) as made:
            self._known = os.listdir(path)
            yield made

    def is_seen(self, _: Path, theirs: Probe) -> bool:
        return theirs.name in self._known


async def test_hosts_that_share_storage_are_never_told_local_by_what_is_cached(
    reached: Reached, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()
    source.instances_path.rmdir()
    source.instances_path.symlink_to(target.machine.settings.instances_path)
    here, there = Cached(), Cached()
    for module, host in [(prober, there), (probe, here)]:
        monkeypatch.setattr(module, "left", host.left)
        monkeypatch.setattr(module, "is_seen", host.is_seen)
    async with target.serving():
        refused = await source.refusal()
    assert refused.reason == reasons.STORAGE_UNKNOWN
    assert "the target sees, the source does not" in str(refused)
    assert not target.directory.exists()


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """When set, the file system answers again."""
    monkeypatch.setattr(looks, "LOOK_SECONDS", 0.2)
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("call", ["left", "is_seen"])
async def test_a_file_system_here_that_hangs_is_unknown_storage_and_few_threads_hang(
    call: str, reached: Reached, source: Source, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(probe, call)
    hung = threading.Semaphore(0)

    def hang(*args: Any) -> Any:
        hung.release()
        released.wait(60)
        return real(*args)

    def left(*args: Any) -> Any:
        """A context, as `left` is, that hangs when it is entered."""
        return hanging_context(hang, *args)

    target = reached[0]
    target.expect()
    monkeypatch.setattr(prober, "left", probe.left)
    monkeypatch.setattr(prober, "is_seen", probe.is_seen)
    monkeypatch.setattr(probe, call, left if call == "left" else hang)
    async with target.serving():
        for _ in range(looks.THREADS):
            refused = await source.refusal()
            assert (refused.reason, refused.retryable) == (reasons.STORAGE_UNKNOWN, True)
            assert f"the file system of {source.instances_path} does not answer within 0 s" in str(refused)
            assert hung.acquire(timeout=0)
        assert f"{looks.THREADS} earlier looks at it hang" in str(await source.refusal())
        assert not hung.acquire(timeout=0)
        assert not target.directory.exists()


def hanging_context(enter: Callable[..., Any], *args: Any) -> Any:
    @contextmanager
    def context() -> Iterator[Any]:
        with enter(*args) as made:
            yield made

    return context()
