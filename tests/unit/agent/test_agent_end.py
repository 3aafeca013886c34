"""How an agent ends: at once, whatever its threads are at."""

import asyncio
import subprocess
import sys

import pytest
from agent_rig import CHILDREN, Rig
from structlog.testing import capture_logs

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


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which the process would have ended."""
    made: list[int] = []

    def end(code: int) -> None:
        made.append(code)
        raise Ended

    monkeypatch.setattr(run, "_end_process", end)
    return made


@pytest.mark.parametrize(
    ("ending", "code", "last_words"),
    [
        pytest.param(None, 0, ["the agent ends, VMs run on"], id="told-to-stop"),
        pytest.param(ZeroDivisionError("no watch"), run.FAILED_EXIT_CODE, ["the agent fails, VMs run on"], id="kopf-fails"),
        pytest.param(asyncio.CancelledError(), run.FAILED_EXIT_CODE, [], id="cancelled"),
    ],
)
async def test_however_kopf_ends_the_process_ends_and_lets_go_of_the_hosts_lock(
    ending: BaseException | None, code: int, last_words: list[str], codes: list[int], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connected() -> object:
        return rig.server

    async def operator(**_: object) -> None:
        if ending is not None:
            raise ending

    monkeypatch.setattr(run.RestServer, "connect", connected)
    monkeypatch.setattr(run, "LibvirtHypervisor", lambda *_: rig.hypervisor)
    monkeypatch.setattr(run.kopf, "operator", operator)
    with capture_logs() as logs, pytest.raises(Ended):
        await run._run(rig.machine, rig.keys, CHILDREN)
    assert codes == [code]
    assert [line["event"] for line in logs] == last_words


@pytest.mark.parametrize("trouble", ["none", "fails", "hangs"])
async def test_an_agent_whose_libvirt_hangs_ends_whatever_its_last_words_meet(
    trouble: str, codes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
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
