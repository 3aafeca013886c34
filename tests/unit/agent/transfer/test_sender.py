"""What the sender refuses before it calls anybody. What it sends is shown by `test_copy`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sshd import NAMES, REQUEST

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import sender
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.sender import send
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
ENDPOINT = SshEndpoint(address="127.0.0.1", port=1, host_key=KEY, identity_key=KEY)


@pytest.fixture(autouse=True)
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was called: nobody may be."""
    calls: list[str] = []

    def connect(endpoint: SshEndpoint, _: Path) -> None:
        calls.append(endpoint.address)
        raise TransferError(reasons.SSH_UNREACHABLE, "called")

    monkeypatch.setattr(sender, "connect", connect)
    return calls


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
