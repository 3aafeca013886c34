"""What lands at the target, from a sender that may lie about everything: through the agent's socket, without sshd."""

import asyncio
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from builders import UID
from sshd import CAPACITY, EPOCH, KERNEL, MIB, NAMES, REQUEST, ROOT_DATA, Target, digests, headers

from kubeferry.agent.transfer import landing, receiver, wire
from kubeferry.agent.transfer.digest import combined
from kubeferry.agent.transfer.wire import Announcement, AnswerState, FileHeader, FrameType
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.core.journal import Journal

ROOT = NAMES.index("root.raw")
Change = Callable[[tuple[FileHeader, ...]], Sequence[FileHeader]]


async def test_a_copy_that_is_as_announced_is_verified(target: Target, source: Path) -> None:
    before = target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        caller.send_end(digests(source))
        answer = await caller.answer()
    assert (answer.state, answer.digest) == (AnswerState.VERIFIED, combined(digests(source)))
    root = target.directory / "root.raw"
    journal = target.journal()
    assert journal == dataclasses.replace(before, role=Role.VERIFIED, created=NAMES, disks=journal.disks)
    assert {name: (disk.inode, disk.digest) for name, disk in journal.disks.items()} == {
        "root": (root.stat().st_ino, digests(source)["root.raw"])
    }
    assert root.read_bytes() == (source / "root.raw").read_bytes()


