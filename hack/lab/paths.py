"""Where the lab finds its own files and keeps what it makes."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]


def cache() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/kubeferry`: tools, guest files and labs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubeferry"


def labs() -> Path:
    """The directory that holds one directory per lab."""
    return cache() / "labs"
