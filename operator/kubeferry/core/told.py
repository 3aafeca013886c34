"""Conditions as a projection computes them, before they have a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kubeferry.api import reasons
from kubeferry.api.meta import Condition, Status, with_condition


@dataclass(frozen=True, slots=True)
class Told:
    """One condition, before it has a time."""

    status: Status
    reason: str
    message: str = ""


QUIET = Told(Status.FALSE, reasons.AS_EXPECTED, "nothing is to be done by a human")


def moment(time: datetime) -> str:
    """A time in UTC, as messages tell it."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def tell(conditions: tuple[Condition, ...], told: Mapping[str, Told], generation: int | None, now: datetime) -> tuple[Condition, ...]:
    """`conditions` with those that are told, by type."""
    for kind, c in told.items():
        conditions = with_condition(conditions, kind, c.status, c.reason, c.message, generation, now)
    return conditions
