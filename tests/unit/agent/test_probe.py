"""Whether two hosts see the same file system, told by what each leaves there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.probe import Probe, is_seen, left, remove_left
from kubeferry.api import reasons

HOST, OTHER = "5f0c2a44-1e1f-4a09-9d0e-000000000001", "5f0c2a44-1e1f-4a09-9d0e-000000000002"


def test_what_a_host_has_left_is_seen_where_it_is_and_nowhere_else(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with left(tmp_path / "a", HOST) as probe:
        assert is_seen(tmp_path / "a", probe)
        assert not is_seen(tmp_path / "b", probe)
    assert not is_seen(tmp_path / "a", probe)


def test_it_is_gone_afterwards_however_that_came(tmp_path: Path) -> None:
    with left(tmp_path, HOST):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    with pytest.raises(InterruptedError), left(tmp_path, HOST):
        raise InterruptedError
    assert os.listdir(tmp_path) == []


def test_it_is_no_matter_if_somebody_removed_it_before(tmp_path: Path) -> None:
    with left(tmp_path, HOST) as probe:
        (tmp_path / probe.name).unlink()
    assert os.listdir(tmp_path) == []


def test_it_is_durable_before_anybody_is_told_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable: list[bytes] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        fsync(fd)
        durable.append(Path(f"/proc/self/fd/{fd}").read_bytes())

    monkeypatch.setattr(os, "fsync", noted)
    with left(tmp_path, HOST) as probe:
        assert durable == [probe.content.encode()]


def test_each_is_new(tmp_path: Path) -> None:
    with left(tmp_path, HOST) as one, left(tmp_path, HOST) as two:
        assert one.name != two.name
        assert one.content != two.content
        assert is_seen(tmp_path, one)
        assert is_seen(tmp_path, two)


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    with left(tmp_path, HOST) as probe:
        assert (tmp_path / probe.name).stat().st_mode & 0o077 == 0


CHANGES = [str.upper, lambda content: content[:-1], lambda content: content + "0", lambda _: ""]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_that_name_with_another_content_is_not_taken_for_not_seen(change: Callable[[str], str], tmp_path: Path) -> None:
    """Its name is made for one preflight: it may well be the file, through a cache that is late with its content."""
    probe = Probe(name=f".probe-{HOST}-00", content="a" * 32)
    (tmp_path / probe.name).write_text(change(probe.content))
    with pytest.raises(StorageError, match="is there, with another content than the other host has left") as refused:
        is_seen(tmp_path, probe)
    assert (refused.value.reason, refused.value.retryable) == (reasons.STORAGE_ERROR, True)


def link(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.with_name("elsewhere").write_bytes(content)
    path.symlink_to("elsewhere")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("disturb", [link, directory])
def test_what_is_no_file_can_not_be_told_of(disturb: Callable[[Path], None], tmp_path: Path) -> None:
    probe = Probe(name=f".probe-{HOST}-00", content="a" * 32)
    (tmp_path / probe.name).write_text(probe.content)
    disturb(tmp_path / probe.name)
    with pytest.raises(StorageError, match="could not look for") as refused:
        is_seen(tmp_path, probe)
    assert refused.value.reason == reasons.STORAGE_ERROR


def test_a_pipe_of_that_name_holds_nobody_up(tmp_path: Path) -> None:
    probe = Probe(name=f".probe-{HOST}-00", content="a" * 32)
    os.mkfifo(tmp_path / probe.name)
    with pytest.raises(StorageError, match="with another content"):
        is_seen(tmp_path, probe)


@pytest.mark.parametrize("call", ["listdir", "open", "read"])
def test_an_error_is_never_taken_for_not_seen(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with left(tmp_path, HOST) as probe, monkeypatch.context() as patched:
        before = len(os.listdir("/proc/self/fd"))
        patched.setattr(os, call, refuse)
        with pytest.raises(StorageError, match="Stale file handle") as refused:
            is_seen(tmp_path, probe)
        patched.undo()
        assert len(os.listdir("/proc/self/fd")) == before
    assert refused.value.reason == reasons.STORAGE_ERROR


def test_one_that_is_listed_but_can_not_be_opened_is_not_taken_for_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(name=f".probe-{HOST}-00", content="a" * 32)
    monkeypatch.setattr(os, "listdir", lambda _path: [probe.name])
    with pytest.raises(StorageError, match="No such file"):
        is_seen(tmp_path, probe)


def test_a_missing_instances_path_is_an_error_whoever_asks(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(StorageError, match="No such file"), left(missing, HOST):
        pass
    with pytest.raises(StorageError, match="No such file"):
        is_seen(missing, Probe(name=f".probe-{HOST}-00", content="a" * 32))
    with pytest.raises(StorageError, match="No such file"):
        remove_left(missing, HOST)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_one_that_can_not_be_left_is_an_error_and_leaves_nothing(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StorageError) as refused, left(tmp_path, HOST):
        pass
    assert refused.value.reason == reasons.INSUFFICIENT_DISK
    assert os.listdir(tmp_path) == []


def test_what_is_left_of_this_host_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = [f".probe-{OTHER}-1234", f".probe-{HOST}", f"probe-{HOST}-1234", f".probe-{HOST}0-1234", "disk", HOST]
    for name in [*others, f".probe-{HOST}-1234", f".probe-{HOST}-5678"]:
        (tmp_path / name).write_bytes(b"")
    remove_left(tmp_path, HOST)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_what_an_agent_that_was_killed_has_left_is_found_again(tmp_path: Path) -> None:
    with left(tmp_path, HOST):
        remove_left(tmp_path, HOST)
        assert os.listdir(tmp_path) == []


def test_what_is_left_and_can_not_be_removed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / f".probe-{HOST}-1234").mkdir()
    with pytest.raises(StorageError, match="could not remove old probes"):
        remove_left(tmp_path, HOST)


OTHER_NAMES = ["../x", ".probe-", ".probe-a/b", ".probe-a/../../x", "probe-a", "disk", ".probe-a.b", ".probe-\n", ".probe-a\n", "x.probe-a"]


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_no_other_name_can_be_asked_for(name: str) -> None:
    with pytest.raises(ValidationError):
        Probe(name=name, content="a" * 32)


@pytest.mark.parametrize("content", ["", "a" * 31, "a" * 65, "g" * 32])
def test_a_content_that_could_be_guessed_is_none(content: str) -> None:
    with pytest.raises(ValidationError):
        Probe(name=".probe-a", content=content)
