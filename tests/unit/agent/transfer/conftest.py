from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Sshd, Target, target_behind_sshd, write_files

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
