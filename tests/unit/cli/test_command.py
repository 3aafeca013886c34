"""The command line: configuration files and logs."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from typer.testing import CliRunner

from kubeferry import __version__
from kubeferry.cli.config import ConfigError, read_config
from kubeferry.cli.logs import LogFormat, configure_logs
from kubeferry.cli.main import app
from kubeferry.controller.settings import ControllerSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "controller.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings = read_config(written(tmp_path, ""), ControllerSettings)
    assert (settings.namespace, settings.log_format, settings.workers) == ("kubeferry-system", "json", 4)


def test_keys_are_in_camel_case(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "logFormat: text\nworkers: 2"), ControllerSettings).log_format == "text"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workerz: 3", "workerz: Extra inputs are not permitted"),
        ("workers: 0", "workers: Input should be greater than or equal to 1"),
        ("logFormat: xml", "logFormat: Input should be 'json' or 'text'"),
        ("log_format: text", "log_format: Extra inputs are not permitted"),
        ("- a", "the file: Input should be a valid dictionary"),
        ("a: [", "can't be read as YAML"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, ControllerSettings)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_every_problem_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)workers.*logFormat|logFormat.*workers"):
        read_config(written(tmp_path, "workers: 0\nlogFormat: xml"), ControllerSettings)


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_config(tmp_path / "none.yaml", ControllerSettings)


def test_the_command_tells_a_wrong_file_in_one_line_and_exits_with_2(tmp_path: Path) -> None:
    path = written(tmp_path, "workerz: 3")
    result = CliRunner().invoke(app, ["controller", "--config", str(path)])
    assert (result.exit_code, result.stderr) == (2, f"{path}: workerz: Extra inputs are not permitted\n")


def test_the_command_tells_its_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{__version__}\n")


@pytest.fixture
def restored() -> Iterator[None]:
    root, kopf = logging.getLogger(), logging.getLogger("kopf.objects")
    before, level, kopf_level, configured = root.handlers, root.level, kopf.level, structlog.get_config()
    yield
    root.handlers, root.level, kopf.level = before, level, kopf_level
    structlog.configure(**configured)


def logged(capsys: pytest.CaptureFixture[str], log_format: LogFormat) -> list[str]:
    configure_logs(log_format)
    with bound_contextvars(vm="shop/web-0"):
        structlog.get_logger("kubeferry.here").info("placement written", epoch=1)
        logging.getLogger("kopf.somewhere").warning("watch of %s lost", "things")
        logging.getLogger("kopf.objects").info("handler succeeded")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger("kubeferry.here").exception("work failed")
    return capsys.readouterr().err.splitlines()


@pytest.mark.usefixtures("restored")
def test_json_logs_are_one_object_a_line_from_us_and_from_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs, failure = [json.loads(line) for line in logged(capsys, "json")]
    for line in (ours, theirs, failure):
        assert line.pop("timestamp").endswith("Z")
    assert ours == {"event": "placement written", "epoch": 1, "vm": "shop/web-0", "logger": "kubeferry.here", "level": "info"}
    assert theirs == {"event": "watch of things lost", "vm": "shop/web-0", "logger": "kopf.somewhere", "level": "warning"}
    assert failure["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.usefixtures("restored")
def test_text_logs_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logged(capsys, "text")
    assert "placement written" in lines[0]
    assert "epoch=1" in lines[0]
    assert "vm=shop/web-0" in lines[0]
    assert "watch of things lost" in lines[1]
    assert lines[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.usefixtures("restored")
def test_an_agent_that_cannot_be_this_hosts_says_why_in_one_line_and_exits_with_1(tmp_path: Path) -> None:
    path = written(tmp_path, f"nodeName: a\nmigrationAddress: 127.0.0.1\ninstancesPath: {tmp_path}/missing\nstatePath: {tmp_path}/state")
    result = CliRunner().invoke(app, ["agent", "--config", str(path)])
    assert result.exit_code == 1
    assert result.stderr == f"instancesPath {tmp_path}/missing is no directory: mount the file system of the disks there, or make it\n"


def test_an_agents_allow_list_takes_absolute_paths_only(tmp_path: Path) -> None:
    path = written(tmp_path, "nodeName: a\nmigrationAddress: 127.0.0.1\nallow: {hostPaths: [images]}")
    result = CliRunner().invoke(app, ["agent", "--config", str(path)])
    assert result.exit_code == 2
    assert "allow.hostPaths.0" in result.stderr


@pytest.mark.parametrize("name", ["", "../br0", "br0/..", "b" * 16])
def test_an_agents_allow_list_takes_names_of_bridges_only(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f"nodeName: a\nmigrationAddress: 127.0.0.1\nallow: {{bridges: [br0, '{name}']}}")
    result = CliRunner().invoke(app, ["agent", "--config", str(path)])
    assert result.exit_code == 2
    assert "allow.bridges.1" in result.stderr


@pytest.mark.parametrize("address", ["", "host-b", "192.0.2.1\nPermitRootLogin yes", "192.0.2.1/24", "192.0.2.256"])
def test_an_agents_migration_address_is_an_ip_address(tmp_path: Path, address: str) -> None:
    path = written(tmp_path, f"nodeName: a\nmigrationAddress: {json.dumps(address)}")
    result = CliRunner().invoke(app, ["agent", "--config", str(path)])
    assert result.exit_code == 2
    assert "migrationAddress: " in result.stderr
