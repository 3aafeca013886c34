"""What `KUBEBUILDER_ASSETS` (envtest's convention) holds: binaries that need not be built here, where they are of a version that fits."""

import os
import re
from pathlib import Path

from lab.steps import LabError, run

VARIABLE = "KUBEBUILDER_ASSETS"

_TELL_VERSION = {"etcd": ["--version"], "kube-apiserver": ["--version"], "kubectl": ["version", "--client"]}
"""How each of envtest's binaries is asked; it holds no others."""
_VERSION = re.compile(r"\bv?(\d+\.\d+)\.\d+\b")
_SECONDS = 30.0


def found(name: str, wanted: str) -> Path | None:
    """The binary of that name there; None: there is none, or it is of another minor version.

    Args:
        name: of the tool.
        wanted: version that the lab would build, as `v1.N.N`.
    """
    directory = os.environ.get(VARIABLE)
    if not directory or name not in _TELL_VERSION:
        return None
    path = Path(directory).absolute() / name
    return path if path.is_file() and _minor(path) == wanted.removeprefix("v").rpartition(".")[0] else None


def _minor(path: Path) -> str | None:
    """Major and minor version that a binary tells; None: it can't be run, or tells none."""
    try:
        told = _VERSION.search(run([path, *_TELL_VERSION[path.name]], seconds=_SECONDS).stdout)
    except (LabError, OSError):
        return None
    return None if told is None else told[1]
