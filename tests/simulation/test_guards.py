"""Every guard of the protocol is needed: without it some seed ends in what must never be."""

from itertools import islice

import pytest
from simulated.run import IN_THE_SHELL, PERMISSIVE, play_all

from kubeferry.core import guards

NAMED_BY_THE_MODEL = {
    "epoch",
    "lineage",
    "cas",
    "gate_node",
    "gate_on_boot",
    "sealed_first",
    "stop_proved",
    "verified",
    "activate_needs_release",
    "proof_of_seal",
    "seal_before_back",
    "back_clears_node",
    "fence_reread",
    "fence_boot",
    "publish_first",
    "supersede",
    "one_job",
    "receiver_checks",
    "children_die",
    "transient",
    "confirm_running",
    "confirm_fresh",
    "discard_after_decision",
    "delete_seals",
    "delete_clears_node",
}
BEYOND_THE_MODEL = {"discard_named"}
"""The model has no copy that none of its hosts has made."""
LIMIT = 1500
"""Seeds that are tried before a guard counts as not needed."""

# The profile in which its absence shows soon, and the first seed that is tried: only to save time.
REMOVED = [
    pytest.param(("epoch",), "fence", 0, id="epoch"),
    pytest.param(("lineage",), "restored", 0, id="lineage"),
    pytest.param(("cas",), "two", 30, id="cas"),
    pytest.param(("gate_node",), "fence", 0, id="gate_node"),
    pytest.param(("gate_on_boot",), "fence", 0, id="gate_on_boot"),
    pytest.param(("sealed_first",), "plain", 20, id="sealed_first"),
    pytest.param(("stop_proved",), "storm", 0, id="stop_proved"),
    pytest.param(("verified",), "self", 10, id="verified"),
    pytest.param(("activate_needs_release",), "self", 0, id="activate_needs_release"),
    pytest.param(("proof_of_seal",), "restored_copy", 0, id="proof_of_seal"),
    pytest.param(("seal_before_back",), "fence", 0, id="seal_before_back"),
    pytest.param(("back_clears_node",), "fence", 0, id="back_clears_node"),
    pytest.param(("fence_reread",), "fence", 100, id="fence_reread"),
    pytest.param(("fence_boot",), "fence", 0, id="fence_boot"),
    pytest.param(("publish_first",), "fence", 0, id="publish_first"),
    pytest.param(("supersede",), "storm", 80, id="supersede"),
    pytest.param(("one_job",), "storm", 0, id="one_job"),
    pytest.param(("receiver_checks", "children_die"), "strays", 40, id="receiver_checks-and-children_die"),
    pytest.param(("transient",), "delete_fence", 0, id="transient"),
    pytest.param(("confirm_running",), "early", 0, id="confirm_running"),
    pytest.param(("confirm_fresh",), "restored", 0, id="confirm_fresh"),
    pytest.param(("discard_after_decision",), "plain", 0, id="discard_after_decision"),
    pytest.param(("discard_named",), "foreign", 0, id="discard_named"),
    pytest.param(("delete_seals",), "delete", 10, id="delete_seals"),
    pytest.param(("delete_clears_node",), "delete_fence", 50, id="delete_clears_node"),
]


@pytest.mark.parametrize(("names", "profile", "first"), REMOVED)
def test_without_a_guard_an_invariant_is_violated(names: tuple[str, ...], profile: str, first: int) -> None:
    outcomes = play_all(range(first, first + LIMIT), profile=profile, without=frozenset(names))
    found = next((o.violation for o in outcomes if o.violation is not None and o.violation.startswith("invariant")), None)
    assert found is not None, f"{LIMIT} seeds of profile {profile} go well without {' and '.join(names)}"


def test_with_all_guards_those_very_seeds_go_well() -> None:
    for case in REMOVED:
        _, profile, first = case.values
        assert [o for o in islice(play_all(range(first, first + 4), profile=str(profile)), 4) if o.violation] == []


def test_each_guard_is_removed_here_by_its_name() -> None:
    names = NAMED_BY_THE_MODEL | BEYOND_THE_MODEL
    assert {name for case in REMOVED for name in case.values[0]} == names  # type: ignore[union-attr]
    assert {name for name in names if not hasattr(guards, name)} == set(IN_THE_SHELL)
    assert set(PERMISSIVE) == names - set(IN_THE_SHELL)
