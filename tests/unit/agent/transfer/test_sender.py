"""What the sender refuses before it calls anybody, and what it makes of answers. What it sends is shown by `test_copy`."""

import io
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from sshd import NAMES, REQUEST

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import sender, tls, wire
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


def sent(directory: Path) -> Sent:
    job = SendJob(endpoint=ENDPOINT, identity=str(directory / "identity"), request=REQUEST, directory=str(directory), names=NAMES)
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


@pytest.mark.parametrize("disturb", [link, pipe, directory_in_its_place, missing, linked_directory])
def test_what_is_no_file_of_the_instance_is_not_sent(disturb: Callable[[Path], None], source: Path, called: list[str]) -> None:
    disturb(source)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError) as refused:
        sent(source)
    assert refused.value.reason == reasons.STORAGE_ERROR
    assert called == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_that_are_whole_are_on_their_way(source: Path, called: list[str]) -> None:
    with pytest.raises(TransferError, match="called"):
        sent(source)
    assert called == ["127.0.0.1"]


DATA = DataPort(port=1, token="0" * 32, certificate="PEM")
READY = wire.message(Answer(state=AnswerState.READY, data=DATA))
ALIVE = wire.frame(FrameType.ALIVE)


class Broken:
    """A data stream that breaks at once."""

    def receive_news(self) -> wire.Frame:
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
