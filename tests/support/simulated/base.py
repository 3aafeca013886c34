"""What the parts of the world share."""

import random
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kubeferry.api.migration import Migration
from simulated.api import Api
from simulated.profiles import Weights

if TYPE_CHECKING:
    from simulated.controller import Controller
    from simulated.host import SimHost

NAMES = ("a", "b", "c")
VMS = ("vm-0", "vm-1")


class Base:
    """State of a run."""

    rng: random.Random
    profile: Weights
    without: frozenset[str]
    log: Callable[[str], None] | None
    api: Api
    hosts: dict[str, "SimHost"]
    controllers: list["Controller"]
    paused: "Controller | None"
    backups: list[dict[type, dict[str, Any]]]
    now: float
    made: int
    vanished: dict[str, Migration]
    restored: bool
    fenced: set[str]
    deleted: set[str]

    def time(self) -> datetime:
        raise NotImplementedError

    def number(self) -> int:
        raise NotImplementedError
