"""How an agent ends: at once, whatever its threads are at."""

import asyncio
import subprocess
import sys

import pytest

from kubeferry.agent import run


class Ended(BaseException):
    """The process would be gone."""


class Calls:
    def __init__(self) -> None:
        self.hung = asyncio.Event()


class Last:
    """An agent that can or can't tell its last words."""

    def __init__(self, trouble: str) -> None:
        self.hypervisor = Calls()
        self.publisher = self
        self.trouble = trouble
        self.told = False

    async def publish(self) -> None:
        if self.trouble == "hangs":
            await asyncio.Event().wait()
        if self.trouble == "fails":
            raise ZeroDivisionError
        self.told = True


@pytest.mark.parametrize("trouble", ["none", "fails", "hangs"])
async def test_an_agent_whose_libvirt_hangs_ends_whatever_its_last_words_meet(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(run, "_end_process", end)
    monkeypatch.setattr(run, "LAST_WORDS_DEADLINE", 0.01)
    agent = Last(trouble)
    agent.hypervisor.hung.set()
    with pytest.raises(Ended):
        await run._end_when_hung(agent)  # type: ignore[arg-type]
    assert codes == [run.HUNG_EXIT_CODE]
    assert agent.told == (trouble == "none")


BUSY = """
import logging, logging.handlers, sys, threading
from concurrent.futures import ThreadPoolExecutor
from kubeferry.agent.run import _end_process
kept = logging.handlers.MemoryHandler(99, target=logging.StreamHandler(sys.stdout))
logging.getLogger().addHandler(kept)
ThreadPoolExecutor().submit(threading.Event().wait)
logging.error("last words")
_end_process(7)
"""


def test_a_process_that_ends_waits_for_no_thread_and_loses_no_log() -> None:
    ended = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (7, "last words\n"), ended.stderr
