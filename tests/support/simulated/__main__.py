"""Runs seeds on all cores, or replays one."""

import argparse
import sys
import time

from simulated.run import play, play_all, replay_command


def main() -> int:
    """Print each violation with its replay, then the number of seeds and of violations, and the seeds per second."""
    parser = argparse.ArgumentParser(prog="python -m simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many, from 0 on")
    parser.add_argument("--seed", type=int, help="replay this one, and print every event")
    parser.add_argument("--profile", help="instead of the seed's own")
    parser.add_argument("--without", default="", help="guards that are removed, by comma")
    options = parser.parse_args()
    without = frozenset(filter(None, options.without.split(",")))
    if options.seed is not None:
        outcome = play(options.seed, profile=options.profile, without=without, log=print)
        print(outcome.violation or "no violation")
        return int(outcome.violation is not None)
    begun, failures = time.monotonic(), 0
    for outcome in play_all(range(options.seeds), profile=options.profile, without=without):
        if outcome.violation is not None:
            failures += 1
            print(f"seed {outcome.seed}: {outcome.violation}\n  replay: {replay_command(outcome.seed)}", flush=True)
    rate = options.seeds / (time.monotonic() - begun)
    print(f"{rate:.0f} seeds/s")
    print(f"{options.seeds} seeds, {failures} violations")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
