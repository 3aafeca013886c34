"""The filters that look for room: what fits to the last byte, what does not, and who is told to hold it."""

import dataclasses
from datetime import UTC, datetime

import pytest
from pass_values import CANDIDATE, REQUEST

from kubeferry.api import reasons
from kubeferry.scheduling.filters import Filter, Reject
from kubeferry.scheduling.room import Cpu, Disk, Memory, readable
from kubeferry.scheduling.snapshot import Candidate, Holder, Request, Supply

GIB = 1 << 30
NOTHING = Supply(total=None, held=0)
ROOM: list[tuple[Filter, str]] = [
    (Cpu(), reasons.INSUFFICIENT_CPU),
    (Memory(), reasons.INSUFFICIENT_MEMORY),
    (Disk(), reasons.INSUFFICIENT_DISK),
]


def node(supply: Supply, *holders: Holder, processors: int | None = 1 << 63) -> Candidate:
    """A node that has the same of everything."""
    return dataclasses.replace(CANDIDATE, processors=processors, cpu=supply, memory=supply, disk=supply, holders=holders)


def request(asked: int) -> Request:
    """A VM that needs the same of everything."""
    return dataclasses.replace(REQUEST, cpus=asked, memory=asked, bytes=asked)


def holder(name: str, amount: int, since: datetime | None = None) -> Holder:
    return Holder(name, since, cpus=amount, memory=amount, disk=amount)


def message(of: Filter, supply: Supply, asked: int, *holders: Holder) -> str:
    reject = of.check(node(supply, *holders), request(asked))
    assert reject is not None
    return reject.message


@pytest.mark.parametrize(("of", "reason"), ROOM, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize(
    ("total", "held", "asked", "fits"),
    [
        (8, 0, 8, True),
        (8, 0, 9, False),
        (8, 5, 3, True),
        (8, 5, 4, False),
        (8, 8, 1, False),
        (8, 9, 1, False),
        (0, 0, 1, False),
        (1 << 62, 0, 1 << 62, True),
        ((1 << 62) + 1, 1, (1 << 62) + 1, False),
        (None, 0, 1, False),
    ],
)
def test_a_vm_fits_if_what_it_asks_for_is_left(of: Filter, reason: str, total: int | None, held: int, asked: int, fits: bool) -> None:
    reject = of.check(node(Supply(total, held)), request(asked))
    assert (reject.reason if reject is not None else None) == (None if fits else reason)


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (Cpu(), "its agent does not tell of its CPUs, 4 asked"),
        (Memory(), "its agent does not tell of its memory, 4 asked"),
        (Disk(), "its agent does not tell of its disk, 4 asked"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_node_that_does_not_tell_what_it_has_is_rejected_and_that_is_said(of: Filter, says: str) -> None:
    assert message(of, NOTHING, 4, holder("shop/web-0", 1)) == says


def test_each_filter_looks_at_its_own_resource() -> None:
    plenty, spent = Supply(100, 0), Supply(100, 100)
    found = {}
    for of, _ in ROOM:
        for name in ("cpu", "memory", "disk"):
            have = {"cpu": plenty, "memory": plenty, "disk": plenty} | {name: spent}
            found[of.name, name] = of.check(dataclasses.replace(CANDIDATE, processors=101, **have), request(1)) is None
    assert [pair for pair, fits in found.items() if not fits] == [("CPU", "cpu"), ("Memory", "memory"), ("Disk", "disk")]
    for i, (of, _) in enumerate(ROOM):
        name = ("cpus", "memory", "bytes")[i]
        assert of.check(node(plenty), dataclasses.replace(request(0), **{name: 101})) is not None
        assert of.check(node(plenty), dataclasses.replace(request(101), **{name: 0})) is None


def test_a_lack_is_told_with_what_is_free_what_is_asked_and_who_holds_most() -> None:
    since = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    supply = Supply(total=64 * GIB, held=62 * GIB)
    who = (holder("shop/web-0-move", 12 * GIB, since), holder("shop/db-1", 50 * GIB))
    lacks = "2Gi of 64Gi {} free, 16Gi asked: 50Gi held by shop/db-1, 12Gi held by shop/web-0-move, awaiting its decision since 2026-01-31"
    assert message(Memory(), supply, 16 * GIB, *who) == lacks.format("memory")
    assert message(Disk(), supply, 16 * GIB, *who) == lacks.format("disk")
    assert message(Cpu(), Supply(total=1024, held=1023), 2, holder("shop/a", 1023)) == "1 of 1024 CPUs free, 2 asked: 1023 held by shop/a"


def test_three_holders_are_named_at_most_equals_by_name() -> None:
    who = [holder(f"shop/{name}", amount) for name, amount in (("d", 1), ("c", 2), ("b", 2), ("a", 2), ("e", 3))]
    assert message(Cpu(), Supply(10, 10), 1, *who).partition(": ")[2] == "3 held by shop/e, 2 held by shop/a, 2 held by shop/b"


def test_who_holds_nothing_is_not_named_and_nobody_if_nobody_does() -> None:
    assert message(Disk(), Supply(10, 10), 1, holder("shop/a", 0), holder("shop/b", 1)) == "0 of 10 disk free, 1 asked: 1 held by shop/b"
    assert message(Disk(), Supply(10, 10), 1, holder("shop/a", 0)) == "0 of 10 disk free, 1 asked"


def test_a_node_that_is_overfull_has_nothing_free() -> None:
    assert message(Cpu(), Supply(total=4, held=6), 1) == "0 of 4 CPUs free, 1 asked"


def test_a_vm_gets_no_more_cpus_than_its_node_has_processors_however_often_they_are_given_out() -> None:
    plenty = Supply(total=16, held=0)
    assert Cpu().check(node(plenty, processors=4), request(4)) is None
    says = "it has 4 processors, no VM gets more CPUs there, 5 asked"
    assert Cpu().check(node(plenty, processors=4), request(5)) == Reject(reasons.INSUFFICIENT_CPU, says)
    assert [of.check(node(plenty, processors=4), request(5)) for of in (Memory(), Disk())] == [None, None]


@pytest.mark.parametrize(
    ("amount", "down", "up"),
    [
        (0, "0", "0"),
        (1, "1", "1"),
        (1023, "1023", "1023"),
        (1024, "1Ki", "1Ki"),
        (1025, "1Ki", "1.1Ki"),
        (1536, "1.5Ki", "1.5Ki"),
        (512 << 20, "512Mi", "512Mi"),
        (12 * GIB, "12Gi", "12Gi"),
        (12 * GIB - 1, "11.9Gi", "12Gi"),
        (12 * GIB + 1, "12Gi", "12.1Gi"),
        (GIB - 1, "1023.9Mi", "1024Mi"),
        (3 << 40, "3Ti", "3Ti"),
        (5 << 50, "5Pi", "5Pi"),
        (5 << 60, "5120Pi", "5120Pi"),
    ],
)
def test_bytes_are_written_in_the_largest_binary_unit_to_a_tenth(amount: int, down: str, up: str) -> None:
    assert (readable(amount), readable(amount, up=True)) == (down, up)


@pytest.mark.parametrize("free", [1, 1000, 1024, 1 << 20, 12 * GIB, 12 * GIB + 1, (1 << 40) - 1, 1 << 40])
def test_a_byte_that_is_lacking_can_be_seen(free: int) -> None:
    said = message(Memory(), Supply(total=free, held=0), free + 1)
    assert f"{readable(free)} of {readable(free)} memory free, {readable(free + 1, up=True)} asked" == said
    assert readable(free) != readable(free + 1, up=True)
