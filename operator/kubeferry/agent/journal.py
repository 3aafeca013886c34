"""The host's journals on disk: one file per VM, written before each effect."""

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from kubeferry.agent.storage.atomic import write_atomic
from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.api import reasons
from kubeferry.api.model import dump, load
from kubeferry.core.journal import JOURNAL_VERSION, Journal

JOURNALS = "journals"
"""The directory of the journals, below the state path. Made once, with the host's identity (`agent.identity`)."""

_SUFFIX = ".json"
_UID = re.compile(r"[0-9A-Za-z-]+")


class Journals(NamedTuple):
    """All journals of a host."""

    readable: tuple[Journal, ...]
    """By uid."""
    unreadable: Mapping[str, StorageError]
    """Why, by uid: the VM exists here, and nothing else is known of it."""


class JournalStore:
    """The journals below a state path on host-local storage. One writer per VM at a time."""

    def __init__(self, state_path: Path) -> None:
        self._directory = state_path / JOURNALS

    def write(self, journal: Journal) -> None:
        """Make a journal durable: what it says holds when this returns.

        Raises:
            ValueError: its epoch is below that of the stored one: a defect of the caller.
            StorageError: `JournalUnreadable`: the stored one can't be read, or this one can't be written; then either may be
                the stored one now. `JournalsLost`.
        """
        stored = self.read(journal.uid)
        if stored is not None and journal.epoch < stored.epoch:
            raise ValueError(f"the journal of {journal.uid} is at epoch {stored.epoch}: {journal.epoch} would lower it")
        path = self._path(journal.uid)
        try:
            write_atomic(path, json.dumps(dump(journal), indent=1).encode())
        except OSError as error:
            raise StorageError(
                reasons.JOURNAL_UNREADABLE, f"the journal {path} can't be written: {error.strerror}; see that its file system is sound"
            ) from error

    def read(self, uid: str) -> Journal | None:
        """The journal of one VM; None: this host never had one.

        Raises:
            StorageError: `JournalUnreadable`, `JournalsLost`.
        """
        path = self._path(uid)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                content = file.read()
        except FileNotFoundError as error:
            if self._directory.is_dir():
                return None
            raise self._lost() from error
        except OSError as error:
            seen = "it is a link" if error.errno == errno.ELOOP else str(error.strerror)
            raise _unreadable(path, seen) from error
        return _parse(path, uid, content)

    def all(self) -> Journals:
        """Every journal; one that can't be read is told, and keeps no other from being read.

        Raises:
            StorageError: `JournalsLost`; `JournalUnreadable`: the directory itself can't be read.
        """
        readable: list[Journal] = []
        unreadable: dict[str, StorageError] = {}
        for uid in self._uids():
            try:
                journal = self.read(uid)
            except StorageError as error:
                unreadable[uid] = error
            else:
                readable += [journal] if journal is not None else []
        return Journals(tuple(readable), unreadable)

    def _path(self, uid: str) -> Path:
        if not _UID.fullmatch(uid):
            raise ValueError(f"{uid!r} is no uid: letters, digits and dashes were expected")
        return self._directory / (uid + _SUFFIX)

    def _uids(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError as error:
            raise self._lost() from error
        except OSError as error:
            raise _unreadable(self._directory, str(error.strerror)) from error
        uids = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return [uid for uid in uids if _UID.fullmatch(uid)]

    def _lost(self) -> StorageError:
        return StorageError(
            reasons.JOURNALS_LOST,
            f"there is no directory {self._directory}, which was made with this host's identity; mount it, or restore it from a backup",
        )


def has_instances(instances_path: Path) -> bool:
    """Whether the instances path holds anything named as a VM's uid; a path that is missing holds nothing.

    Raises:
        StorageError: `StorageError`: it can't be told.
    """
    with storage_errors(f"look into the instances path {instances_path}"):
        try:
            return any(_UID.fullmatch(name) for name in os.listdir(instances_path))
        except FileNotFoundError:
            return False


def _parse(path: Path, uid: str, content: bytes) -> Journal:
    try:
        body = json.loads(content)
    except ValueError as error:
        raise _unreadable(path, f"it is no JSON ({error})") from error
    version = body.get("version") if isinstance(body, dict) else None
    # Looked at first: what else a newer version says can't be judged by this one's rules.
    if isinstance(version, int) and version > JOURNAL_VERSION:
        raise StorageError(
            reasons.JOURNAL_UNREADABLE,
            f"the journal {path} is of version {version}, this agent knows {JOURNAL_VERSION}: a newer agent wrote it; run that one here",
        )
    try:
        journal = load(Journal, content)
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if journal.uid != uid:
        raise _unreadable(path, f"it is of VM {journal.uid}")
    return journal


def _unreadable(path: Path, seen: str) -> StorageError:
    return StorageError(
        reasons.JOURNAL_UNREADABLE,
        f"the journal {path} can't be read: {seen}; restore this file from a backup, and touch nothing of the VM until then",
    )
