import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import UID, domain

from kubeferry.agent.journal import JournalStore
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core.journal import Journal, JournalDisk, JournalStep, Reserved

OTHER = "00000000-0000-4000-8000-000000000001"


def journal(uid: str = UID, epoch: int = 3, **changes: Any) -> Journal:
    base = Journal(uid=uid, epoch=epoch, epoch_id="e3", role=Role.ACTIVE, step=JournalStep(seq=4, verb=Verb.START))
    return dataclasses.replace(base, **changes)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "journals").mkdir()
    return tmp_path


@pytest.fixture
def store(state: Path) -> JournalStore:
    return JournalStore(state)


def file(state: Path, uid: str = UID) -> Path:
    return state / "journals" / f"{uid}.json"


def write(path: Path, **changes: Any) -> None:
    body = {"version": 1, "uid": UID, "epoch": 3, "epochId": "e3", "role": "ACTIVE", "step": {"seq": 4, "verb": "Start"}}
    path.write_text(json.dumps(body | changes))


def test_a_vm_that_was_never_here_has_no_journal(store: JournalStore) -> None:
    assert store.read(UID) is None
    assert store.all() == ((), {})


def test_what_was_written_is_read_by_another_process(store: JournalStore, state: Path) -> None:
    full = journal(
        domain=domain(),
        reserved=Reserved(cpu=2, memory=512 << 20, disk=3 << 30),
        disks={"root": JournalDisk(inode=12, digest="blake3:00")},
        created=("kernel", "root.raw"),
    )
    store.write(full)
    assert JournalStore(state).read(UID) == full


def test_only_the_agents_user_reads_a_journal(store: JournalStore, state: Path) -> None:
    store.write(journal())
    assert file(state).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("before", "after"), [(3, 3), (3, 4)])
def test_an_epoch_may_stay_or_rise(before: int, after: int, store: JournalStore) -> None:
    store.write(journal(epoch=before))
    store.write(journal(epoch=after, role=Role.INCOMING))
    assert store.read(UID) == journal(epoch=after, role=Role.INCOMING)


def test_an_epoch_is_never_lowered(store: JournalStore) -> None:
    store.write(journal(epoch=3))
    with pytest.raises(ValueError, match="is at epoch 3: 2 would lower it"):
        store.write(journal(epoch=2))
    assert store.read(UID) == journal(epoch=3)


@pytest.mark.parametrize("call", ["fsync", "open", "write"])
def test_a_write_that_fails_is_told_and_leaves_the_old_journal(
    call: str, store: JournalStore, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(journal())
    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr("kubeferry.agent.journal.write_atomic", full_disk)
        else:
            patch.setattr(os, call, writing_fails(getattr(os, call)))
        with pytest.raises(StorageError, match="can't be written: No space left") as refused:
            store.write(journal(epoch=4))
    assert refused.value.reason == reasons.JOURNAL_UNREADABLE
    assert store.read(UID) == journal()
    store.write(journal(epoch=4))
    assert os.listdir(state / "journals") == [f"{UID}.json"]


def full_disk(*_args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writing_fails(real: Callable[..., Any]) -> Callable[..., Any]:
    """The system call, out of room when it writes."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 and not args[1] & os.O_WRONLY:
            return real(*args, **kwargs)
        return full_disk()

    return call


def test_a_journal_is_durable_before_its_name_is_and_its_name_before_the_write_returns(
    store: JournalStore, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, list[str]]] = []
    sizes: list[int] = []
    sync = os.fsync

    def noted(fd: int) -> None:
        synced.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), os.listdir(state / "journals")))
        sizes.append(os.fstat(fd).st_size)
        sync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    store.write(journal())
    assert synced == [(f"{UID}.json.tmp", [f"{UID}.json.tmp"]), ("journals", [f"{UID}.json"])]
    assert sizes[0] == file(state).stat().st_size


def corrupt(path: Path) -> None:
    path.write_bytes(b'{"version": 1, "ui')


def empty(path: Path) -> None:
    path.touch()


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def no_object(path: Path) -> None:
    path.write_text("[1]")


def newer(path: Path) -> None:
    write(path, version=2, role="TELEPORTED")


def without_a_role(path: Path) -> None:
    write(path, role=None)


def of_another_vm(path: Path) -> None:
    write(path, uid=OTHER)


def directory(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    write(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (corrupt, "it is no JSON"),
        (empty, "it is no JSON"),
        (binary, "it is no JSON"),
        (no_object, "can't be read"),
        (newer, "is of version 2, this agent knows 1"),
        (without_a_role, "role: "),
        (of_another_vm, f"it is of VM {OTHER}"),
        (directory, "Is a directory"),
        (link, "it is a link"),
    ],
)
def test_a_journal_that_can_not_be_read_is_of_that_vm_only(
    make: Callable[[Path], None], says: str, store: JournalStore, state: Path
) -> None:
    store.write(journal(uid=OTHER))
    make(file(state))
    readable, unreadable = store.all()
    assert readable == (journal(uid=OTHER),)
    assert list(unreadable) == [UID]
    for attempt in (lambda: store.read(UID), lambda: store.write(journal(epoch=9))):
        with pytest.raises(StorageError) as refused:
            attempt()
        assert refused.value.reason == reasons.JOURNAL_UNREADABLE
        assert says in str(refused.value)
        assert str(file(state)) in str(refused.value)


def test_a_newer_agents_journal_is_read_if_its_version_is_ours(store: JournalStore, state: Path) -> None:
    write(file(state), fieldOfTomorrow=1)
    assert store.read(UID) == journal()


def test_what_an_interrupted_write_left_is_no_journal(store: JournalStore, state: Path) -> None:
    file(state).with_name(f"{UID}.json.tmp").write_text("half" * 10_000)
    assert store.all() == ((), {})
    store.write(journal())
    assert store.read(UID) == journal()


@pytest.mark.parametrize("uid", ["../host-id", "a/b", ".", "", "a\n"])
def test_no_uid_leads_out_of_the_directory(uid: str, store: JournalStore) -> None:
    with pytest.raises(ValueError, match="is no uid"):
        store.read(uid)


@pytest.mark.parametrize(
    "attempt",
    [lambda store: store.read(UID), lambda store: store.write(journal()), lambda store: store.all()],
    ids=["read", "write", "all"],
)
def test_without_the_directory_nothing_is_known_and_none_is_made(
    attempt: Callable[[JournalStore], object], store: JournalStore, state: Path
) -> None:
    (state / "journals").rmdir()
    with pytest.raises(StorageError) as refused:
        attempt(store)
    assert refused.value.reason == reasons.JOURNALS_LOST
    assert not (state / "journals").exists()
