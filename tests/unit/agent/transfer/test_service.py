"""Who is let do what through the agent's socket, and how a command ends."""

import asyncio
import dataclasses
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from builders import UID
from sshd import EPOCH, KERNEL, NAMES, REQUEST, Caller, Target, headers, parts
from structlog.testing import capture_logs

from kubeferry.agent.storage import looks
from kubeferry.agent.transfer import service, wire
from kubeferry.agent.transfer.children import Child
from kubeferry.agent.transfer.processes import ReceiveWord
from kubeferry.agent.transfer.vocabulary import HELLO_LIMIT
from kubeferry.agent.transfer.wire import Announcement, AnswerState
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import TaskError


async def test_foreign_files_are_refused_and_left(target: Target, source: Path) -> None:
    target.expect(created=("kernel",))
    target.directory.mkdir()
    (target.directory / "kernel").write_bytes(b"of an earlier try")
    (target.directory / "root.raw").write_bytes(b"another's")
    async with target.serving():
        for command in ("receive", "make-instance-dir"):
            async with target.call(command) as caller:
                if command == "receive":
                    caller.announce(headers(source))
                else:
                    caller.send(wire.message(REQUEST))
                assert (await caller.refusal()).startswith(reasons.FOREIGN_FILES)
    assert target.files() == ["kernel", "root.raw"]
    assert (target.directory / "root.raw").read_bytes() == b"another's"


@pytest.mark.parametrize(
    ("role", "source_node", "epoch", "epoch_id"),
    [
        (Role.ACTIVE, "a", EPOCH, "e7"),
        (Role.SEALED, "a", EPOCH, "e7"),
        (Role.INCOMING, "c", EPOCH, "e7"),
        (Role.INCOMING, None, EPOCH, "e7"),
        (Role.INCOMING, "a", EPOCH + 1, "e7"),
        (Role.INCOMING, "a", EPOCH - 1, "e7"),
        (Role.INCOMING, "a", EPOCH, "e8"),
    ],
)
@pytest.mark.parametrize("command", ["receive", "make-instance-dir"])
async def test_a_copy_that_is_not_this_peers_to_fill_at_this_epoch_is_refused(
    command: str, role: Role, source_node: str | None, epoch: int, epoch_id: str, target: Target, source: Path
) -> None:
    before = target.expect(role, source_node)
    request = dataclasses.replace(REQUEST, epoch=epoch, epoch_id=epoch_id)
    async with target.serving(), target.call(command) as caller:
        caller.send(
            wire.message(Announcement(request=request, files=headers(source), certificate="PEM") if command == "receive" else request)
        )
        assert (await caller.refusal()).startswith(reasons.NOT_INCOMING)
    assert (target.journal(), target.files()) == (before, [])


async def test_a_vm_that_this_host_never_heard_of_is_refused(target: Target) -> None:
    async with target.serving(), target.call("make-instance-dir") as caller:
        caller.send(wire.message(REQUEST))
        assert (await caller.refusal()).startswith(reasons.NOT_INCOMING)
    assert not target.directory.exists()


async def test_a_verified_copy_is_told_and_not_touched(target: Target, source: Path) -> None:
    target.expect(Role.VERIFIED, created=NAMES)
    target.directory.mkdir()
    (target.directory / "kernel").write_bytes(b"whole")
    async with target.serving(), target.call("receive") as caller:
        caller.announce(headers(source))
        answer = await caller.answer()
    assert (answer.state, answer.digest) == (AnswerState.VERIFIED, None)
    assert (target.directory / "kernel").read_bytes() == b"whole"


async def test_the_directory_is_made_and_that_changes_no_journal(target: Target) -> None:
    before = target.expect()
    async with target.serving(), target.call("make-instance-dir") as caller:
        caller.send(wire.message(REQUEST))
        assert (await caller.answer()).state == AnswerState.MADE
    assert (target.journal(), target.directory.is_dir()) == (before, True)


async def test_a_connection_that_is_cut_leaves_an_incoming_copy(target: Target, source: Path) -> None:
    target.expect()
    async with target.serving():
        async with target.call("receive") as caller:
            await caller.begin(source)
            assert target.files() == parts(NAMES)
            caller.writer.write_eof()
            assert "the sender gave up, or is gone" in await caller.refusal()
        await target.idle()
        assert target.still_incoming()


