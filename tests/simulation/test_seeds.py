"""Two thousand lives of two VMs, none of which may lose a disk, run a VM twice, or be left without an end."""

import pytest
from simulated.run import play, play_all, replay_command

SEEDS = 2000


@pytest.mark.timeout(1800)
def test_no_seed_violates_an_invariant() -> None:
    violations = [f"seed {o.seed}: {o.violation}\n  replay: {replay_command(o.seed)}" for o in play_all(range(SEEDS)) if o.violation]
    assert not violations, "\n".join(violations)


def test_a_seed_is_the_same_each_time_it_is_played() -> None:
    first, second = list[str](), list[str]()
    assert play(5, log=first.append) == play(5, log=second.append)
    assert first == second
    assert len(first) > 100
