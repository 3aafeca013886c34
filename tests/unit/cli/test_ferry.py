"""`kubectl ferry`: what it has kubectl do, and what its exit status says; a script stands for kubectl."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import migration
from click.testing import Result
from move_life import Life
from typer.testing import CliRunner

from kubeferry.api.migration import Migration
from kubeferry.api.model import dump
from kubeferry.api.task import Verb
from kubeferry.cli import ferry
from kubeferry.cli.kubectl import NOT_FOUND

KUBECTL = """#!{python}
import json, pathlib, sys
room = pathlib.Path({room!r})
words = sys.argv[1:]
stdin = sys.stdin.read() if "-f" in words else ""
with (room / "asked").open("a") as asked:
    asked.write(json.dumps([words, stdin]) + "\\n")
answers = sorted((room / "answers").iterdir())
if not answers:
    sys.exit(0)
answer = answers[0].read_text()
if len(answers) > 1:
    answers[0].unlink()
if answer.startswith("error:"):
    sys.exit(answer)
print(answer)
"""


class Room:
    """Where the script that stands for kubectl finds its answers, and notes what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "answers").mkdir()
        script = path / "kubectl"
        script.write_text(KUBECTL.format(python=sys.executable, room=str(path)))
        script.chmod(0o755)

    def answers(self, *told: Migration | str) -> None:
        """The answers, one after the other; the last one again and again."""
        for number, each in enumerate(told):
            text = each if isinstance(each, str) else json.dumps(dump(each))
            (self.path / "answers" / f"{number:03}").write_text(text)

    @property
    def asked(self) -> list[list[str]]:
        return [words for words, _ in self._asked()]

    @property
    def manifest(self) -> dict[str, Any]:
        """What was given to the first command."""
        found: dict[str, Any] = json.loads(self._asked()[0][1])
        return found

    def _asked(self) -> list[tuple[list[str], str]]:
        return [tuple(json.loads(line)) for line in (self.path / "asked").read_text().splitlines()]  # type: ignore[misc]


Run = Callable[..., Result]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ferry, "LOOK_EVERY", 0.0)
    return Room(tmp_path)


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(ferry.app, words)


MANAGER = "--field-manager=kubectl-ferry"
PATCH = ["patch", "migrations.kubeferry.io", "move", "--type=merge", "-p"]
GET = ["get", "migrations.kubeferry.io", "move", "-o", "json"]


def at(verb: Verb | None) -> Migration:
    """A Migration as it is when that verb is asked; None: it awaits its decision."""
    return Life().go_on_to(verb).migrations["move"]


def confirmed() -> Migration:
    life = Life().go_on_to()
    life.wish("Confirm")
    life.answer(Verb.DISCARD)
    return life.migrations["move"]


def reverted() -> Migration:
    life = Life().go_on_to()
    life.wish("Revert")
    for verb in (Verb.SEAL, Verb.ACTIVATE, Verb.DISCARD):
        life.answer(verb)
    return life.migrations["move"]


def failed() -> Migration:
    life = Life()
    life.target = None
    life.step()
    return life.migrations["move"]


def test_migrate_creates_a_migration_of_one_line(room: Room, run: Run) -> None:
    result = run("migrate", "web-0", "-n", "shop")
    assert result.exit_code == 0
    assert room.asked == [["create", "-f", "-", MANAGER, "--namespace=shop"]]
    assert room.manifest == {
        "apiVersion": "kubeferry.io/v1alpha1",
        "kind": "Migration",
        "metadata": {"generateName": "web-0-"},
        "spec": {"virtualMachine": {"name": "web-0"}},
    }


def test_migrate_takes_the_terms_of_a_migration(room: Room, run: Run) -> None:
    words = ("--to", "n2", "--name", "move", "--start-deadline", "60", "--decide-after", "300", "--then", "Confirm")
    assert run("migrate", "web-0", *words).exit_code == 0
    assert room.manifest["metadata"] == {"name": "move"}
    assert room.manifest["spec"] == {
        "virtualMachine": {"name": "web-0"},
        "targetNode": "n2",
        "startDeadlineSeconds": 60,
        "decisionTimeoutSeconds": 300,
        "onDecisionTimeout": "Confirm",
    }


def test_what_is_tried_out_is_kubectls_to_show(room: Room, run: Run) -> None:
    run("migrate", "web-0", "--dry-run=client", "-o", "yaml", "--wait", "--context=lab", "--kubeconfig=/k")
    run("confirm", "move", "--dry-run=server", "-o", "name", "--wait")
    assert room.asked == [
        ["create", "-f", "-", MANAGER, "--dry-run=client", "-o", "yaml", "--context=lab", "--kubeconfig=/k"],
        [*PATCH, '{"spec":{"decision":"Confirm"}}', MANAGER, "--dry-run=server", "-o", "name"],
    ]


