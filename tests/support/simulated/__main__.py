"""Runs seeds on all cores, or replays one."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulated.run import Outcome, play, replay_command  # noqa: E402


def _chunk(seeds: Sequence[int]) -> list[Outcome]:
    return [play(seed) for seed in seeds]


def main() -> int:
    """Print each violation with its replay, then the number of seeds and of violations."""
    parser = argparse.ArgumentParser(prog="python -m simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many, from 0 on")
    parser.add_argument("--seed", type=int, help="replay this one, and print every event")
    parser.add_argument("--profile", help="instead of the seed's own")
    parser.add_argument("--without", default="", help="guards that are removed, by comma")
    options = parser.parse_args()
    without = frozenset(filter(None, options.without.split(",")))
    if options.seed is not None:
        outcome = play(options.seed, profile=options.profile, without=without, log=print)
        print(outcome.violation or "no violation")  # noqa: T201
        return int(outcome.violation is not None)
    begun = time.monotonic()
    cores = os.cpu_count() or 1
    chunks = [range(first, options.seeds, cores * 4) for first in range(cores * 4)]
    failures = 0
    with ProcessPoolExecutor(cores) as pool:
        for outcomes in pool.map(_chunk, chunks):
            for outcome in outcomes:
                if outcome.violation is not None:
                    failures += 1
                    print(f"seed {outcome.seed}: {outcome.violation}\n  replay: {replay_command(outcome.seed)}", flush=True)  # noqa: T201
    rate = options.seeds / (time.monotonic() - begun)
    print(f"{options.seeds} seeds, {failures} violations ({rate:.0f} seeds/s)")  # noqa: T201
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
