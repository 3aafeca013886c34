"""Where the lab finds its own files and keeps what it makes."""

import os
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]
LAB_NAME = re.compile(r"lab-[0-9]+")


def cache() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/kubeferry`: tools, guest files and labs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubeferry"


def labs() -> Path:
    """The directory that holds one directory per lab."""
    return cache() / "labs"


def lab_name(slot: int) -> str:
    """The name of the lab in a slot, and of its directory in `labs()`: `lab-N`."""
    return f"lab-{slot}"
