import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from part_bench import SIZE, PartBench, full
from sshd import Sshd, Target, target_behind_sshd, write_files

from kubeferry.agent.transfer.digest import CHUNK
from kubeferry.agent.transfer.keys import Keys
from kubeferry.api.computenode import SshEndpoint

Reached = tuple[Target, Sshd, SshEndpoint, Keys]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / "b")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The instance directory at the source."""
    write_files(tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture
def reached() -> Iterator[Reached]:
    with target_behind_sshd() as everything:
        yield everything


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PartBench]:
    file = PartBench(tmp_path)
    yield file
    file.close()


@pytest.fixture
def left(file: PartBench) -> PartBench:
    """What an earlier try left: its first chunk is known, its others are full of what nobody knows."""
    part = file.part(fresh=True)
    part.write(full(0, "a"))
    part.note()
    os.pwrite(file.fd, b"?" * (SIZE - CHUNK), CHUNK)
    return file


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads
