"""Allocation ratios and reserves, in whole numbers."""

import pytest

from kubeferry.scheduling.allocation import Allocation
from kubeferry.scheduling.snapshot import Supply


@pytest.mark.parametrize(
    ("ratio", "reserved", "total", "given"),
    [
        (1000, 0, 8, 8),
        (4000, 0, 8, 32),
        (4000, 1, 8, 28),
        (1500, 0, 3, 4),
        (1999, 0, 1, 1),
        (500, 0, 3, 1),
        (1, 0, 999, 0),
        (1, 0, 1000, 1),
        (1000, 3, 8, 5),
        (1000, 8, 8, 0),
        (1000, 9, 8, 0),
        (1500, 9, 8, 0),
        (1000, 1, (1 << 60) + 1, 1 << 60),
        (1001, 0, 1000 << 50, 1001 << 50),
    ],
)
def test_what_is_given_is_what_is_there_without_the_reserve_times_the_ratio_rounded_down(
    ratio: int, reserved: int, total: int, given: int
) -> None:
    assert Allocation(ratio, reserved).supply(total, 5) == Supply(total=given, held=5)


def test_what_is_not_told_stays_untold() -> None:
    assert Allocation(4000, 1).supply(None, 5) == Supply(total=None, held=5)


@pytest.mark.parametrize(("total", "held", "free"), [(8, 3, 5), (8, 8, 0), (8, 9, -1), (None, 3, -3)])
def test_free_is_what_is_not_held(total: int | None, held: int, free: int) -> None:
    assert Supply(total, held).free == free


def test_a_disk_without_overcommitment_has_free_what_its_file_system_has_free_less_the_reserve_and_what_is_awaited() -> None:
    total, free, filling = 100, 40, 15
    assert Allocation(1000, 7).supply(total, total - free + filling).free == free - filling - 7
