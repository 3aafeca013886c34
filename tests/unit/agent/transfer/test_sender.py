"""What the sender refuses before it calls anybody, and what it makes of answers. What it sends is shown by `test_copy`."""

import io
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from sshd import NAMES, REQUEST

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import sender, wire
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.sender import send
from kubeferry.agent.transfer.wire import Answer, AnswerState, FrameType
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.task import TaskError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
ENDPOINT = SshEndpoint(address="127.0.0.1", port=1, host_key=KEY, identity_key=KEY)


class FarEnd:
    """The other end of a line, as `ssh.Line` shows it. It is told what to answer when which frame comes."""

    def __init__(self) -> None:
        self.came: list[FrameType] = []
        self.answers = [wire.message(Answer(state=AnswerState.READY))]
        self.on_data: Callable[[], None] = lambda: None

    def send(self, frame: bytes) -> None:
        got = wire.read_frame(io.BytesIO(frame).read)
        self.came.append(got.type)
        if got.type == FrameType.DATA:
            self.on_data()

    def has_frame(self) -> bool:
        return bool(self.answers)

    def receive(self) -> wire.Frame:
        return wire.read_frame(io.BytesIO(self.answers.pop(0)).read)


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


def sent(directory: Path, *, stopped: bool = False) -> None:
    send(ENDPOINT, directory / "identity", REQUEST, directory, NAMES, lambda *_: None, lambda: stopped)


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


@pytest.mark.parametrize("disturb", [link, pipe, directory_in_its_place, missing, linked_directory])
def test_what_is_no_file_of_the_instance_is_not_sent(disturb: Callable[[Path], None], source: Path, called: list[str]) -> None:
    disturb(source)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError) as refused:
        sent(source)
    assert refused.value.reason == reasons.STORAGE_ERROR
    assert called == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_that_was_stopped_before_it_began_calls_nobody(source: Path, called: list[str]) -> None:
    with pytest.raises(TransferError, match="stopped at this host"):
        sent(source, stopped=True)
    assert called == []


def test_files_that_are_whole_are_on_their_way(source: Path, called: list[str]) -> None:
    with pytest.raises(TransferError, match="called"):
        sent(source)
    assert called == ["127.0.0.1"]


def test_nothing_more_is_sent_once_the_target_has_refused(source: Path, far_end: FarEnd) -> None:
    far_end.on_data = lambda: far_end.answers.append(FULL)
    with pytest.raises(TransferError, match="the target refuses: full") as refused:
        sent(source)
    assert refused.value.reason == reasons.INSUFFICIENT_DISK
    assert far_end.came == [FrameType.MESSAGE, FrameType.DATA]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [([FULL], reasons.INSUFFICIENT_DISK), ([], reasons.TRANSFER_BROKEN), ([wire.frame(FrameType.END, b"{}")], reasons.TRANSFER_BROKEN)],
    ids=["a refusal", "nothing", "no answer"],
)
def test_a_stream_that_breaks_is_told_by_what_the_target_said_last(
    answers: list[bytes], reason: str, source: Path, far_end: FarEnd
) -> None:
    def breaks() -> None:
        far_end.answers += answers
        raise wire.broken("the line broke")

    far_end.on_data = breaks
    with pytest.raises(TransferError) as refused:
        sent(source)
    assert refused.value.reason == reason
    if reason == reasons.TRANSFER_BROKEN:
        assert str(refused.value) == "the line broke"


def test_an_answer_that_was_not_asked_for_breaks_the_copy(source: Path, far_end: FarEnd) -> None:
    far_end.answers = [wire.message(Answer(state=AnswerState.MADE))]
    with pytest.raises(TransferError, match="the target answered Made, which was not asked"):
        sent(source)
    assert far_end.came == [FrameType.MESSAGE]


def test_a_copy_that_is_stopped_while_the_target_reads_back_ends_at_its_next_sign_of_life(source: Path, far_end: FarEnd) -> None:
    stopped = False

    def stop(done: int, total: int) -> None:
        nonlocal stopped
        if done == total:
            far_end.answers = [wire.frame(FrameType.ALIVE)]
            stopped = True

    # The last chunk is asked for before its data is sent: only what comes afterwards sees the stop.
    with pytest.raises(TransferError, match="stopped at this host"):
        send(ENDPOINT, source / "identity", REQUEST, source, NAMES, stop, lambda: stopped)
    assert far_end.came[-1] == FrameType.END
