"""Kubernetes quantities of bytes (apimachinery's `resource.Quantity`): whole numbers with its decimal and binary suffixes."""

import re

_FACTORS = {"": 1} | {
    prefix + suffix: base**power
    for suffix, base, prefixes in (("i", 1024, "KMGTP"), ("", 1000, "kMGTP"))
    for power, prefix in enumerate(prefixes, start=1)
}
QUANTITY_PATTERN = f"^[1-9][0-9]*({'|'.join(filter(None, _FACTORS))})?$"
"""What is taken in a spec: no zero, and no fraction, so that it is always a whole number of bytes."""

_QUANTITY = re.compile(r"([0-9]+)([A-Za-z]*)")


def quantity(count: int) -> str:
    """A number of bytes as people write it, exactly: `"512Mi"`."""
    binary = ((factor, suffix) for suffix, factor in _FACTORS.items() if suffix in ("", f"{suffix[:-1]}i"))
    factor, suffix = max((factor, suffix) for factor, suffix in binary if count % factor == 0)
    return f"{count // factor}{suffix}"


def parse_quantity(value: object) -> object:
    """The whole bytes that a quantity stands for: `"512Mi"`, `"10G"`, or the number itself.

    What is no string is given back as it is, for pydantic to judge.

    Raises:
        ValueError: it is no whole number with a known suffix.
    """
    if not isinstance(value, str):
        return value
    match = _QUANTITY.fullmatch(value)
    if match is None or match[2] not in _FACTORS:
        expected = ", ".join(filter(None, _FACTORS))
        raise ValueError(f"{value!r} is no quantity of bytes: a whole number with one of the suffixes {expected} or none was expected")
    return int(match[1]) * _FACTORS[match[2]]
