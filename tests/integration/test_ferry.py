"""`kubectl ferry` as a plugin of the real kubectl, on a real API server; and once with a VM that moves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab_vm import Migration, boot_vm

from kubeferry.api import reasons
from lab import toolchain
from lab.lab import Lab

PLUGIN = Path(sys.executable).parent / "kubectl-ferry"


class Shell:
    """A user with kubectl and its plugin on the PATH, whose context names a namespace."""

    def __init__(self, lab: Lab, namespace: str, home: Path) -> None:
        self.namespace = namespace
        config = home / "kubeconfig"
        shutil.copy(lab.kubeconfig(), config)
        path = f"{toolchain.ensure()}:{PLUGIN.parent}:{os.environ['PATH']}"
        self._environment = {"PATH": path, "KUBECONFIG": str(config), "HOME": str(home), "KUBECACHEDIR": str(home / "cache")}
        self.run("config", "set-context", "--current", f"--namespace={namespace}")

    def run(self, *words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run kubectl."""
        return subprocess.run(
            ["kubectl", *words], env=self._environment, input=stdin, capture_output=True, text=True, timeout=150, check=False
        )

    def does(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl prints when it goes well."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture
def shell(api: Lab, room: str, tmp_path: Path) -> Shell:
    return Shell(api, room, tmp_path)


def test_it_creates_what_it_shows_and_writes_in_its_own_name(shell: Shell) -> None:
    words = ("ferry", "migrate", "web-0", "--to", "worker-2", "--decide-after", "60", "--then", "Revert")
    manifest = shell.does(*words, "--dry-run=client", "-o", "yaml")
    assert "generateName: web-0-" in manifest
    assert "resources found" in shell.run("get", "fmig").stderr
    created = shell.does(*words)
    assert created.startswith("migration.kubeferry.io/web-0-")
    assert created.endswith(" created\n")
    shell.does("create", "-f", "-", stdin=manifest)
    first, second = json.loads(shell.does("get", "fmig", "-o", "json", "--show-managed-fields"))["items"]
    assert first["spec"] == second["spec"]
    assert first["spec"].items() >= {"targetNode": "worker-2", "decisionTimeoutSeconds": 60, "onDecisionTimeout": "Revert"}.items()
    assert {first["metadata"]["managedFields"][0]["manager"], second["metadata"]["managedFields"][0]["manager"]} == {
        "kubectl-ferry",
        "kubectl-create",
    }


def test_it_decides_and_shows_before_that_what_it_would_write(shell: Shell) -> None:
    shell.does("ferry", "migrate", "web-0", "--name", "move")
    assert "decision: Confirm" in shell.does("ferry", "confirm", "move", "--dry-run=client", "-o", "yaml")
    assert "decision" not in json.loads(shell.does("get", "fmig", "move", "-o", "json"))["spec"]
    assert shell.does("ferry", "revert", "move") == "migration.kubeferry.io/move patched\n"
    stored = json.loads(shell.does("get", "fmig", "move", "-o", "json", "--show-managed-fields"))
    assert stored["spec"]["decision"] == "Revert"
    assert "kubectl-ferry" in {field["manager"] for field in stored["metadata"]["managedFields"]}
    assert "nobody has looked at it yet" in shell.does("ferry", "status", "move")
    assert "move" in shell.does("ferry", "status")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status", "nobody"), 'migrations.kubeferry.io "nobody" not found'),
        (("confirm", "nobody", "--wait"), 'migrations.kubeferry.io "nobody" not found'),
        (("migrate", "web-0", "--decide-after", "60"), "decisionTimeoutSeconds and onDecisionTimeout come together"),
        (("migrate", "web-0", "--wait", "-n", "no-such-namespace"), 'namespaces "no-such-namespace" not found'),
        (("status", "move", "--context", "elsewhere"), "context was not found for specified context: elsewhere"),
        (("status", "--kubeconfig", "/no/such/file"), "/no/such/file: no such file"),
    ],
)
def test_what_is_refused_is_said_in_kubectls_words(shell: Shell, words: tuple[str, ...], says: str) -> None:
    done = shell.run("ferry", *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_vm_is_moved_looked_at_and_confirmed(lab: Lab, namespace: str, tmp_path: Path) -> None:
    vm = boot_vm(lab, namespace, "ferried", "worker-1")
    shell = Shell(lab, namespace, tmp_path)
    told = shell.does("ferry", "migrate", vm.name, "--name", "over", "--wait").splitlines()
    assert told[0] == "migration.kubeferry.io/over created"
    assert told[-1].startswith("over  AwaitingDecision  worker-1 -> ")
    page = shell.does("ferry", "status", "over")
    assert "Copy       [########################] 100%" in page
    assert f"Next       kubectl ferry confirm over -n {namespace}" in page
    assert shell.does("ferry", "confirm", "over", "--wait").splitlines()[-1].startswith("over  Confirmed  worker-1 -> ")
    late = shell.run("ferry", "revert", "over")
    assert (late.returncode, "the decision was taken: Confirm is final" in late.stderr) == (1, True)
    assert Migration(lab, namespace, "over").end() == ("Confirmed", "True", reasons.CONFIRMED)