async def test_a_sender_that_does_not_come_is_given_up(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes are others' and wait as they always do: of this one, the agent says what it told."""
    target.expect()

    async def late(_self: object, _kind: object) -> ReceiveWord:
        return ReceiveWord(error=TaskError(reason=reasons.DATA_PORT_UNREACHABLE, message="no sender came", retryable=True))

    monkeypatch.setattr(Child, "word", late)
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        assert await caller.refusal() == f"{reasons.DATA_PORT_UNREACHABLE}: no sender came"
        await target.idle()
    assert target.still_incoming()


async def test_a_second_receiver_ends_the_first(target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as first, target.call("receive") as second:
        await first.begin(source)
        to = await second.begin(source)
        assert "a newer one began" in await first.refusal()
        await second.fill(source, to)
        assert (await second.answer()).state == AnswerState.VERIFIED
    assert (target.directory / "kernel").read_bytes() == KERNEL


async def test_one_who_may_not_fill_the_copy_does_not_end_who_may(target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as first:
        to = await first.begin(source)
        for command in ("receive", "make-instance-dir"):
            async with target.call(command, peer="c") as stranger:
                stranger.send(
                    wire.message(
                        Announcement(request=REQUEST, files=headers(source), certificate="PEM") if command == "receive" else REQUEST
                    )
                )
                assert (await stranger.refusal()).startswith(reasons.NOT_INCOMING)
        await first.fill(source, to)
        assert (await first.answer()).state == AnswerState.VERIFIED


async def test_a_bar_ends_what_is_received_and_refuses_what_comes(target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as first, target.call("receive") as second:
        await first.begin(source)
        async with target.receivers.barred(UID):
            assert target.still_incoming()
            second.announce(headers(source))
            assert (await second.refusal()).startswith(reasons.NOT_INCOMING)
        assert "asked to give it up" in await first.refusal()


async def test_directories_that_hang_hold_up_no_other_copys_claim_and_few_threads(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, hung = threading.Event(), threading.Semaphore(0)

    def hang(*_: object) -> None:
        hung.release()
        released.wait(60)

    monkeypatch.setattr(service, "make_directory", hang)
    claim = target.expect()
    requests = [dataclasses.replace(REQUEST, uid=f"vm-{number}") for number in range(looks.THREADS + 1)]
    for request in requests:
        target.journals.write(dataclasses.replace(claim, uid=request.uid))
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        stack.callback(released.set)
        await stack.enter_async_context(target.serving())
        callers = [await stack.enter_async_context(target.call("make-instance-dir")) for _ in requests]
        for caller, request in zip(callers[:-1], requests[:-1], strict=True):
            caller.send(wire.message(request))
            assert await asyncio.to_thread(hung.acquire, timeout=10)
        first = await stack.enter_async_context(target.call("receive"))
        await first.begin(source)
        monkeypatch.setattr(looks, "LOOK_SECONDS", 0.0)  # what hangs has had its time
        callers[-1].send(wire.message(requests[-1]))
        assert f"{looks.THREADS} earlier looks at it hang" in await callers[-1].refusal()
        released.set()
        for caller in callers[:-1]:
            assert (await caller.answer()).state == AnswerState.MADE


async def test_a_defect_is_told_and_logged_and_the_service_goes_on(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()

    def defect(*_: object) -> None:
        raise ZeroDivisionError

    async with target.serving():
        with monkeypatch.context() as patch:
            patch.setattr(service, "make_directory", defect)
            async with target.call("make-instance-dir") as caller:
                caller.send(wire.message(REQUEST))
                assert (await caller.refusal()).startswith(f"{reasons.INTERNAL_ERROR}: the agent met what it does not know, ZeroDivision")
        async with target.call("make-instance-dir") as caller:
            caller.send(wire.message(REQUEST))
            assert (await caller.answer()).state == AnswerState.MADE


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"\xff\n", b'{"peer": "a"}\n', b'{"peer": "", "command": "receive"}\n', b" " * 1024 + b"\n", b'{"peer": "a", "comm'],
)
async def test_a_hello_that_is_none_is_refused(line: bytes, target: Target) -> None:
    async with target.serving():
        reader, writer = await asyncio.open_unix_connection(target.socket)
        writer.write(line)
        writer.write_eof()
        assert "ssh_serve" in await Caller(reader, writer).refusal()
        writer.close()


@pytest.mark.parametrize("excess", [0, 1])
async def test_a_hello_may_be_so_long_and_no_longer(excess: int, target: Target) -> None:
    hello = b'{"peer": "a", "command": "none"}'
    async with target.serving():
        reader, writer = await asyncio.open_unix_connection(target.socket)
        writer.write(hello.ljust(HELLO_LIMIT - 1 + excess) + b"\n")
        refusal = await Caller(reader, writer).refusal()
        writer.close()
    assert ("in 1025 bytes, at most 1024" if excess else "the command none is none") in refusal


async def test_a_hello_that_does_not_come_is_not_waited_for(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HELLO_SECONDS", 0.1)
    async with target.serving():
        reader, writer = await asyncio.open_unix_connection(target.socket)
        assert "did not tell who asks" in await Caller(reader, writer).refusal()
        writer.close()


async def test_a_command_that_the_agent_does_not_know_is_refused(target: Target) -> None:
    async with target.serving(), target.call("abort") as caller:
        assert "the command abort is none" in await caller.refusal()


async def test_only_root_reaches_the_socket_and_what_a_dead_agent_left_is_replaced(target: Target) -> None:
    target.socket.touch(0o666)
    async with target.serving():
        assert target.socket.is_socket()
        assert target.socket.stat().st_mode & 0o777 == 0o600


async def test_a_service_that_stops_leaves_nothing_running(target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        await target.service.stop()
        assert target.still_incoming()
        with pytest.raises(OSError, match="refused"):
            await asyncio.open_unix_connection(target.socket)


async def test_a_service_that_was_never_started_stops(target: Target) -> None:
    await target.service.stop()


async def test_its_log_names_what_the_other_agent_is_at(target: Target) -> None:
    target.expect()
    asks = dataclasses.replace(REQUEST, vm="shop/web-0", migration="shop/move")
    async with target.serving(), target.call("make-instance-dir") as caller:
        with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            caller.send(wire.message(asks))
            await caller.answer()
            await target.idle()
            await asyncio.sleep(0)
    (line,) = [line for line in lines if line["event"] == "command of another agent done"]
    names = {"vm": "shop/web-0", "migration": "shop/move", "vm_uid": UID, "epoch": EPOCH, "verb": "Preflight", "node": "b", "peer": "a"}
    assert line.items() >= names.items()
