import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import UID

from kubeferry.agent.identity import IdentityError, boot_id, host_id, require_instances_path, take_host_lock
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "var" / "state"


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    (tmp_path / "instances").mkdir()
    return tmp_path / "instances"


def test_the_first_start_makes_an_identity_and_the_directory_of_journals(state: Path, instances: Path) -> None:
    made = host_id(state, instances)
    assert str(uuid.UUID(made)) == made
    assert JournalStore(state).all() == ((), {})


def test_the_identity_stays_when_there_are_instances(state: Path, instances: Path) -> None:
    made = host_id(state, instances)
    (instances / UID).mkdir()
    assert host_id(state, instances) == made


def test_two_hosts_have_two_identities(state: Path, instances: Path) -> None:
    assert host_id(state, instances) != host_id(state.with_name("other"), instances)


def test_an_instances_path_that_is_not_there_yet_holds_no_instance(state: Path, tmp_path: Path) -> None:
    assert host_id(state, tmp_path / "missing")


def test_a_first_start_that_was_cut_off_is_done_again(state: Path, instances: Path) -> None:
    (state / "journals").mkdir(parents=True)
    assert host_id(state, instances)


def test_instances_without_an_identity_are_no_new_host(state: Path, instances: Path) -> None:
    (instances / UID).mkdir()
    with pytest.raises(IdentityError, match="this is no new host"):
        host_id(state, instances)
    assert not state.exists()


def test_journals_without_an_identity_are_no_new_host(state: Path, instances: Path) -> None:
    (state / "journals").mkdir(parents=True)
    (state / "journals" / f"{UID}.json").touch()
    with pytest.raises(IdentityError, match="this is no new host"):
        host_id(state, instances)
    assert not (state / "host-id").exists()


def test_an_identity_without_journals_stays_and_makes_no_directory(state: Path, instances: Path) -> None:
    made = host_id(state, instances)
    (state / "journals").rmdir()
    (instances / UID).mkdir()
    assert host_id(state, instances) == made
    with pytest.raises(StorageError) as refused:
        JournalStore(state).all()
    assert refused.value.reason == reasons.JOURNALS_LOST


def test_a_place_for_disks_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="is no directory: mount"):
        require_instances_path(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "worker-1\n", "\xff"])
def test_a_damaged_identity_is_never_replaced(content: str, state: Path, instances: Path) -> None:
    state.mkdir(parents=True)
    for attempt, path in ((lambda: host_id(state, instances), state / "host-id"), (lambda: boot_id(state), state / "boot-id")):
        path.write_text(content, encoding="latin-1")
        with pytest.raises(IdentityError, match="a uuid was expected"):
            attempt()
        assert path.read_text(encoding="latin-1") == content


def test_a_boot_keeps_its_identity_until_its_run_directory_is_emptied(tmp_path: Path) -> None:
    run = tmp_path / "run" / "kubeferry"
    first = boot_id(run)
    assert boot_id(run) == first
    (run / "boot-id").unlink()
    run.rmdir()
    assert boot_id(run) != first


def test_a_state_that_can_not_be_written_is_told(state: Path, instances: Path) -> None:
    state.parent.mkdir()
    state.touch()
    for attempt in (lambda: host_id(state, instances), lambda: boot_id(state / "run"), lambda: take_host_lock(state)):
        with pytest.raises(IdentityError, match=f"could not .*{state}"):
            attempt()


@contextmanager
def held(state: Path) -> Iterator[None]:
    """The life of an agent's process."""
    fd = take_host_lock(state)
    yield
    os.close(fd)


def test_the_lock_is_held_by_one_and_names_its_holder(state: Path) -> None:
    with held(state):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(IdentityError, match=f"process {os.getpid()},"):
            take_host_lock(state)
        assert os.listdir("/proc/self/fd") == before
    with held(state):
        assert (state / "lock").read_text() == f"{os.getpid()}\n"


def test_the_holders_number_is_not_mixed_with_an_earlier_ones(state: Path) -> None:
    state.mkdir(parents=True)
    (state / "lock").write_text("12345678901\n")
    with held(state):
        assert (state / "lock").read_text() == f"{os.getpid()}\n"


def test_a_helper_that_the_agent_started_does_not_keep_the_lock(state: Path) -> None:
    with held(state):
        helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with held(state):
        helper.communicate(b"\n")
