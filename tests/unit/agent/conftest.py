from pathlib import Path

import pytest
from agent_rig import Rig
from instance_bench import CONTENT, Bench


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    for directory in ("instances", "sources"):
        (tmp_path / directory).mkdir()
    for name, content in CONTENT.items():
        (tmp_path / "sources" / name).write_bytes(content)
    return Bench(tmp_path / "instances", tmp_path / "sources")
