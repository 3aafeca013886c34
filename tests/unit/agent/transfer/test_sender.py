"""What the sender refuses before it calls anybody, and what it makes of answers. What it sends is shown by `test_copy`."""

import io
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from sshd import NAMES, REQUEST

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import sender, tls, wire
from kubeferry.agent.transfer.digest import combined
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.processes import SendJob, Sent
from kubeferry.agent.transfer.sender import send
from kubeferry.agent.transfer.throttle import Throttle
from kubeferry.agent.transfer.wire import Answer, AnswerState, DataPort, FrameType
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.task import TaskError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
ENDPOINT = SshEndpoint(address="127.0.0.1", port=1, host_key=KEY, identity_key=KEY)


class FarEnd:
    """The other end of a line, as `ssh.Line` shows it; it gives these answers."""

    def __init__(self) -> None:
        self.came: list[FrameType] = []
        self.answers: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.came.append(wire.read_frame(io.BytesIO(frame).read).type)

    def receive(self) -> wire.Frame:
        if not self.answers:
            raise wire.broken("the line ended")
        return wire.read_frame(io.BytesIO(self.answers.pop(0)).read)

    last_frame = receive


@pytest.fixture
def far_end(monkeypatch: pytest.MonkeyPatch) -> FarEnd:
    """What answers, once somebody is called."""
    end = FarEnd()
    monkeypatch.setattr(sender, "connect", lambda *_: nullcontext())
    monkeypatch.setattr(sender, "run", lambda *_: nullcontext(end))
    return end


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was called: nobody may be."""
    calls: list[str] = []

    def connect(endpoint: SshEndpoint, _: Path) -> None:
        calls.append(endpoint.address)
        raise TransferError(reasons.SSH_UNREACHABLE, "called")

    monkeypatch.setattr(sender, "connect", connect)
    return calls


FULL = wire.message(Answer(state=AnswerState.REFUSED, error=TaskError(reason=reasons.INSUFFICIENT_DISK, message="full")))


def sent(directory: Path, inodes: dict[str, int] | None = None) -> Sent:
    job = SendJob(
        endpoint=ENDPOINT,
        identity=str(directory / "identity"),
        request=REQUEST,
        directory=str(directory),
        names=NAMES,
        inodes=inodes or {},
    )
    return send(job, Throttle(None, lambda: 0.0), lambda *_: None)


def link(directory: Path) -> None:
    (directory / "root.raw").unlink()
    (directory / "root.raw").symlink_to(directory / "kernel")


def pipe(directory: Path) -> None:
    (directory / "root.raw").unlink()
    os.mkfifo(directory / "root.raw")


def directory_in_its_place(directory: Path) -> None:
    (directory / "root.raw").unlink()
    (directory / "root.raw").mkdir()


def missing(directory: Path) -> None:
    (directory / "root.raw").unlink()


def linked_directory(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere")


def open_below(directory: Path) -> list[str]:
    """What this process has open there."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # it was that of the listing, or another thread's
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [target for target in targets if Path(target).is_relative_to(directory.parent)]


@pytest.mark.parametrize("disturb", [link, pipe, directory_in_its_place, missing, linked_directory])
def test_what_is_no_file_of_the_instance_is_not_sent(disturb: Callable[[Path], None], source: Path, called: list[str]) -> None:
    disturb(source)
    with pytest.raises(StorageError) as refused:
        sent(source)
    assert refused.value.reason == reasons.STORAGE_ERROR
    assert called == []
    assert open_below(source) == []


def test_files_that_are_whole_are_on_their_way(source: Path, called: list[str]) -> None:
    with pytest.raises(TransferError, match="called"):
        sent(source)
    assert called == ["127.0.0.1"]


DATA = DataPort(port=1, token="0" * 32, certificate="PEM")
READY = wire.message(Answer(state=AnswerState.READY, data=DATA))
ALIVE = wire.frame(FrameType.ALIVE)


class Broken:
    """A data stream that breaks at once."""

    def receive(self) -> wire.Frame:
        raise wire.broken("the stream broke")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [([FULL], reasons.INSUFFICIENT_DISK), ([], reasons.TRANSFER_BROKEN), ([wire.frame(FrameType.END, b"{}")], reasons.TRANSFER_BROKEN)],
    ids=["a refusal", "nothing", "no answer"],
)
def test_a_stream_that_breaks_is_told_by_what_the_target_said_last(
    answers: list[bytes], reason: str, source: Path, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "connect", lambda *_: nullcontext(Broken()))
    far_end.answers = [READY, *answers]
    with pytest.raises(TransferError) as refused:
        sent(source)
    assert refused.value.reason == reason
    if reason == reasons.TRANSFER_BROKEN:
        assert str(refused.value) == "the stream broke"


