"""A whole pass: who is left, in which order, and what people are told."""

import dataclasses
from typing import Any

import pytest
from pass_values import CANDIDATE, REQUEST

from kubeferry.api import reasons
from kubeferry.api.scheduling import RankedNode, RejectedNodes, Scheduling, Weight
from kubeferry.scheduling.filters import Filter, Reject
from kubeferry.scheduling.pipeline import EXPLANATION_LENGTH, FilterFailure, Left, Ranked, Rejection, Result, run
from kubeferry.scheduling.registry import FILTERS
from kubeferry.scheduling.snapshot import Candidate, Request, Snapshot, Supply
from kubeferry.scheduling.weighers import Cpu, Disk, Ram, Weigher

Weighers = tuple[tuple[Weigher, int], ...]
RAM: Weighers = ((Ram(), 1),)


def node(name: str, memory: int = 100, held: int = 0, **changes: Any) -> Candidate:
    return dataclasses.replace(CANDIDATE, name=name, memory=Supply(memory, held), **changes)


def choose(*candidates: Candidate, filters: tuple[Filter, ...] = FILTERS, weighers: Weighers = RAM, **ask: Any) -> Result:
    return run(Snapshot(candidates), dataclasses.replace(REQUEST, **ask), filters, weighers)


def order(result: Result) -> list[str]:
    return [each.name for each in result.feasible]


class Odd:
    """A filter that rejects some nodes, and fails on others."""

    name = "Odd"

    def __init__(self, rejects: str = "", fails: str = "") -> None:
        self.rejects, self.fails = rejects, fails
        self.asked: list[str] = []

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        self.asked.append(candidate.name)
        if candidate.name in self.fails:
            raise ValueError(f"odd {candidate.name}")
        return Reject("Odd", f"{candidate.name} is odd") if candidate.name in self.rejects else None


class Long:
    """A filter with much to say."""

    name = "Long"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        return Reject("Long", f"{candidate.name} is long: {candidate.name}")


class OfItsOwn:
    """A filter that has a reason of its own for each node."""

    name = "OfItsOwn"

    def check(self, candidate: Candidate, request: Request) -> Reject | None:
        return Reject(f"Reason{candidate.name}", "it is what it is")


class Fewer:
    """A weigher that packs: the more is held, the better."""

    name = "Fewer"

    def weigh(self, candidate: Candidate) -> int:
        return candidate.memory.held


def test_the_node_with_the_most_free_memory_is_the_best() -> None:
    result = choose(node("a"), node("b", 100, 60), node("c", 100, 10), node("d", 400, 390))
    assert result.feasible == (
        Ranked("c", 1000, (("RAM", 1000),)),
        Ranked("b", 375, (("RAM", 375),)),
        Ranked("d", 0, (("RAM", 0),)),
    )


@pytest.mark.parametrize(
    ("held", "weights"),
    [
        ((0, 1, 3), (1000, 666, 0)),
        ((0, 150, 300), (1000, 500, 0)),
        ((50, 50, 50), (0, 0, 0)),
        ((7,), (0,)),
        ((99 << 40, 0), (0, 1000)),
    ],
    ids=["thirds are rounded down", "held beyond what is there", "all alike", "alone", "terabytes"],
)
def test_weights_are_thousandths_between_the_worst_and_the_best(held: tuple[int, ...], weights: tuple[int, ...]) -> None:
    result = choose(*(node(f"n{i}", 100, each) for i, each in enumerate(held)), filters=())
    assert {each.name: each.score for each in result.feasible} == {f"n{i}": each for i, each in enumerate(weights)}


def test_a_rejected_node_does_not_count_in_the_weights_of_the_others() -> None:
    result = choose(node("a", memory=1 << 40), node("b", 100), node("c", 50))
    assert [(each.name, each.score) for each in result.feasible] == [("b", 1000), ("c", 0)]


def test_equals_are_taken_by_name_whatever_the_order_of_the_snapshot() -> None:
    assert order(choose(node("d"), node("b"), node("c"))) == ["b", "c", "d"]


def test_weights_are_multiplied_and_summed() -> None:
    result = choose(node("b", 100, 40), node("c", 100, 0), weighers=(*RAM, (Fewer(), 3)))
    assert result.feasible == (
        Ranked("b", 3000, (("RAM", 0), ("Fewer", 3000))),
        Ranked("c", 1000, (("RAM", 1000), ("Fewer", 0))),
    )
    assert order(choose(node("b", 100, 40), node("c", 100, 0), weighers=((Fewer(), -1),))) == ["c", "b"]


def test_each_weigher_looks_at_what_is_free_of_its_resource() -> None:
    few, many = Supply(total=4, held=0), Supply(total=100, held=95)
    weighers: Weighers = ((Ram(), 1), (Cpu(), 10), (Disk(), 100))
    assert choose(node("b", cpu=few), node("c", cpu=many), weighers=weighers).feasible[0] == Ranked(
        "c", 10_000, (("RAM", 0), ("CPU", 10_000), ("Disk", 0))
    )
    result = choose(node("b", disk=few), node("c", disk=many), weighers=weighers, bytes=1)
    assert [(each.name, each.score) for each in result.feasible] == [("c", 100_000), ("b", 0)]


def test_a_node_that_tells_nothing_weighs_as_if_it_had_nothing() -> None:
    untold = Supply(total=None, held=3)
    silent = dataclasses.replace(node("b"), cpu=untold, memory=untold, disk=untold)
    assert [of.weigh(silent) for of in (Ram(), Cpu(), Disk())] == [-3, -3, -3]


def test_without_weighers_nodes_stand_by_name() -> None:
    assert choose(node("c"), node("b"), weighers=()).feasible == (Ranked("b", 0, ()), Ranked("c", 0, ()))


