"""A Migration as people read it: what is told while it goes on, when it waits, and when it went wrong."""

import dataclasses
from datetime import timedelta

import pytest
from builders import after, migration
from move_life import Life

from kubeferry.api import reasons
from kubeferry.api.migration import Migration, Transfer
from kubeferry.api.task import TaskProgress, Verb
from kubeferry.cli.migration_page import awaits, duration, ended, line, page, size, transfer, trouble


def seen(life: Life, name: str = "move") -> Migration:
    return life.migrations[name]


def lines(life: Life, seconds: float = 0) -> list[str]:
    return list(page(seen(life), after(seconds)))


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (15_717_589, "15.0 MiB"), (5 << 30, "5.0 GiB"), (3 << 60, "3072.0 PiB")],
)
def test_bytes_are_told_in_units_that_people_read(count: int, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m0s"), (7199, "119m59s"), (7200, "2h0m"), (172_799, "47h59m"), (180_000, "2d2h")],
)
def test_a_time_span_is_told_as_kubectl_does(seconds: int, told: str) -> None:
    assert duration(timedelta(seconds=seconds)) == told


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (Transfer(bytes_total=4, bytes_done=1, progress="25%"), "[######------------------] 25%  1 B of 4 B"),
        (Transfer(bytes_total=4, bytes_done=4, progress="100%", digest="d" * 64), "[########################] 100%  4 B of 4 B"),
        (Transfer(bytes_total=0, bytes_done=0), "[########################] 100%  0 B of 0 B"),
        (
            Transfer(bytes_total=200 << 20, bytes_done=50 << 20, progress="25%", rate=10 << 20, eta_seconds=15),
            "[######------------------] 25%  50.0 MiB of 200.0 MiB  10.0 MiB/s  15s left",
        ),
    ],
)
def test_a_copy_is_a_bar_with_bytes_rate_and_estimate(of: Transfer, told: str) -> None:
    assert transfer(of) == told


def test_what_nobody_has_looked_at_says_so() -> None:
    assert line(migration()) == "move  nobody has looked at it yet"
    assert list(page(migration(), after(0)))[-1] == "Phase      nobody has looked at it yet: see that the controller runs"
    assert (awaits(migration()), ended(migration()), trouble(migration())) == (False, False, "")


def test_a_copy_under_way_is_a_line_with_its_bar() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.progress(Verb.COPY, TaskProgress(bytes_total=100, bytes_done=50))
    assert line(seen(life)) == "move  Copying  a -> b  [############------------] 50%  50 B of 100 B"


def test_what_awaits_its_decision_tells_how_to_decide_and_what_follows() -> None:
    life = Life(migration(decisionTimeoutSeconds=3600, onDecisionTimeout="Revert")).go_on_to()
    told = lines(life, 200)
    assert awaits(seen(life))
    assert told[:4] == ["Migration  shop/move", "VM         web-0", "Phase      AwaitingDecision for 3m20s", "Way        a -> b"]
    assert "Downtime   at most 0.0 s" in told
    assert not any(each.startswith(("ConfirmBlocked", "NeedsAttention", "Succeeded")) for each in told)
    assert told[-3:] == [
        "Next       kubectl ferry confirm move -n shop   # the VM stays on b, the copy on a goes",
        "           kubectl ferry revert move -n shop   # the VM goes back to a as it was there",
        "           Revert is done at 2026-01-01 13:00:00 UTC if nobody decides",
    ]


def test_a_confirm_that_is_blocked_says_by_what() -> None:
    life = Life().go_on_to()
    life.holds("b", lease=False)
    life.wish("Confirm")
    assert trouble(seen(life)).startswith(f"ConfirmBlocked: {reasons.TARGET_SILENT}: the agent of b")
    assert any(told.startswith(f"ConfirmBlocked {reasons.TARGET_SILENT}: ") for told in lines(life))


def test_a_failure_tells_its_reason_and_every_attempt() -> None:
    life = Life()
    life.step()
    life.target = None
    life.answer(Verb.PREPARE, reasons.INSUFFICIENT_MEMORY)
    told = lines(life)
    assert ended(seen(life))
    assert line(seen(life)).startswith("move  Failed  a -> b  InsufficientMemory: Prepare on b: because of InsufficientMemory")
    assert "Attempt    b: InsufficientMemory: Prepare on b: because of InsufficientMemory" in told
    assert any(each.startswith("Succeeded  InsufficientMemory: ") for each in told)
    assert not any(each.startswith("Next") for each in told)


def test_what_waits_tells_for_what() -> None:
    life = Life(migration(startDeadlineSeconds=60))
    life.target = None
    life.step()
    assert line(seen(life)).startswith("move  Pending  NoFeasibleNode: 0 of 3 nodes are feasible")
    assert any(told.startswith("Scheduled  NoFeasibleNode: 0 of 3") for told in lines(life))


def test_a_vm_that_is_off_is_told_so() -> None:
    life = Life().go_on_to(Verb.COPY)
    assert "Downtime   at most 0.0 s; asked to stop at 2026-01-01 12:00:00 UTC, not seen running since" in lines(life)


def test_what_was_decided_is_told_with_who_and_when() -> None:
    life = Life().go_on_to()
    life.wish("Confirm")
    assert "Decision   Confirm by User at 2026-01-01 12:00:00 UTC" in lines(life)
    life.answer(Verb.DISCARD)
    assert line(seen(life)) == "move  Confirmed  a -> b"


def test_on_the_way_back_it_tells_why() -> None:
    life = Life().go_on_to(Verb.COPY)
    life.answer(Verb.COPY, reasons.INSUFFICIENT_DISK)
    assert line(seen(life)).startswith("move  RollingBack  a -> b  InProgress: rolling back: Copy on a: because of InsufficientDisk")
    assert any(told.startswith("Succeeded  InProgress: rolling back") for told in lines(life))


def test_a_phase_without_a_time_is_told_without_one() -> None:
    life = Life().go_on_to()
    status = dataclasses.replace(life.status(), phase_transitions=())
    assert "Phase      AwaitingDecision" in list(page(dataclasses.replace(seen(life), status=status), after(9)))
