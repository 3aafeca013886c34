"""Metadata and conditions, as in every Kubernetes object."""

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.model import MESSAGE_LENGTH, Int, Time, list_map, model


@model
class Meta:
    """The part of an object's metadata that kubeferry reads (`metav1.ObjectMeta`)."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None


class Status(StrEnum):
    """The status of a condition; Unknown is not False."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@model
class Condition:
    """One aspect of an object's state (`metav1.Condition`)."""

    type: Annotated[str, Field(min_length=1, max_length=128, description="Which aspect of the state this tells.")]
    status: Annotated[Status, Field(description="True, False or Unknown.")]
    reason: Annotated[
        str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z][A-Za-z0-9]*$", description="Why, as one documented CamelCase word.")
    ]
    message: Annotated[str, Field(max_length=MESSAGE_LENGTH, description="What was seen, what was expected, and what to do.")] = ""
    last_transition_time: Annotated[Time, Field(description="When the status changed last.")]
    observed_generation: Annotated[Int | None, Field(ge=0, description="The metadata.generation that this was told of.")] = None


Conditions = Annotated[tuple[Condition, ...], Field(max_length=32, description="Aspects of the state.", json_schema_extra=list_map("type"))]
"""The conditions of an object, one of each type."""


def condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, if it is set."""
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is set, and True."""
    found = condition(conditions, kind)
    return found is not None and found.status == Status.TRUE


def with_condition(
    conditions: tuple[Condition, ...], kind: str, status: Status, reason: str, message: str, generation: int | None, now: datetime
) -> tuple[Condition, ...]:
    """`conditions` with one more or newer; its transition time moves only when its status does (apimachinery's `SetStatusCondition`).

    `generation` is None for what no spec asks for: a condition that tells of an older generation than the object's is waited for.
    """
    old = condition(conditions, kind)
    since = old.last_transition_time if old is not None and old.status == status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:MESSAGE_LENGTH],
        last_transition_time=since,
        observed_generation=generation,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if c.type == kind else c for c in conditions)