async def test_each_name_is_journaled_before_its_part_is_made(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    seen: list[tuple[tuple[str, ...], list[str]]] = []
    write = target.journals.write

    def noted(journal: Journal) -> None:
        seen.append((journal.created, target.files()))
        write(journal)

    monkeypatch.setattr(target.journals, "write", noted)
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
    assert seen == [(("kernel",), []), (NAMES, ["kernel.part"])]


async def test_a_copy_has_its_names_only_when_it_was_read_back_and_is_verified_only_when_they_are_durable(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.expect()
    events: list[str] = []
    sync, write = os.fsync, target.journals.write

    def synced(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.startswith(str(target.directory)):
            events.append(f"sync {Path(path).name} of {target.files()}")
        sync(fd)

    def written(journal: Journal) -> None:
        events.append(journal.role)
        write(journal)

    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(target.journals, "write", written)
        caller.send_data()
        caller.send_end(digests(source))
        await caller.answer()
    parts = ["kernel.part", "root.raw.part"]
    assert events == [f"sync kernel.part of {parts}", f"sync root.raw.part of {parts}", f"sync {UID} of {[*NAMES]}", Role.VERIFIED]


async def test_what_an_earlier_try_left_is_removed(target: Target, source: Path) -> None:
    target.expect(created=NAMES)
    target.directory.mkdir()
    for name in ("kernel", "root.raw.part"):
        (target.directory / name).write_bytes(b"of an earlier try")
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        assert target.files() == ["kernel.part", "root.raw.part"]
        caller.send_data()
        caller.send_end(digests(source))
        assert (await caller.answer()).state == AnswerState.VERIFIED
    assert target.files() == list(NAMES)
    assert (target.directory / "kernel").read_bytes() == KERNEL


def renamed(name: str) -> Change:
    return lambda files: [dataclasses.replace(files[0], name=name), *files[1:]]


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files[:1],
        lambda files: [*files, dataclasses.replace(files[0], name="initrd")],
        lambda files: [*files, files[0]],
        lambda files: [files[1], files[1]],
        renamed("kernel.part"),
        renamed("console.log"),
        renamed("data.raw"),
        lambda files: [files[0], dataclasses.replace(files[1], size=CAPACITY + 1)],
        lambda files: [files[0], dataclasses.replace(files[1], size=CAPACITY - 1)],
    ],
    ids=["one missing", "one more", "one twice", "twice the disk", "a part", "console log", "another disk", "too large", "too small"],
)
async def test_other_files_than_the_domain_runs_with_are_refused(change: Change, target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        caller.announce(change(headers(source)))
        assert "was announced" in (refusal := await caller.refusal()) or "were announced" in refusal
        assert refusal.startswith(reasons.TRANSFER_BROKEN)
    assert target.still_incoming(())


@pytest.mark.parametrize("name", ["../kernel", "a/b", ".hidden", "", "/etc/passwd", "a\0b", "a\n"])
async def test_what_is_no_plain_name_of_a_file_is_no_announcement(name: str, target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        whole = wire.message(Announcement(request=REQUEST, files=headers(source)))[wire.HEAD_LENGTH :]
        caller.send(wire.frame(FrameType.MESSAGE, whole.replace(b'"kernel"', json.dumps(name).encode())))
        assert "is no Announcement: files.0.name" in await caller.refusal()
    assert target.still_incoming(())


async def test_files_without_room_are_refused_before_any_is_made(target: Target, source: Path) -> None:
    target.expect()
    files = [dataclasses.replace(header, allocated=1 << 61) for header in headers(source)]
    async with target.serving(), target.call("receive") as caller:
        caller.announce(files)
        refusal = await caller.refusal()
    assert refusal.startswith(f"{reasons.INSUFFICIENT_DISK}: the files occupy {1 << 62} bytes")
    assert target.still_incoming(())


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([(2, 0, b"x")], "data of file 2 came, 2 files were announced"),
        ([(ROOT, 0, b"")], "data of root.raw from byte 0 to 0 came"),
        ([(0, len(KERNEL), b"x")], f"from byte {len(KERNEL)} to {len(KERNEL) + 1}"),
        ([(0, len(KERNEL) - 1, b"xy")], f"the file has {len(KERNEL)}"),
        ([(ROOT, CAPACITY - 1, b"xy")], f"the file has {CAPACITY}"),
        ([(ROOT, (1 << 64) - 1, b"x")], f"the file has {CAPACITY}"),
        ([(ROOT, 0, b"xyz"), (ROOT, 2, b"x")], "behind byte 3"),
        ([(ROOT, 0, b"xyz"), (ROOT, 0, b"xyz")], "behind byte 3"),
    ],
)
async def test_data_outside_of_what_was_announced_is_refused(
    frames: list[tuple[int, int, bytes]], says: str, target: Target, source: Path
) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        for frame in frames:
            caller.send(wire.data(*frame))
        refusal = await caller.refusal()
        assert refusal.startswith(reasons.TRANSFER_BROKEN)
        assert says in refusal
        await target.idle()
    assert target.still_incoming()


async def test_a_kernel_as_large_as_none_is_refused(target: Target, source: Path) -> None:
    target.expect()
    large = tuple(dataclasses.replace(h, size=(1 << 30) + 1) if h.name == "kernel" else h for h in headers(source))
    async with target.serving(), target.call("receive") as caller:
        caller.announce(large)
        assert f"kernel was announced with {(1 << 30) + 1} bytes" in await caller.refusal()
    assert target.still_incoming(())


async def test_while_an_earlier_try_is_cleared_up_the_sender_hears_that_this_host_is_at_work(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "ALIVE_SECONDS", 0.01)
    target.expect()
    go_on = threading.Event()
    begin = landing.Landing.begin

    def slow(self: landing.Landing) -> bool:
        go_on.wait(30)
        return begin(self)

    monkeypatch.setattr(landing.Landing, "begin", slow)
    async with target.serving(), target.call("receive") as caller:
        caller.announce(headers(source))
        for _ in range(3):
            assert (await wire.next_frame(caller.reader)).type == FrameType.ALIVE
        go_on.set()
        assert (await caller.answer()).state == AnswerState.READY
        caller.send_data()
        caller.send_end(digests(source))
        assert (await wire.next_frame(caller.reader)).type == FrameType.MESSAGE, "after that nothing comes between"


async def test_a_receiver_that_is_ended_while_it_is_about_to_clear_up_clears_up_all_the_same(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued, go_on = threading.Event(), threading.Event()

    class Busy(ThreadPoolExecutor):
        """Its thread is at something else when the landing is to be closed."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
            if getattr(fn, "__name__", "") != "close":
                return super().submit(fn, *args, **options)
            super().submit(go_on.wait, 30)
            closing = super().submit(fn)
            queued.set()
            return closing

    monkeypatch.setattr(receiver, "ThreadPoolExecutor", Busy)
    target.expect()

    async def end() -> list[str]:
        async with target.receivers.barred(UID):
            return target.files()

    async with target.serving():
        async with target.call("receive") as caller:
            await caller.begin(source)
        await asyncio.to_thread(queued.wait, 30)  # the caller is gone, the receiver is about to clear up
        ending = asyncio.create_task(end())
        await asyncio.sleep(0)  # by now the receiver was told to end
        await asyncio.sleep(0)
        go_on.set()
        assert await ending == []


class Line:
    """A writer that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


async def test_a_file_system_that_hangs_is_not_called_alive_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "ALIVE_SECONDS", 0)
    line = Line()
    life = receiver.SignsOfLife(line)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await life._telling
    assert line.written == [wire.frame(FrameType.ALIVE)] * receiver.ALIVE_TIMES


@pytest.mark.parametrize("missing", NAMES)
async def test_data_that_is_missing_is_found(missing: str, target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send(wire.data(NAMES.index("kernel") if missing == "root.raw" else ROOT, 0, KERNEL))
        caller.send_end(digests(source))
        refusal = await caller.refusal()
        await target.idle()
    assert refusal.startswith(reasons.DIGEST_MISMATCH)
    assert missing in refusal
    assert target.still_incoming()


async def test_what_the_disk_holds_is_what_counts_not_what_was_written(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.expect()
    sync = os.fsync

    def rots(fd: int) -> None:
        sync(fd)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("root.raw.part"):
            os.pwrite(fd, b"!", 3)

    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        monkeypatch.setattr(os, "fsync", rots)
        caller.send_end(digests(source))
        refusal = await caller.refusal()
        await target.idle()
    assert refusal.startswith(f"{reasons.DIGEST_MISMATCH}: root.raw:")
    assert target.still_incoming()


@pytest.mark.parametrize("change", [lambda d: d | {"more": "0" * 64}, lambda d: {"kernel": d["kernel"]}], ids=["more", "fewer"])
async def test_digests_of_other_files_are_refused(change: Callable[[dict[str, str]], dict[str, str]], target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        caller.send_end(change(digests(source)))
        assert "one for each announced file was expected" in await caller.refusal()
        await target.idle()
    assert target.still_incoming()


async def test_another_frame_in_place_of_data_is_refused(target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send(wire.message(REQUEST))
        assert "a frame of type MESSAGE came, END was expected" in await caller.refusal()
        await target.idle()
    assert target.still_incoming()


async def test_what_was_written_is_made_durable_on_the_way(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    monkeypatch.setattr(landing, "SYNC_EVERY", MIB)
    synced: list[int] = []
    sync = os.fdatasync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_size)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", noted)
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        caller.send_end(digests(source))
        await caller.answer()
    written = len(KERNEL) + sum(map(len, ROOT_DATA.values()))
    assert synced == [CAPACITY] * (written // MIB)


async def test_a_journal_that_changed_meanwhile_is_not_made_verified(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        higher = dataclasses.replace(before, epoch=EPOCH + 1, epoch_id="e8", created=NAMES)
        target.journals.write(higher)
        caller.send_end(digests(source))
        assert (await caller.refusal()).startswith(reasons.NOT_INCOMING)
        await target.idle()
    assert (target.journal(), target.files()) == (higher, [])


async def test_a_full_disk_is_told_as_such(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()

    def full(_fd: int, _content: memoryview, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        monkeypatch.setattr(os, "pwrite", full)
        caller.send(wire.data(0, 0, KERNEL))
        assert (await caller.refusal()).startswith(reasons.INSUFFICIENT_DISK)
        await target.idle()
    assert target.still_incoming()


async def test_writes_that_come_short_are_gone_on_with(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: write(fd, content[:100_000], offset))
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        caller.send_end(digests(source))
        assert (await caller.answer()).state == AnswerState.VERIFIED


async def test_signs_of_life_come_while_files_are_read_back(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    monkeypatch.setattr(landing, "ALIVE_EVERY", 1)
    async with target.serving(), target.call("receive") as caller:
        await caller.begin(source)
        caller.send_data()
        caller.send_end(digests(source))
        kinds = []
        while not kinds or kinds[-1] == FrameType.ALIVE:
            kinds.append((await wire.next_frame(caller.reader)).type)
    assert kinds == [FrameType.ALIVE] * 4 + [FrameType.MESSAGE], "one for each chunk that holds data"
