"""The processes that move data, as their agent runs them: real ones."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog
from data_ends import ADDRESS, SECONDS
from part_bench import PartBench

from kubeferry.agent.transfer.children import Child, Children
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.processes import NewLimit, ReceiveJob, ReceiveWord, Sent
from kubeferry.agent.transfer.tls import make_identity, make_token
from kubeferry.agent.transfer.vocabulary import RECEIVING
from kubeferry.api import reasons
from kubeferry.api.model import dump


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((ADDRESS, 0)) as listener:
        yield listener


@pytest.fixture
def job(listener: socket.socket, file: PartBench) -> ReceiveJob:
    """One that waits for a sender that does not come."""
    own = make_identity()
    return ReceiveJob(listener=listener.fileno(), parts=(file.job,), own=own, peer=own.certificate, token=make_token())


def descriptors(job: ReceiveJob) -> list[int]:
    return [job.listener, *(fd for part in job.parts for fd in (part.part, part.manifest))]


def pids() -> set[int]:
    """Of this process's children."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@asynccontextmanager
async def waiting(job: ReceiveJob, *held: int) -> AsyncIterator[tuple[Child, int]]:
    """A receiver, and its pid; it waits for its sender."""
    before = pids()
    async with asyncio.timeout(SECONDS), Children("text", held).started(RECEIVING, job, descriptors(job)) as child:
        (pid,) = pids() - before
        yield child, pid


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_what_came_of_its_job_is_told(job: ReceiveJob, listener: socket.socket) -> None:
    listener.shutdown(socket.SHUT_RDWR)  # nobody can come any more
    async with waiting(job) as (child, _):
        word = await child.word(ReceiveWord)
    assert word.error is not None
    assert (word.error.reason, word.error.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)


async def test_a_job_that_it_can_not_do_is_answered_with_an_error(listener: socket.socket) -> None:
    async with asyncio.timeout(SECONDS), Children("json", ()).started(RECEIVING, NewLimit(limit=1)) as child:
        word = await child.word(ReceiveWord)
    assert word.error is not None
    assert word.error.reason == reasons.INTERNAL_ERROR
    assert "does not understand its job: listener: Field required" in word.error.message


async def test_a_job_that_it_does_not_understand_shows_no_key_in_any_log(job: ReceiveJob, capfd: pytest.CaptureFixture[str]) -> None:
    spoilt = dump(job) | {"peer": "\0", "own": {"key": "a secret key", "certificate": job.peer}}
    async with asyncio.timeout(SECONDS), Children("json", ()).started(RECEIVING, spoilt) as child:
        word = await child.word(ReceiveWord)
    assert word.error is not None
    assert "peer: String should match pattern" in word.error.message
    told = capfd.readouterr()
    assert "peer: String should match pattern" in told.err
    for text in (word.error.message, told.err, told.out):
        assert "secret" not in text
        assert job.token not in text


async def test_it_is_gone_when_nobody_needs_it_any_more(job: ReceiveJob) -> None:
    async with waiting(job) as (_, pid):
        assert lives(pid)
        ends = time.monotonic()
    assert not lives(pid)
    assert time.monotonic() - ends < 5  # much sooner than its sender would be late


async def test_it_is_gone_when_its_agent_is_told_to_stop(job: ReceiveJob) -> None:
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def receive() -> None:
        async with waiting(job) as (child, pid):
            seen.set_result(pid)
            await child.word(ReceiveWord)

    task = asyncio.create_task(receive())
    pid = await seen
    ends = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lives(pid)
    assert time.monotonic() - ends < 5


async def test_it_holds_the_hosts_lock_as_long_as_it_lives(job: ReceiveJob, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    async with waiting(job, fd) as (_, pid):
        os.close(fd)
        assert is_locked(lock)
        assert lives(pid)
    assert not is_locked(lock)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_one_that_dies_breaks_the_transfer_and_is_told_with_its_code(number: signal.Signals, job: ReceiveJob) -> None:
    async with waiting(job) as (child, pid):
        os.kill(pid, number)
        with pytest.raises(TransferError, match=f"ended with -{number.value}; see") as broken:
            await child.word(ReceiveWord)
        child.tell(NewLimit())  # it hears nothing, and that is no error
    assert (broken.value.reason, broken.value.retryable) == (reasons.TRANSFER_BROKEN, True)


async def test_a_word_that_its_agent_does_not_know_breaks_the_transfer(job: ReceiveJob, listener: socket.socket) -> None:
    listener.shutdown(socket.SHUT_RDWR)
    async with waiting(job) as (child, _):
        with pytest.raises(TransferError, match="told what its agent does not understand") as broken:
            await child.word(Sent)
    assert broken.value.reason == reasons.TRANSFER_BROKEN


async def end_of_its_agent(child: Child, told: bytes = b"") -> int:
    """Its standard input ends, as it does when its agent is killed; the code that it ends with."""
    child._input.write(told)
    child._input.close()
    async with asyncio.timeout(SECONDS):
        return await child._process.wait()


async def begun(child: Child, job: ReceiveJob) -> None:
    """Wait until it is at work: it sends whoever is not its sender away."""
    with socket.socket(fileno=os.dup(job.listener)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(bytes(100))
    with suppress(ConnectionError):
        await reader.read()
    writer.close()
    assert child._process.returncode is None


async def test_it_ends_when_its_agent_does_and_gives_the_lock_back(job: ReceiveJob, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    async with waiting(job, fd) as (child, _):
        os.close(fd)
        await begun(child, job)
        assert is_locked(lock)
        assert await end_of_its_agent(child) == 1
        assert not is_locked(lock)


async def test_it_ends_when_its_agent_does_whatever_it_was_told_before(job: ReceiveJob) -> None:
    async with waiting(job) as (child, _):
        assert await end_of_its_agent(child, b"x" * 200_000 + b"\n{}\n") == 1


async def test_what_it_logs_names_what_its_agent_is_at(job: ReceiveJob, listener: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    names = {"vm": "shop/web-0", "migration": "shop/move", "node": "b", "epoch": 7, "verb": "Copy"}
    with structlog.contextvars.bound_contextvars(**names):
        async with asyncio.timeout(SECONDS), Children("json", ()).started(RECEIVING, job, descriptors(job)):
            with socket.create_connection(listener.getsockname()) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with suppress(ConnectionResetError):
                    await asyncio.to_thread(stranger.recv, 1)  # until it is sent away
            said = ""
            while "\n" not in said:
                said += capfd.readouterr().err
                await asyncio.sleep(0.01)
    line = json.loads(said.splitlines()[0])
    assert line["event"] == "connection to the data port refused"
    assert line.items() >= names.items()
