"""What every model of the API is made of.

A model is a frozen, slotted pydantic dataclass. It is three things at once, so that they cannot drift apart: the source
of the CRD's schema (`hack/generate.py`), the parser of what the API server sends, and the value that `core` computes with.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass

from kubeferry.api.quantity import QUANTITY_PATTERN, parse_quantity

T = TypeVar("T")

VALIDATIONS = "x-kubernetes-validations"
_CONFIG = ConfigDict(alias_generator=to_camel, populate_by_name=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What the API server refuses beyond what a schema can say, in CEL (`x-kubernetes-validations`, KEP-2876).

    `self` is the value of the model that bears the rule; a rule that names `oldSelf` is asked of updates alone.
    """

    rule: str
    message: str = ""
    """What is wrong and what to do, or in its place:"""
    expression: str = ""
    """CEL that gives the message."""
    path: str = ""
    """The field that is to blame, below the model: `.targetNode`."""

    def body(self) -> JsonDict:
        """The rule as a CustomResourceDefinition takes it."""
        named = {"message": self.message, "messageExpression": self.expression, "fieldPath": self.path}
        return {"rule": self.rule, **{key: value for key, value in named.items() if value}}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def model_with(*rules: Rule) -> Callable[[type[T]], type[T]]:
    """Make a class a model whose values the API server checks by these rules."""
    config = _CONFIG | ConfigDict(json_schema_extra={VALIDATIONS: [rule.body() for rule in rules]}) if rules else _CONFIG

    def make(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, slots=True, kw_only=True, config=config)(cls)
        return cast(type[T], made)

    return make


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def model(cls: type[T]) -> type[T]:
    """Make `cls` a model: frozen, slotted, keyword-only, its JSON names in lowerCamelCase."""
    return model_with()(cls)


adapter = cast(Callable[[Any], TypeAdapter[Any]], cache(TypeAdapter))
"""The parser and serializer of a model, made once."""


def load(kind: type[T], body: Mapping[str, Any] | str | bytes) -> T:
    """Parse what the API server or a journal holds; unknown fields are left out.

    Args:
        kind: a model.
        body: a decoded object, or JSON text.

    Raises:
        pydantic.ValidationError: a field is missing or out of its bounds; the message names it.
    """
    parser = adapter(kind)
    value: T = parser.validate_json(body) if isinstance(body, str | bytes) else parser.validate_python(body)
    return value


def dump(value: object) -> dict[str, Any]:
    """The JSON object of a model as the API server takes it; fields without a value are left out."""
    body: dict[str, Any] = adapter(type(value)).dump_python(value, mode="json", by_alias=True, exclude_none=True)
    return body


def schema(kind: type) -> dict[str, Any]:
    """The JSON schema of a model, with `$defs`."""
    return adapter(kind).json_schema(by_alias=True)


def immutable(*fields: str) -> tuple[Rule, ...]:
    """Rules that keep fields of a spec as they were created.

    They belong to the model that holds the fields: a rule of the field itself is not asked when an optional one is added or removed.
    """
    return tuple(
        Rule(
            f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            message=f"{name} is immutable: it can be neither set, changed nor removed after creation",
            path=f".{name}",
        )
        for name in fields
    )


def label_keys(name: str) -> Rule:
    """The rule that the keys of a NodeSelector are keys of labels: a schema can't say that of a map."""
    form = r"^([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    return Rule(
        f"!has(self.{name}) || self.{name}.all(key, key.size() <= 317 && key.matches('{form}'))",
        message=f"{name} has a key that no label can have: it is [PREFIX/]NAME, as in `kubectl label`",
        path=f".{name}",
    )


def list_map(key: str) -> JsonDict:
    """What marks a list as a map by that field (`x-kubernetes-list-type`): for `Field(json_schema_extra=...)`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def rfc3339(time: AwareDatetime) -> str:
    """A moment in UTC as the API server takes it (`metav1.MicroTime`)."""
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


Time = Annotated[AwareDatetime, PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 40})]
"""A moment, RFC 3339, in UTC."""


def _int_or_string(schema: dict[str, Any]) -> None:
    del schema["type"]
    schema |= {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
        "maxLength": 32,
        "pattern": QUANTITY_PATTERN,
    }


Bytes = Annotated[int, BeforeValidator(parse_quantity), Field(ge=0, json_schema_extra=_int_or_string)]
"""A number of whole bytes, written as a quantity (`10Gi`)."""

Int = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Uid = Annotated[str, Field(max_length=64, pattern=r"^[0-9A-Za-z-]+$")]
"""The uid of an object, a host, a boot or an epoch: it becomes a file name, so nothing but letters, digits and dashes."""
Name = Annotated[str, Field(min_length=1, max_length=253)]
Label = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""An RFC 1123 label: it becomes a file name, too."""
Reason = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
MESSAGE_LENGTH = 4096
Message = Annotated[str, Field(max_length=MESSAGE_LENGTH)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
"""A BLAKE3 hash in hexadecimal digits."""
NodeSelector = Annotated[
    dict[str, Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]], Field(max_length=16)
]
"""Labels of a Node by key, all of which it must have (core/v1's nodeSelector)."""
HostFile = Annotated[str, Field(min_length=2, max_length=1024, pattern=r"^/[^\x00-\x1f\x7f]+$")]
"""An absolute path on a hypervisor, without control characters: no system call takes a NUL, and no log should print the others."""
