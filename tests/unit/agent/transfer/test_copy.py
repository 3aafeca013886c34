"""A copy from end to end: sender, real sshd, forced command, the agent's socket, receiving process, and the files at the target."""

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import pytest
from sshd import CAPACITY, KERNEL, MIB, NAMES, REQUEST, ROOT_DATA, Sshd, Target

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import ssh, tls, wire
from kubeferry.agent.transfer.children import Child
from kubeferry.agent.transfer.digest import CHUNK
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.landing import Landing
from kubeferry.agent.transfer.processes import ReceiveWord, SendJob, Sent
from kubeferry.agent.transfer.sender import send
from kubeferry.agent.transfer.throttle import Throttle
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.role import Role
from kubeferry.api.task import TaskError

Reached = tuple[Target, Sshd, SshEndpoint, Keys]
Progress = Callable[[int, int, int], None]
DATA = len(KERNEL) + sum(map(len, ROOT_DATA.values()))


def nothing(_done: int, _total: int, _sent: int) -> None: ...


async def copy(reached: Reached, source: Path, on_progress: Progress = nothing) -> Sent:
    _, _, endpoint, keys = reached
    job = SendJob(endpoint=endpoint, identity=str(keys.identity), request=REQUEST, directory=str(source), names=NAMES, inodes={})
    return await asyncio.to_thread(send, job, Throttle(None, time.monotonic), on_progress)


async def refusal(reached: Reached, source: Path, on_progress: Progress = nothing) -> TransferError:
    with pytest.raises(TransferError) as refused:
        await copy(reached, source, on_progress)
    return refused.value


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
    assert (journal.role, journal.created, journal.parts) == (Role.VERIFIED, NAMES, {})
    assert {name: disk.inode for name, disk in journal.disks.items()} == {"root": (target.directory / "root.raw").stat().st_ino}
    assert DATA <= sent.bytes_sent < CAPACITY
    assert sent.digest is not None


async def test_progress_tells_how_much_data_there_is_and_comes_to_its_end(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    told: list[tuple[int, int, int]] = []
    async with target.serving():
        sent = await copy(reached, source, lambda *progress: told.append(progress))
    assert told[0] == (0, sent.bytes_sent, 0)
    assert told[-1] == (sent.bytes_sent, sent.bytes_sent, sent.bytes_sent)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


async def test_a_copy_that_is_whole_already_is_not_sent_again(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    async with target.serving():
        await copy(reached, source)
        before = (target.directory / "root.raw").stat()
        assert await copy(reached, source) == Sent(bytes_sent=0)
    assert (target.directory / "root.raw").stat() == before


async def test_a_refusal_comes_through_with_its_reason(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect(source="c")
    async with target.serving():
        refused = await refusal(reached, source)
    assert (refused.reason, refused.retryable) == (reasons.NOT_INCOMING, False)
    assert "the target refuses: a copy of VM" in str(refused)
    assert "from c" in str(refused)
    assert target.files() == []


Spoil = Callable[[int, bytes], bytes | None]
"""Given what came before and what comes now, what goes on to the data port; None: the connection is cut."""


@asynccontextmanager
async def on_the_way(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> AsyncIterator[None]:
    """Something that stands between the sender and the data port."""
    real = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, on = await asyncio.open_connection("127.0.0.1", real)

        async def back() -> None:
            while content := await answers.read(MIB):
                writer.write(content)
            writer.close()

        backwards = asyncio.create_task(back())
        try:
            before = 0
            while content := await reader.read(4096):
                if (goes_on := spoil(before, content)) is None:
                    break
                before += len(content)
                on.write(goes_on)
                await on.drain()
        except ConnectionError:
            pass
        finally:
            backwards.cancel()
            on.close()
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connect = tls.connect

    def around(address: str, to: wire.DataPort, own: tls.Identity) -> AbstractContextManager[tls.Stream]:
        nonlocal real
        real = to.port
        return connect(address, dataclasses.replace(to, port=port), own)

    with monkeypatch.context() as patch:
        patch.setattr(tls, "connect", around)
        yield
    server.close()


@pytest.fixture
def full(source: Path) -> Path:
    """The disk holds data everywhere: four chunks."""
    (source / "root.raw").write_bytes(os.urandom(CAPACITY))
    return source


async def test_what_was_durable_before_a_connection_was_cut_is_not_sent_again(
    reached: Reached, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()
    async with target.serving():
        async with on_the_way(monkeypatch, lambda before, content: None if before > 2 * CHUNK + MIB else content):
            refused = await refusal(reached, full)
        assert (refused.reason, refused.retryable) == (reasons.TRANSFER_BROKEN, True)
        await target.idle()
        assert target.still_incoming()
        told: list[tuple[int, int, int]] = []
        sent = await copy(reached, full, lambda *progress: told.append(progress))
    assert sent.bytes_sent == 2 * CHUNK, "of five chunks, the kernel's and two of the disk were there"
    assert told[-1] == (CAPACITY + len(KERNEL), CAPACITY + len(KERNEL), 2 * CHUNK)
    assert (target.directory / "root.raw").read_bytes() == (full / "root.raw").read_bytes()
    assert target.journal().role == Role.VERIFIED


async def test_a_byte_that_changed_on_the_way_breaks_the_copy_and_the_next_try_mends_it(
    reached: Reached, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()

    def flipped(before: int, content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1]) if before > CHUNK + MIB else content

    async with target.serving():
        async with on_the_way(monkeypatch, flipped):
            refused = await refusal(reached, full)
        assert (refused.reason, refused.retryable) == (reasons.TRANSFER_BROKEN, True)
        await target.idle()
        assert target.still_incoming()
        await copy(reached, full)
    assert (target.directory / "root.raw").read_bytes() == (full / "root.raw").read_bytes()


async def test_a_full_disk_is_told_by_the_target_while_data_is_still_sent(
    reached: Reached, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()
    sending = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def no_room(_self: Child, _kind: object) -> ReceiveWord:
        await sending.wait()
        return ReceiveWord(error=TaskError(reason=reasons.INSUFFICIENT_DISK, message="no space left"))

    monkeypatch.setattr(Child, "word", no_room)
    async with target.serving():
        refused = await refusal(reached, full, lambda _done, _total, sent: loop.call_soon_threadsafe(sending.set) if sent else None)
        await target.idle()
    assert (refused.reason, refused.retryable, str(refused)) == (reasons.INSUFFICIENT_DISK, False, "the target refuses: no space left")
    assert target.still_incoming()


async def test_a_target_that_lies_about_what_it_read_back_is_not_believed(
    reached: Reached, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached[0].expect()
    monkeypatch.setattr(Landing, "publish", lambda *_: "0" * 64)
    async with reached[0].serving():
        refused = await refusal(reached, source)
    assert refused.reason == reasons.DIGEST_MISMATCH
    assert f"the target has read back {'0' * 64}" in str(refused)


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


async def test_without_an_agent_the_forced_command_says_so(reached: Reached, source: Path) -> None:
    refused = await refusal(reached, source)
    assert refused.reason == reasons.TRANSFER_BROKEN
    assert "the agent does not listen on" in str(refused)


async def test_a_file_that_changes_while_it_is_sent_is_no_copy(reached: Reached, source: Path) -> None:
    target = reached[0]
    target.expect()
    async with target.serving():
        with pytest.raises(StorageError, match=r"root\.raw changed while it was sent") as refused:
            await copy(reached, source, lambda done, *_: os.utime(source / "root.raw") if done else None)
    assert refused.value.reason == reasons.SOURCE_UNUSABLE
    assert target.journal().role == Role.INCOMING
