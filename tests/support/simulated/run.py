"""One seed, from its beginning to its end."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from simulated.checks import Violation
from simulated.world import PROFILES, TURNS, World

from kubeferry.core import guards

IN_THE_SHELL = ("transient", "children_die", "stop_proved", "publish_first")
"""Guards that are no functions of `core`: the simulated host leaves them out itself."""

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
    "fence_reread": lambda *_: True,
    "fence_boot": lambda _: True,
    "supersede": lambda *_: False,
    "one_job": lambda *_: False,
    "receiver_checks": lambda *_: True,
    "confirm_running": lambda _: True,
    "confirm_fresh": lambda *_: True,
    "discard_after_decision": lambda spec, copy: (
        copy.discard is not None or (spec.move is not None and spec.move.awaiting_since is not None and copy.node == spec.move.source)
    ),
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
def removed(names: frozenset[str]) -> Iterator[None]:
    """Without those guards."""
    with (
        mock.patch.multiple(guards, **{name: PERMISSIVE[name] for name in names if name not in IN_THE_SHELL})
        if names - set(IN_THE_SHELL)
        else _nothing()
    ):
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def play(
    seed: int, *, profile: str | None = None, without: frozenset[str] = frozenset(), log: Callable[[str], None] | None = None
) -> Outcome:
    """Play a seed. An error that `core` raises is a violation, too."""
    weights = PROFILES[profile or TURNS[seed % len(TURNS)]]
    with removed(without):
        world = World(seed, weights, without, log)
        try:
            world.play()
        except Violation as violation:
            return Outcome(seed, str(violation))
        except Exception:  # noqa: BLE001
            return Outcome(seed, f"defect: {traceback.format_exc()}")
    return Outcome(seed, None)
