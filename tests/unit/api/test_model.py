"""Models: what the API server sends and takes."""

import pytest
from builders import UID, placement, vm_body
from pydantic import ValidationError

from kubeferry.api.meta import Meta, Status, condition, with_condition
from kubeferry.api.model import dump, load
from kubeferry.api.placement import Placement, PlacementSpec
from kubeferry.api.virtualmachine import VirtualMachine


def test_a_placement_survives_the_way_to_the_api_server_and_back() -> None:
    spec = placement().spec
    assert load(PlacementSpec, dump(spec)) == spec
    assert dump(spec)["virtualMachine"]["name"] == "web-0"
    assert "lock" not in dump(spec)


def test_a_journalled_time_is_rfc_3339_in_utc() -> None:
    assert dump(placement().spec)["steps"][0]["startedAt"] == "2026-01-01T12:00:00.000000Z"


def test_unknown_fields_of_a_newer_server_are_left_out() -> None:
    body = vm_body()
    body["spec"]["somethingNew"] = 1
    assert load(VirtualMachine, body).metadata == Meta(name="web-0", namespace="shop", uid=UID, generation=1, resource_version="7")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "runStrategy"), "Sometimes"),
        (("spec", "template", "spec", "domain", "memory", "guest"), "lots"),
        (("spec", "template", "spec", "domain", "cpu", "cores"), 0),
        (("spec", "template", "spec", "domain", "firmware", "kernelBoot", "kernelPath"), "relative"),
        (("spec", "template", "spec", "domain", "firmware", "kernelBoot", "kernelPath"), "/images/vm\0linuz"),
        (("spec", "template", "spec", "domain", "firmware", "kernelBoot", "kernelPath"), "/images/vmlinuz\n"),
        (("spec", "template", "spec", "volumes", 0, "name"), "../../etc"),
        (("metadata", "name"), None),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_by_name(path: tuple[str | int, ...], value: object) -> None:
    body = vm_body()
    at: object = body
    for key in path[:-1]:
        at = at[key]  # type: ignore[index]
    at[path[-1]] = value  # type: ignore[index]
    with pytest.raises(ValidationError, match=str(path[-1])):
        load(VirtualMachine, body)


def test_a_placement_is_named_by_the_vm_and_no_path_can_hide_in_it() -> None:
    body = {"metadata": {"name": UID}, "spec": dump(placement().spec)}
    body["spec"]["virtualMachine"]["uid"] = "../x"
    with pytest.raises(ValidationError):
        load(Placement, body)


def test_a_message_that_is_too_long_is_cut_and_not_refused() -> None:
    from builders import NOON

    (told,) = with_condition((), "Ready", Status.FALSE, "Because", "x" * 9000, 1, NOON)
    assert len(told.message) == 4096
    assert condition((told,), "Ready") == told