def test_each_filter_is_asked_of_what_the_filters_before_it_left() -> None:
    first, second = Odd(rejects="ac"), Odd(rejects="b")
    result = choose(node("a"), node("b"), node("c"), node("d"), filters=(first, second))
    assert (first.asked, second.asked) == (["a", "b", "c", "d"], ["b", "d"])
    assert result.left == (Left("Odd", 2), Left("Odd", 1))
    assert order(result) == ["d"]


def test_a_filter_that_fails_rejects_the_node_it_failed_on_and_no_other() -> None:
    result = choose(node("a"), node("b"), node("c"), filters=(Odd(fails="ac"), Odd(rejects="b")))
    assert order(result) == []
    assert result.rejected == (
        Rejection("Odd", ("b",), ("b is odd",)),
        Rejection(reasons.FILTER_ERROR, ("a", "c"), ("filter Odd failed, see the controller's log",) * 2),
    )
    assert result.errors == (
        FilterFailure("Odd", "a", "ValueError('odd a')"),
        FilterFailure("Odd", "c", "ValueError('odd c')"),
    )


def test_each_node_is_told_of_once_with_the_first_reason() -> None:
    result = choose(node("a", node_ready=False), node("b"), node("c"), target="b", holders=frozenset("bc"))
    assert [(each.reason, each.nodes) for each in result.rejected] == [
        (reasons.NODE_NOT_READY, ("a",)),
        (reasons.NOT_THE_TARGET, ("c",)),
        (reasons.STALE_COPY, ("b",)),
    ]


def test_a_pinned_target_is_the_only_choice_however_little_memory_it_has() -> None:
    assert order(choose(node("a"), node("b", memory=1 << 40), node("c", memory=10), target="c")) == ["c"]


def test_a_vm_does_not_go_to_where_it_is_even_if_that_is_asked_for() -> None:
    result = choose(node("a"), node("b"), target="a")
    assert order(result) == []
    assert {each.reason for each in result.rejected} == {reasons.IS_SOURCE, reasons.NOT_THE_TARGET}


def test_an_explanation_counts_each_reason_and_names_the_nodes_the_rarest_reason_first() -> None:
    result = choose(node("c", lease_fresh=False), node("a"), node("b", node_ready=False), node("d", lease_fresh=False))
    assert result.explain() == (
        "0 of 4 nodes are feasible: 1 IsSource (a: the VM is there already), "
        "3 NodeNotReady (b: its Node is gone or not Ready; c, d: its agent's Lease is old)"
    )


def test_an_explanation_names_ten_nodes_of_a_reason_at_most() -> None:
    names = [f"n{i:02}" for i in range(12)]
    told = choose(*(node(name, unschedulable=True) for name in names)).explain()
    assert told == f"0 of 12 nodes are feasible: 12 NodeNotSchedulable ({', '.join(names[:10])}: it is cordoned; and 2 more)"
    assert "more" not in choose(*(node(name, unschedulable=True) for name in names[:10])).explain()


def test_an_explanation_of_a_choice_tells_of_the_rejected_nodes_too() -> None:
    assert choose(node("a"), node("b")).explain() == "1 of 2 nodes are feasible: 1 IsSource (a: the VM is there already)"
    assert choose(node("b"), node("c")).explain() == "2 of 2 nodes are feasible"


def test_without_any_node_it_is_said_that_there_is_none() -> None:
    result = choose()
    assert result.feasible == ()
    assert result.explain() == "there is no node to choose from: no agent has told of its node"


def test_an_explanation_fits_into_a_message_however_long_the_names_are() -> None:
    told = choose(*(node(str(i) * 250) for i in range(10)), filters=(Long(),)).explain()
    assert len(told) == EXPLANATION_LENGTH
    assert told.endswith("...")


def test_a_report_tells_how_many_nodes_there_were_which_were_rejected_and_how_the_others_rank() -> None:
    result = choose(node("a"), node("b", 100, 60), node("c", 100, 10), node("d", node_ready=False), weighers=(*RAM, (Fewer(), -1)))
    assert result.report() == Scheduling(
        evaluated=4,
        feasible=2,
        rejected=(
            RejectedNodes(reason="IsSource", count=1, nodes=("a",)),
            RejectedNodes(reason="NodeNotReady", count=1, nodes=("d",)),
        ),
        ranking=(
            RankedNode(node="c", score=1000, weights=(Weight(name="RAM", weight=1000), Weight(name="Fewer", weight=0))),
            RankedNode(node="b", score=-1000, weights=(Weight(name="RAM", weight=0), Weight(name="Fewer", weight=-1000))),
        ),
    )


def test_a_report_of_no_node_is_empty() -> None:
    assert choose().report() == Scheduling(evaluated=0, feasible=0)


def test_a_report_is_bounded_and_counts_what_it_leaves_out() -> None:
    names = [f"n{i:02}" for i in range(30)]
    report = choose(*(node(name, unschedulable=name > "n14") for name in names)).report()
    assert (report.evaluated, report.feasible) == (30, 15)
    assert report.rejected == (RejectedNodes(reason="NodeNotSchedulable", count=15, nodes=tuple(names[15:25])),)
    assert [each.node for each in report.ranking] == names[:10]
    report = choose(*(node(name) for name in names), filters=(OfItsOwn(),)).report()
    assert [each.reason for each in report.rejected] == [f"Reason{name}" for name in names[:16]]


def test_a_report_names_the_rarest_reason_first() -> None:
    result = choose(node("a", node_ready=False), node("b", node_ready=False), node("c", unschedulable=True))
    assert [(each.reason, each.count) for each in result.report().rejected] == [("NodeNotSchedulable", 1), ("NodeNotReady", 2)]
