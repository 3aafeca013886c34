"""Quantities of bytes."""

import pytest

from kubeferry.api.quantity import parse_quantity, quantity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1", 1),
        ("512Mi", 512 << 20),
        ("10Gi", 10 << 30),
        ("1k", 1000),
        ("2M", 2_000_000),
        ("3Ti", 3 << 40),
        ("1P", 10**15),
        (7, 7),
    ],
)
def test_a_quantity_is_a_whole_number_of_bytes(text: object, expected: int) -> None:
    assert parse_quantity(text) == expected


@pytest.mark.parametrize("text", ["", "Mi", "1.5Gi", "-1Gi", "1 Gi", "1gi", "1K", "1e3", "0x10"])
def test_what_is_no_whole_number_with_a_known_suffix_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity of bytes"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1"), (1023, "1023"), (1024, "1Ki"), (1536 << 20, "1536Mi"), (1 << 30, "1Gi"), (10**9, "1000000000")]
)
def test_a_number_of_bytes_is_written_exactly(count: int, text: str) -> None:
    assert (quantity(count), parse_quantity(text)) == (text, count)
