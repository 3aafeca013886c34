"""A copy from end to end: the sender, a real sshd, its forced command, the agent's socket, and the files at the target."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from builders import UID
from sshd import CAPACITY, KERNEL, MIB, NAMES, REQUEST, ROOT_DATA, Sshd, Target

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import ssh, wire
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.sender import Sent, make_directory, send
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.role import Role

Reached = tuple[Target, Sshd, SshEndpoint, Keys]
DATA = len(KERNEL) + sum(map(len, ROOT_DATA.values()))


def nothing(_done: int, _total: int) -> None: ...


def never() -> bool:
    return False


async def copy(reached: Reached, source: Path, on_progress: Callable[[int, int], None] = nothing, stop: Callable[[], bool] = never) -> Sent:
    _, _, endpoint, keys = reached
    return await asyncio.to_thread(send, endpoint, keys.identity, REQUEST, source, NAMES, on_progress, stop)


async def refusal(reached: Reached, source: Path, on_progress: Callable[[int, int], None] = nothing) -> TransferError:
    with pytest.raises(TransferError) as refused:
        await copy(reached, source, on_progress)
    return refused.value


@asynccontextmanager
async def between(
    target: Target, relay: Callable[[asyncio.StreamReader, asyncio.StreamWriter], "asyncio.Future[None]"]
) -> AsyncIterator[None]:
    """Something that stands between ssh-serve and the agent; `relay` carries what goes to the agent."""
    behind = target.socket.with_name("behind.sock")
    await target.service.start(behind)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agent_reader, agent_writer = await asyncio.open_unix_connection(behind)

        async def back() -> None:
            while answer := await agent_reader.read(MIB):
                writer.write(answer)
            writer.close()

        answers = asyncio.create_task(back())
        try:
            await relay(reader, agent_writer)
            await answers
        finally:
            answers.cancel()
            agent_writer.close()
            writer.close()

    server = await asyncio.start_unix_server(connected, target.socket)
    try:
        yield
    finally:
        server.close()
        await target.service.stop()


async def test_a_copy_is_whole_journaled_and_as_sparse_as_it_was(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    async with target.serving():
        sent = await copy(reached, source)
    assert target.files() == ["kernel", "root.raw"]
    for name in NAMES:
        ours, theirs = source / name, target.directory / name
        assert theirs.read_bytes() == ours.read_bytes()
        assert theirs.stat().st_blocks <= ours.stat().st_blocks
        assert theirs.stat().st_mode & 0o777 == 0o600
    assert (target.directory / "root.raw").stat().st_blocks * 512 < CAPACITY
    journal = target.journal()
    assert journal.role == Role.VERIFIED
    assert journal.created == NAMES
    assert {name: disk.inode for name, disk in journal.disks.items()} == {"root": (target.directory / "root.raw").stat().st_ino}
    assert DATA <= sent.bytes_copied < CAPACITY
    assert sent.digest is not None


async def test_progress_tells_how_much_data_there_is_and_comes_to_its_end(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    told: list[tuple[int, int]] = []
    async with target.serving():
        sent = await copy(reached, source, lambda done, total: told.append((done, total)))
    assert told[0] == (0, sent.bytes_copied)
    assert told[-1] == (sent.bytes_copied, sent.bytes_copied)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


async def test_a_copy_that_is_whole_already_is_not_sent_again(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    async with target.serving():
        await copy(reached, source)
        before = (target.directory / "root.raw").stat()
        assert await copy(reached, source) == Sent(0, None)
    assert (target.directory / "root.raw").stat() == before


async def test_the_directory_is_made(reached: Reached) -> None:
    target, _, endpoint, keys = reached
    target.expect()
    async with target.serving():
        await asyncio.to_thread(make_directory, endpoint, keys.identity, REQUEST)
    assert target.directory.is_dir()


async def test_a_refusal_comes_through_with_its_reason(reached: Reached, source: Path) -> None:
    target, _, endpoint, keys = reached
    target.expect(source="c")
    async with target.serving():
        refused = await refusal(reached, source)
        assert (refused.reason, refused.retryable) == (reasons.NOT_INCOMING, False)
        assert "from c" in str(refused)
        with pytest.raises(TransferError, match="the target refuses: a copy of VM"):
            await asyncio.to_thread(make_directory, endpoint, keys.identity, REQUEST)
    assert target.files() == []


async def test_a_full_disk_is_told_by_the_target_while_data_is_still_sent(
    reached: Reached, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()
    write = os.pwrite

    def full(fd: int, content: memoryview, offset: int) -> int:
        if offset >= 4 * MIB:
            raise OSError(28, "No space left on device")
        return write(fd, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    async with target.serving():
        refused = await refusal(reached, source)
    assert (refused.reason, refused.retryable) == (reasons.INSUFFICIENT_DISK, False)
    assert target.files() == []
    assert target.journal().role == Role.INCOMING


async def test_a_byte_that_changed_on_the_way_is_found(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        spoiled = False
        while True:
            got = await wire.next_frame(reader)
            payload = bytearray(got.payload)
            if got.type == wire.FrameType.DATA and not spoiled:
                payload[-1] ^= 1
                spoiled = True
            writer.write(wire.frame(got.type, bytes(payload)))
            if got.type == wire.FrameType.END:
                return

    async with between(target, relay):
        refused = await refusal(reached, source)
    assert (refused.reason, refused.retryable) == (reasons.DIGEST_MISMATCH, True)
    assert "kernel: what was read back" in str(refused)
    assert target.files() == []
    assert target.journal().role == Role.INCOMING


async def test_a_target_that_lies_about_what_it_read_back_is_not_believed(reached: Reached, source: Path) -> None:
    target = reached[0]

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await wire.next_frame(reader)
        writer.write(wire.message(wire.Answer(state=wire.AnswerState.READY)))
        while (await wire.next_frame(reader)).type != wire.FrameType.END:
            pass
        writer.write(wire.message(wire.Answer(state=wire.AnswerState.VERIFIED, digest="0" * 64)))
        writer.close()

    server = await asyncio.start_unix_server(lie, target.socket)
    refused = await refusal(reached, source)
    server.close()
    assert refused.reason == reasons.DIGEST_MISMATCH
    assert f"the target has read back {'0' * 64}" in str(refused)


async def test_a_connection_that_is_cut_leaves_an_incoming_copy_and_the_next_try_fills_it(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        for _ in range(4):
            got = await wire.next_frame(reader)
            writer.write(wire.frame(got.type, got.payload))
        writer.close()

    async with between(target, cut):
        refused = await refusal(reached, source)
    assert (refused.reason, refused.retryable) == (reasons.TRANSFER_BROKEN, True)
    assert target.files() == []
    assert (target.journal().role, target.journal().created) == (Role.INCOMING, NAMES)
    async with target.serving():
        await copy(reached, source)
    assert target.journal().role == Role.VERIFIED


async def test_an_agent_that_falls_silent_breaks_the_copy(reached: Reached, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "SILENCE_SECONDS", 0.2)
    hold = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    server = await asyncio.start_unix_server(silent, reached[0].socket)
    refused = await refusal(reached, source)
    hold.set()
    server.close()
    assert refused.reason == reasons.TRANSFER_BROKEN
    assert "said nothing for 0 s" in str(refused)


async def test_a_target_that_takes_nothing_breaks_the_copy(reached: Reached, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (source / "root.raw").open("r+b") as disk:  # more than all buffers on the way hold
        disk.write(os.urandom(CAPACITY))
    hold = asyncio.Event()

    async def ready_and_then_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await wire.next_frame(reader)
        writer.write(wire.message(wire.Answer(state=wire.AnswerState.READY)))
        await hold.wait()
        writer.close()

    def begun(_done: int, _total: int) -> None:
        monkeypatch.setattr(ssh, "SILENCE_SECONDS", 0.2)

    server = await asyncio.start_unix_server(ready_and_then_silent, reached[0].socket)
    refused = await refusal(reached, source, begun)
    hold.set()
    server.close()
    assert refused.reason == reasons.TRANSFER_BROKEN
    assert "took nothing" in str(refused)


async def test_without_an_agent_the_forced_command_says_so(reached: Reached, source: Path) -> None:
    refused = await refusal(reached, source)
    assert refused.reason == reasons.TRANSFER_BROKEN
    assert "the agent does not listen on" in str(refused)


async def test_a_copy_that_is_stopped_ends_and_leaves_no_part(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    stopped = threading.Event()
    async with target.serving():
        with pytest.raises(TransferError, match="stopped at this host"):
            await copy(reached, source, lambda done, _: stopped.set() if done else None, stopped.is_set)
        async with target.receivers.barred(UID):
            assert target.files() == []
    assert target.journal().role == Role.INCOMING


async def test_a_file_that_changes_while_it_is_sent_is_no_copy(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    async with target.serving():
        with pytest.raises(StorageError, match=r"root\.raw changed while it was sent") as refused:
            await copy(reached, source, lambda done, _: os.utime(source / "root.raw") if done else None)
    assert refused.value.reason == reasons.SOURCE_UNUSABLE
    assert target.journal().role == Role.INCOMING
