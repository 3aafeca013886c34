"""One seed, from its beginning to its end."""

import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any
from unittest import mock

from kubeferry.api.placement import Copy, PlacementSpec
from kubeferry.core import guards
from simulated.checks import ViolationError
from simulated.profiles import PROFILES, TURNS
from simulated.world import World

CHUNK = 8
"""Seeds that a process plays at a time."""

IN_THE_SHELL = ("transient", "children_die", "stop_proved", "publish_first")
"""Guards that are no functions of `core`: the simulated host leaves them out itself."""


def _awaited_source(spec: PlacementSpec, copy: Copy) -> bool:
    return spec.move is not None and spec.move.awaiting_since is not None and copy.node == spec.move.source


PERMISSIVE: dict[str, Callable[..., Any]] = {
    "epoch": lambda *_: True,
    "lineage": lambda *_: True,
    "cas": lambda _: "",
    "gate_node": lambda *_: True,
    "gate_on_boot": lambda task: task is not None,
    "sealed_first": lambda _: True,
    "verified": lambda *, whole: True,
    "activate_needs_release": lambda *, released: True,
    "proof_of_seal": lambda _: True,
    "seal_before_back": lambda *_, fenced: True,
    "back_clears_node": lambda spec: spec,
    "fence_reread": lambda *_: False,
    "fence_boot": lambda _: True,
    "supersede": lambda *_: False,
    "one_job": lambda *_: False,
    "receiver_checks": lambda *_: True,
    "confirm_running": lambda _: True,
    "confirm_fresh": lambda *_: True,
    "discard_after_decision": lambda spec, copy: (
        copy.discard is not None or (spec.move is not None and spec.move.awaiting_since is not None and copy.node == spec.move.source)
    ),
    "discard_named": lambda *_: True,
    "delete_seals": lambda *_: True,
    "delete_clears_node": lambda spec: spec,
}
"""What each guard is replaced by: what it would be if nobody had thought of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    violation: str | None


def replay_command(seed: int) -> str:
    """What to type to see it again."""
    return f"make simulation SEED={seed}"


@contextmanager
def _removed(names: frozenset[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in sorted(names - set(IN_THE_SHELL)):
            stack.enter_context(mock.patch.object(guards, name, PERMISSIVE[name]))
        yield


def play_all(seeds: Iterable[int], *, profile: str | None = None, without: frozenset[str] = frozenset()) -> Iterator[Outcome]:
    """Play seeds on all cores; what comes of each, in their order. Whoever has seen enough may stop."""
    cores = os.cpu_count() or 1
    # Lives give way to guests that run beside them.
    with ProcessPoolExecutor(cores, initializer=os.nice, initargs=(10,)) as pool:
        waiting: deque[Future[list[Outcome]]] = deque()
        left = iter(seeds)
        while chunk := list(islice(left, CHUNK)):
            waiting.append(pool.submit(_play_chunk, chunk, profile, without))
            if len(waiting) > cores + 1:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _play_chunk(seeds: list[int], profile: str | None, without: frozenset[str]) -> list[Outcome]:
    return [play(seed, profile=profile, without=without) for seed in seeds]


def play(
    seed: int, *, profile: str | None = None, without: frozenset[str] = frozenset(), log: Callable[[str], None] | None = None
) -> Outcome:
    """Play a seed. An error that `core` raises is a violation, too."""
    weights = PROFILES[profile or TURNS[seed % len(TURNS)]]
    with _removed(without):
        world = World(seed, weights, without, log)
        try:
            world.play()
        except ViolationError as violation:
            return Outcome(seed, str(violation))
        except Exception:
            return Outcome(seed, f"defect: {traceback.format_exc()}")
    return Outcome(seed, None)
