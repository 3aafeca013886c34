import time
from pathlib import Path

import pytest

from lab.steps import LabError, NotYet, run, wait_until


class Ended:
    def ended(self) -> str | None:
        return "etcd ended with 7"


def never() -> None:
    raise NotYet("still cold")


def test_a_wait_returns_what_the_condition_returns_once_it_holds() -> None:
    refusals = [NotYet("one"), NotYet("two")]

    def condition() -> int:
        if refusals:
            raise refusals.pop()
        return 42

    assert wait_until("an answer", condition, seconds=5) == 42


def test_a_deadline_that_passes_says_what_was_waited_for_what_was_seen_and_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text("\n".join(f"line {number}." for number in range(100)))
    with pytest.raises(LabError) as caught:
        wait_until("warmth", never, seconds=0.1, log=log)
    message = str(caught.value)
    assert "waiting for warmth: not within 0.1 s (last seen: still cold)" in message
    assert "line 99." in message
    assert "line 9." not in message


def test_a_wait_ends_with_the_process_that_it_waits_for() -> None:
    started = time.monotonic()
    with pytest.raises(LabError, match="waiting for warmth: etcd ended with 7"):
        wait_until("warmth", never, seconds=60, process=Ended())
    assert time.monotonic() - started < 5


def test_an_error_that_is_not_a_not_yet_is_not_waited_out() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wait_until("warmth", broken, seconds=60)


def test_a_failed_command_tells_what_it_printed() -> None:
    with pytest.raises(LabError, match=r"(?s)exit status 3.*out.*err"):
        run(["sh", "-c", "echo out; echo err >&2; exit 3"])


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(LabError, match=r"not done within 0.1 s"):
        run(["sleep", "60"], seconds=0.1)
