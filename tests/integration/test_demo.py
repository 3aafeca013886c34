"""`make demo`, as the README tells a newcomer to run it."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run(script: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    path = f"{REPOSITORY}/hack:{REPOSITORY}/operator"
    return subprocess.run(
        [sys.executable, *script],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_demo_shows_every_step_and_cleans_up() -> None:
    shown = run(["hack/demo.py"])
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for words in (
        "console of the guest on worker-1: GUEST boot=1 marker=worker-1",
        "migration.kubeferry.io/web-0-move created",
        "GUEST boot=2 marker=worker-1",
        "AwaitingDecision",
        '"digest":"',
        "migration.kubeferry.io/web-0-move patched",
        "Confirmed",
        "migration.kubeferry.io/web-0-back-out created",
        "Reverted",
        "is gone",
        "one QEMU process runs it there",
        "everything is removed again",
    ):
        assert words in shown.stdout
    # Once at the target of the second move, and once more after its revert: that boot was counted on a disk that is given up.
    assert shown.stdout.count("GUEST boot=3 marker=worker-1") == 2
    # Two moves, each with the bar of its copy until that was whole.
    assert shown.stdout.count("  copied [########################] 100%  ") >= 2


def test_a_demo_that_is_kept_can_be_gone_on_with_until_it_is_cleaned(tmp_path: Path) -> None:
    shown = run(["hack/demo.py"], KEEP="1")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    kubeconfig = Path(shown.stdout.splitlines()[-1].removeprefix("export KUBECONFIG="))
    lab = kubeconfig.parent.name
    try:
        assert "current-context" in kubeconfig.read_text()
    finally:
        removed = run(["-m", "lab", "clean", lab])
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert not kubeconfig.parent.exists()
