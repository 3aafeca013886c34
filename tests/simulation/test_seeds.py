"""Two thousand lives of two VMs, none of which may lose a disk, run a VM twice, or be left without an end."""

import pytest
from simulated.run import play, play_all, replay_command

from kubeferry.api.migration import Migration
from kubeferry.api.placement import PlacementSpec
from kubeferry.core import forward

SEEDS = 2000


@pytest.mark.timeout(1800)
def test_no_seed_violates_an_invariant() -> None:
    violations = [f"seed {o.seed}: {o.violation}\n  replay: {replay_command(o.seed)}" for o in play_all(range(SEEDS)) if o.violation]
    assert not violations, "\n".join(violations)


def test_seeds_reach_a_migration_that_takes_over_the_lock_of_one_that_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    inherited = forward.inherited

    def noted(spec: PlacementSpec, by: Migration) -> PlacementSpec:
        taken.append(by.metadata.uid)
        return inherited(spec, by)

    monkeypatch.setattr(forward, "inherited", noted)
    for seed in range(30):
        assert play(seed, profile="vanish").violation is None
        if taken:
            return
    raise AssertionError("none of 30 seeds")


def test_a_seed_is_the_same_each_time_it_is_played() -> None:
    first, second = list[str](), list[str]()
    assert play(5, log=first.append) == play(5, log=second.append)
    assert first == second
    assert len(first) > 100