@pytest.mark.parametrize(("command", "value"), [("confirm", "Confirm"), ("revert", "Revert")])
def test_to_decide_is_a_merge_patch(room: Room, run: Run, command: str, value: str) -> None:
    assert run(command, "move").exit_code == 0
    patch = f'{{"spec":{{"decision":"{value}"}}}}'
    assert room.asked == [[*PATCH, patch, MANAGER]]


def test_migrate_follows_to_the_decision_and_tells_each_change_once(room: Room, run: Run) -> None:
    room.answers(at(Verb.PREPARE), at(Verb.SEAL), at(Verb.SEAL), at(Verb.ACTIVATE), at(None))
    result = run("migrate", "web-0", "--wait")
    assert result.exit_code == 0
    told = result.stdout.splitlines()
    assert told[0] == "migration.kubeferry.io/move created"
    assert [line.split("  ")[1] for line in told[1:]] == ["Sealing", "Activating", "AwaitingDecision"]
    assert room.asked[1:] == [GET] * 4


def test_a_migration_that_fails_ends_it_with_1_and_says_why(room: Room, run: Run) -> None:
    room.answers(migration(), failed())
    result = run("migrate", "web-0", "--wait")
    assert result.exit_code == 1
    assert "Succeeded  NoFeasibleNode: 0 of 3 nodes are feasible" in result.stderr


@pytest.mark.parametrize(
    ("command", "end", "code"),
    [("confirm", confirmed, 0), ("revert", reverted, 0), ("confirm", reverted, 1), ("revert", confirmed, 1), ("revert", failed, 1)],
)
def test_who_waits_for_a_decision_to_be_carried_out_learns_whether_it_was(
    room: Room, run: Run, command: str, end: Callable[[], Migration], code: int
) -> None:
    room.answers("patched", at(None), end())
    result = run(command, "move", "--wait")
    assert result.exit_code == code
    assert ("Phase" in result.stderr) == bool(code)


def test_status_tells_a_page_and_with_watch_it_goes_on(room: Room, run: Run) -> None:
    room.answers(at(Verb.SEAL))
    assert "Phase      Sealing" in run("status", "move").stdout
    room.answers(at(Verb.SEAL), at(None))
    result = run("status", "move", "--watch", "-n", "shop")
    assert result.exit_code == 0
    assert "Next       kubectl ferry confirm move -n shop" in result.stdout
    assert room.asked[-1] == [*GET, "--namespace=shop"]


def test_status_without_a_name_is_kubectls_table(room: Room, run: Run) -> None:
    run("status", "-A", "-w")
    assert room.asked == [["get", "migrations.kubeferry.io", "-A", "-w"]]


def test_kubectls_refusal_is_the_last_word(room: Room, run: Run) -> None:
    refusal = 'error: migrations.kubeferry.io "move" not found'
    room.answers(refusal)
    result = run("status", "move")
    assert (result.exit_code, result.stderr, result.stdout) == (1, f"{refusal}\n", "")


def test_what_kubectl_has_said_itself_is_not_said_again(room: Room, run: Run) -> None:
    room.answers('error: migrations.kubeferry.io "move" not found')
    result = run("confirm", "move")
    assert (result.exit_code, result.stderr) == (1, "")


def test_without_kubectl_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("confirm", "move")
    assert (result.exit_code, result.stderr) == (NOT_FOUND, "kubectl is not on the PATH: this is a plugin of it\n")


def test_who_presses_ctrl_c_gets_no_traceback(room: Room, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    room.answers(at(Verb.SEAL))
    result = run("status", "move", "--watch")
    assert (result.exit_code, result.stderr) == (ferry.INTERRUPTED, "")


def test_on_a_terminal_the_line_is_drawn_anew(room: Room, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ferry, "_is_terminal", lambda: True)
    room.answers(at(Verb.SEAL), at(Verb.COPY), at(None))
    told = run("status", "move", "-w").stdout
    assert told.count("\r\x1b[Kmove  ") == 2
    assert "\r\x1b[Kmove  AwaitingDecision  a -> b\n" in told


@pytest.mark.parametrize(
    "words", [("migrate",), ("migrate", "web-0", "--then", "Maybe"), ("decide", "move"), ("confirm", "move", "--dry-run=x")]
)
def test_what_is_not_said_rightly_is_no_command(room: Room, run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
    assert not (room.path / "asked").exists()


def test_the_plugin_needs_neither_libvirt_nor_kopf_nor_ssh_nor_a_client() -> None:
    script = "import sys, kubeferry.cli.ferry; print(sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    heavy = ["libvirt", "kopf", "paramiko", "kubernetes", "aiohttp", "prometheus_client"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
