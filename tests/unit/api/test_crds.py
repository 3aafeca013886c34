"""The generated CustomResourceDefinitions: everything is bounded, explained, and of the shape that the API conventions ask for."""

from collections.abc import Iterator
from typing import Any

import pytest

from generate import crd
from kubeferry.api.model import VALIDATIONS
from kubeferry.api.resources import RESOURCES, Resource

Node = dict[str, Any]
ids = [resource.kind for resource in RESOURCES]


def version(resource: Resource) -> Node:
    (only,) = crd(resource)["spec"]["versions"]
    found: Node = only
    return found


def nodes(schema: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every field below a schema, by its path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from nodes(field, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield f"{path}[]", schema["items"]
        yield from nodes(schema["items"], f"{path}[]")


def fields(resource: Resource) -> list[tuple[str, Node]]:
    """Every field of spec and status."""
    whole = version(resource)["schema"]["openAPIV3Schema"]
    return [(path, node) for path, node in nodes(whole) if path.split(".")[1] not in ("apiVersion", "kind", "metadata")]


@pytest.mark.parametrize("resource", RESOURCES, ids=ids)
def test_kubectl_explains_every_field(resource: Resource) -> None:
    assert version(resource)["schema"]["openAPIV3Schema"]["description"]
    assert [path for path, node in fields(resource) if not path.endswith("[]") and not node.get("description")] == []


@pytest.mark.parametrize("resource", RESOURCES, ids=ids)
def test_every_string_and_list_is_bounded(resource: Resource) -> None:
    """CEL has a cost budget, and etcd a size limit."""

    def open_ended(node: Node) -> bool:
        if node.get("type") == "array":
            return "maxItems" not in node
        if node.get("type") == "string" or node.get("x-kubernetes-int-or-string"):
            return "maxLength" not in node and "enum" not in node
        if "additionalProperties" in node:
            return "maxProperties" not in node
        return node.get("x-kubernetes-preserve-unknown-fields", False)

    assert [path for path, node in fields(resource) if open_ended(node)] == []


@pytest.mark.parametrize("resource", RESOURCES, ids=ids)
def test_every_field_has_one_plain_type_and_no_fractions(resource: Resource) -> None:
    plain = {"string", "integer", "boolean", "object", "array"}
    assert [path for path, node in fields(resource) if node.get("type") not in plain and "x-kubernetes-int-or-string" not in node] == []


@pytest.mark.parametrize("resource", RESOURCES, ids=ids)
def test_conditions_are_a_map_by_their_type(resource: Resource) -> None:
    for path, node in fields(resource):
        if path.endswith(".conditions"):
            assert (node["x-kubernetes-list-type"], node["x-kubernetes-list-map-keys"]) == ("map", ["type"])


@pytest.mark.parametrize("resource", RESOURCES, ids=ids)
def test_every_rule_says_what_is_wrong(resource: Resource) -> None:
    whole = version(resource)["schema"]["openAPIV3Schema"]
    rules = [rule for _, node in [("", whole), *nodes(whole)] for rule in node.get(VALIDATIONS, [])]
    assert all(("message" in rule) != ("messageExpression" in rule) for rule in rules)
    if resource.kind != "ComputeNode":
        assert rules


@pytest.mark.parametrize("resource", RESOURCES, ids=ids)
def test_columns_and_selectors_name_fields_that_are_there(resource: Resource) -> None:
    known = {path for path, _ in fields(resource)} | {".metadata.creationTimestamp"}
    shown = [column["jsonPath"] for column in version(resource)["additionalPrinterColumns"]]
    chosen = [field["jsonPath"] for field in version(resource).get("selectableFields", [])]
    for path in (*shown, *chosen):
        plain = path.partition("[?(")[0] if "[?(" in path else path
        assert plain in known, path


def test_a_status_is_written_apart_from_its_spec_and_a_placement_has_none() -> None:
    assert {resource.kind for resource in RESOURCES if "subresources" not in version(resource)} == {"Placement"}


def test_a_computenode_needs_no_spec() -> None:
    required = {resource.kind: version(resource)["schema"]["openAPIV3Schema"].get("required", []) for resource in RESOURCES}
    assert required == {kind: [] if kind == "ComputeNode" else ["spec"] for kind in ids}