@pytest.mark.parametrize("reason", [reasons.HISTORY_DIVERGED, reasons.HOST_REPLACED, reasons.STALE_EPOCH, "Whatever"])
def test_a_target_can_not_speak_for_this_host(reason: str, source: Path, far_end: FarEnd) -> None:
    """HistoryDiverged of a source, say, holds up its VM until a human decides."""
    far_end.answers = [wire.message(Answer(state=AnswerState.REFUSED, error=TaskError(reason=reason, message="so I say")))]
    with pytest.raises(TransferError) as refused:
        sent(source)
    assert (refused.value.reason, str(refused.value)) == (reasons.TRANSFER_BROKEN, f"the target refuses, {reason}: so I say")


def test_a_target_that_only_says_that_it_is_at_work_is_given_up(source: Path, far_end: FarEnd) -> None:
    far_end.answers = [ALIVE] * (wire.ALIVE_TIMES + 2)
    with pytest.raises(TransferError, match="has not answered") as refused:
        sent(source)
    assert (refused.value.reason, refused.value.retryable) == (reasons.TRANSFER_BROKEN, True)
    assert len(far_end.answers) == 1


class Data(Broken):
    """A data stream that holds these frames."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)

    def send(self, content: bytes) -> None: ...

    def receive(self) -> wire.Frame:
        return wire.read_frame(io.BytesIO(self.frames.pop(0)).read) if self.frames else super().receive()


def broken_by(far_end: FarEnd, source: Path, monkeypatch: pytest.MonkeyPatch, *frames: bytes) -> str:
    monkeypatch.setattr(tls, "connect", lambda *_: nullcontext(Data(*frames)))
    far_end.answers = [READY]
    with pytest.raises(TransferError) as refused:
        sent(source)
    assert refused.value.reason == reasons.TRANSFER_BROKEN
    return str(refused.value)


def known(place: int, *indices: int) -> bytes:
    return b"".join(wire.known_frames(place, dict.fromkeys(indices, b"h" * 32)))


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([known(1, 4)], "more than the 4 it has"),
        ([known(1, 2), known(1, 3, 2)], "chunks of root.raw twice"),
        ([wire.frame(FrameType.KNOWN, bytes(4))], "chunks of kernel twice, of none"),
        ([known(2, 0)], "tells of file 2, 2 were announced"),
        ([ALIVE], "a frame of type ALIVE came, KNOWN or GO was expected"),
        ([known(1, 0, 1, 2, 3), known(0, 0)], "the stream broke"),
    ],
)
def test_what_the_target_has_is_told_once_and_of_chunks_that_there_are(
    frames: list[bytes], says: str, source: Path, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in broken_by(far_end, source, monkeypatch, *frames)


def test_a_target_that_never_ends_to_read_back_is_given_up(source: Path, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB are read back without a sign of life, and a chunk of each file may be one."""
    monkeypatch.setattr(sender, "ALIVE_EVERY", 2)
    go = wire.frame(FrameType.GO)
    assert broken_by(far_end, source, monkeypatch, go, ALIVE, ALIVE) == "the stream broke"
    assert "3 times that it is at work, and has not answered" in broken_by(far_end, source, monkeypatch, go, ALIVE, ALIVE, ALIVE)


def test_a_file_that_changed_after_it_was_read_is_no_copy(source: Path, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed(sender.Copy):
        def run(self, _: tls.Stream) -> dict[str, str]:
            os.utime(source / "root.raw")
            return {"root.raw": "0" * 64}

    monkeypatch.setattr(tls, "connect", lambda *_: nullcontext(Data()))
    monkeypatch.setattr(sender, "Copy", Changed)
    far_end.answers = [READY, wire.message(Answer(state=AnswerState.VERIFIED, digest=combined({"root.raw": "0" * 64})))]
    with pytest.raises(StorageError, match=r"root\.raw changed while it was sent"):
        sent(source)


def test_another_disk_than_the_journal_tells_of_is_not_sent(source: Path, called: list[str]) -> None:
    inode = (source / "root.raw").stat().st_ino
    with pytest.raises(StorageError, match=f"its inode is {inode}, the journal tells of {inode + 1}") as refused:
        sent(source, {"root.raw": inode + 1})
    assert (refused.value.reason, called) == (reasons.FOREIGN_FILES, [])
    with pytest.raises(TransferError, match="called"):
        sent(source, {"root.raw": inode})


def test_a_data_port_that_is_not_there_is_told_as_such(source: Path, far_end: FarEnd) -> None:
    far_end.answers = [ALIVE, READY]
    with pytest.raises(TransferError) as refused:
        sent(source)
    assert refused.value.reason == reasons.DATA_PORT_UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(state=AnswerState.MADE), "the target answered Made, which was not asked"),
        (Answer(state=AnswerState.READY), "does not tell where the data may come"),
    ],
)
def test_an_answer_that_was_not_asked_for_breaks_the_copy(answer: Answer, says: str, source: Path, far_end: FarEnd) -> None:
    far_end.answers = [wire.message(answer)]
    with pytest.raises(TransferError, match=says):
        sent(source)
    assert far_end.came == [FrameType.MESSAGE]
