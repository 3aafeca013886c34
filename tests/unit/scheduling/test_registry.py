"""What there is to run, and the profile that is made of it."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from kubeferry.scheduling.allocation import Allocation, Allocations
from kubeferry.scheduling.registry import FILTER_NAMES, FILTERS, WEIGHERS, Profile, profile

ALLOCATIONS = Allocations(Allocation(4000, 0), Allocation(1000, 1), Allocation(1000, 2))


def made(filters: Collection[str] = FILTER_NAMES, multipliers: Mapping[str, int] | None = None) -> Profile:
    return profile(filters, multipliers or {}, ALLOCATIONS)


def told(of: Profile) -> tuple[list[str], dict[str, int]]:
    return [each.name for each in of.filters], {weigher.name: multiplier for weigher, multiplier in of.weighers}


def test_the_registry_lists_every_filter_and_weigher_in_the_order_of_the_table() -> None:
    assert [of.name for of in FILTERS] == [
        "Ready",
        "Schedulable",
        "NodeSelector",
        "TargetNode",
        "Retry",
        "StaleCopy",
        "SourceNode",
        "Architecture",
        "MachineType",
        "Network",
        "CPU",
        "Memory",
        "Disk",
    ]
    assert [of.name for of in WEIGHERS] == ["RAM", "CPU", "Disk"]


def test_a_profile_has_what_it_was_told_the_filters_in_the_order_of_the_registry() -> None:
    assert told(made(filters=("Disk", "Ready", "CPU"), multipliers={"CPU": -3, "Disk": 0})) == (
        ["Ready", "CPU", "Disk"],
        {"RAM": 1, "CPU": -3, "Disk": 0},
    )
    assert made().allocations == ALLOCATIONS
    assert told(made()) == (list(FILTER_NAMES), {"RAM": 1, "CPU": 1, "Disk": 1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"filters": ("Ready", "Weather", "Moon")},
            "there is no filter Weather, Moon: there are Ready, Schedulable, NodeSelector,",
        ),
        ({"filters": ("RAM",)}, "there is no filter RAM"),
        ({"multipliers": {"Memory": 2}}, "there is no weigher Memory: there are RAM, CPU, Disk"),
    ],
)
def test_what_there_is_not_is_refused_and_what_there_is_is_told(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(**change)
