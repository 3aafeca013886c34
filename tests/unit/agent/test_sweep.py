"""What is unlinked of what was given up, and when."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import UID

from kubeferry.agent.storage import sweep as sweeping
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sweep import being_given_up, make_room, sweep, trash_bytes
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core.journal import Journal, JournalStep

MIB = 1 << 20


def given_up(instances: Path, name: str, at: float, size: int = MIB) -> Path:
    """A copy that went to the trash at that time."""
    copy = instances / ".trash" / name
    copy.mkdir(parents=True)
    (copy / "root.raw").write_bytes(os.urandom(size))
    (copy / "kernel").write_bytes(b"kernel")
    os.utime(copy, (at, at))
    return copy


def left(instances: Path) -> list[str]:
    return sorted(os.listdir(instances / ".trash"))


def test_what_was_given_up_before_that_time_goes_and_the_rest_stays(tmp_path: Path) -> None:
    for name, at in (("old-1", 100.0), ("older-7", 50.0), ("new-2", 200.0)):
        given_up(tmp_path, name, at)
    sweep(tmp_path, 200.0, ())
    assert left(tmp_path) == ["new-2"]
    assert (tmp_path / ".trash" / "new-2" / "root.raw").stat().st_size == MIB


@pytest.mark.parametrize("act", [lambda path: sweep(path, 1e12, ()), lambda path: make_room(path, 1 << 60, ()), trash_bytes])
def test_without_trash_nothing_is_to_be_done(act: Callable[[Path], object], tmp_path: Path) -> None:
    act(tmp_path)
    assert os.listdir(tmp_path) == []
    (tmp_path / ".trash").mkdir()
    act(tmp_path)
    assert left(tmp_path) == []


def test_it_counts_what_sweeping_gives_back_and_no_more(tmp_path: Path) -> None:
    copy = given_up(tmp_path, "a-1", 1.0, size=8 * MIB)
    alone = trash_bytes(tmp_path)
    assert 8 * MIB <= alone < 9 * MIB
    with (copy / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert trash_bytes(tmp_path) == alone
    (tmp_path / UID).mkdir()
    os.link(copy / "root.raw", tmp_path / UID / "root.raw")
    assert trash_bytes(tmp_path) < MIB, "a discard is under way: its file is still in its place"


def test_the_oldest_goes_first_and_only_as_much_as_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, at in (("b-1", 20.0), ("c-1", 30.0), ("a-1", 10.0)):
        given_up(tmp_path, name, at)
    monkeypatch.setattr(sweeping, "free_bytes", lambda _: 100 - 10 * len(left(tmp_path)))
    monkeypatch.setattr(sweeping, "allocated_bytes", lambda _: 5)  # two files each
    assert (make_room(tmp_path, 70, ()), left(tmp_path)) == (70, ["a-1", "b-1", "c-1"])
    assert (make_room(tmp_path, 71, ()), left(tmp_path)) == (80, ["b-1", "c-1"])
    assert (make_room(tmp_path, 100, ()), left(tmp_path)) == (100, [])


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    copy = given_up(tmp_path, "a-1", 1.0)
    (copy / "notes").mkdir()
    (copy / "notes" / "mine").write_text("keep")
    (tmp_path / ".trash" / "file").write_text("keep")
    (tmp_path / ".trash" / "link").symlink_to(tmp_path / "elsewhere")
    given_up(tmp_path / "elsewhere", "x", 1.0)
    os.utime(copy, (1.0, 1.0))
    sweep(tmp_path, 2.0, ())
    assert left(tmp_path) == ["a-1", "file", "link"]
    assert os.listdir(copy) == ["notes"]
    assert (tmp_path / "elsewhere" / ".trash" / "x" / "root.raw").exists()


def test_a_link_in_the_trash_is_not_followed(tmp_path: Path) -> None:
    copy = given_up(tmp_path, "a-1", 1.0)
    (tmp_path / "disk").write_text("whose?")
    (copy / "disk").symlink_to(tmp_path / "disk")
    os.utime(copy, (1.0, 1.0))
    sweep(tmp_path, 2.0, ())
    assert (tmp_path / "disk").read_text() == "whose?"
    assert left(tmp_path) == []


def test_a_trash_that_is_a_link_is_not_swept(tmp_path: Path) -> None:
    given_up(tmp_path / "elsewhere", "a-1", 1.0)
    (tmp_path / ".trash").symlink_to(tmp_path / "elsewhere" / ".trash")
    with pytest.raises(StorageError) as refused:
        sweep(tmp_path, 2.0, ())
    assert refused.value.reason == reasons.STORAGE_ERROR
    assert (tmp_path / "elsewhere" / ".trash" / "a-1" / "root.raw").exists()


def test_what_another_thread_has_swept_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up(tmp_path, "a-1", 1.0)
    unlink = os.unlink

    def twice(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", twice)
    sweep(tmp_path, 2.0, ())
    assert left(tmp_path) == []


def test_nothing_is_unlinked_for_room_that_it_would_not_make(tmp_path: Path) -> None:
    given_up(tmp_path, "a-1", 1.0)
    free = make_room(tmp_path, 1 << 60, ())
    assert (free > 0, left(tmp_path)) == (True, ["a-1"])


def test_a_copy_that_is_on_its_way_to_the_trash_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Discard that was interrupted looks for its files there."""
    other = UID.replace("6", "7")
    for name in (f"{UID}-3", f"{other}-9", "unknown-2"):
        given_up(tmp_path, name, 1.0)
    journals = [
        Journal(uid=uid, epoch=3, epoch_id="e3", role=role, step=JournalStep(seq=1, verb=Verb.DISCARD))
        for uid, role in ((UID, Role.DELETING), (other, Role.GONE))
    ]
    busy = being_given_up(journals, ["unknown"])
    assert 0 < trash_bytes(tmp_path, busy) < trash_bytes(tmp_path)
    monkeypatch.setattr(sweeping, "free_bytes", lambda _: 0)
    make_room(tmp_path, 1, busy)
    sweep(tmp_path, 2.0, busy)
    assert left(tmp_path) == [f"{UID}-3", "unknown-2"]


def test_what_a_person_has_put_there_stays(tmp_path: Path) -> None:
    given_up(tmp_path, "rescued-by-me", 1.0)
    sweep(tmp_path, 2.0, ())
    assert left(tmp_path) == ["rescued-by-me"]
