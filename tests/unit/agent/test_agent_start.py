"""What an agent's start does not stumble over."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kubeferry.agent import run
from kubeferry.agent.identity import host_id
from kubeferry.agent.machine import Machine
from kubeferry.agent.settings import AgentSettings


def test_what_preflights_left_and_can_not_be_removed_is_told_and_the_agent_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("instances", "state/journals", "run"):
        (tmp_path / name).mkdir(parents=True)
    settings = AgentSettings.model_validate(
        {
            "nodeName": "a",
            "instancesPath": tmp_path / "instances",
            "statePath": tmp_path / "state",
            "runPath": tmp_path / "run",
            "migrationAddress": "127.0.0.1",
        }
    )
    host = host_id(settings.state_path, settings.instances_path)
    (settings.instances_path / f".probe-{host}-1234").mkdir()
    started: list[Machine] = []

    async def serve(machine: Machine, *_: object) -> None:
        started.append(machine)

    monkeypatch.setattr(run, "_run", serve)
    with capture_logs() as logs:
        run.run_agent(settings)
    assert [machine.host_id for machine in started] == [host]
    (line,) = logs
    assert line["log_level"] == "error"
    assert "could not remove old probes" in line["error"]
    assert line["remove"] == f"{settings.instances_path}/.probe-{host}-*"
