"""What the sending process does with what its agent tells it: a real one, and a real target where one is needed."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from data_ends import ADDRESS
from sshd import NAMES, REQUEST, Sshd, Target

from kubeferry.agent.transfer.children import Child, Children
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.processes import NewLimit, SendJob, SendWord, Sent
from kubeferry.agent.transfer.vocabulary import SENDING
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.role import Role
from kubeferry.api.task import TaskProgress

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
SECONDS = 30.0
SLOW = 16 << 10
"""Bytes a second: the copy would take minutes."""


@pytest.fixture
def silent(source: Path) -> SendJob:
    """A job that waits for an sshd which says nothing; it is closed by the end of the test."""
    return SendJob(
        endpoint=SshEndpoint(address=ADDRESS, port=1, host_key=KEY, identity_key=KEY),
        identity=str(source / "identity"),
        request=REQUEST,
        directory=str(source),
        names=NAMES,
        inodes={},
    )


async def last_word(child: Child) -> tuple[list[TaskProgress], SendWord]:
    """What it told of its progress, and what came of it."""
    progress = []
    while (word := await child.word(SendWord)).progress is not None:
        progress.append(word.progress)
    return progress, word


async def test_a_new_limit_reaches_a_copy_that_is_on_its_way(reached: tuple[Target, Sshd, SshEndpoint, Keys], source: Path) -> None:
    target, _, endpoint, keys = reached
    target.expect()
    job = SendJob(
        endpoint=endpoint, identity=str(keys.identity), request=REQUEST, directory=str(source), names=NAMES, inodes={}, limit=SLOW
    )
    async with asyncio.timeout(SECONDS), target.serving(), Children("text", ()).started(SENDING, job) as child:
        first = await child.word(SendWord)
        assert first.progress is not None, first
        with pytest.raises(TimeoutError):  # it heeds the limit that it began with
            async with asyncio.timeout(1.0):
                await last_word(child)
        child.tell(NewLimit(limit=None))
        progress, last = await last_word(child)
    assert isinstance(last.sent, Sent)
    assert last.sent.bytes_sent == first.progress.bytes_total == progress[-1].bytes_done
    assert target.journal().role == Role.VERIFIED


async def test_why_it_could_not_send_is_told(silent: SendJob) -> None:
    async with asyncio.timeout(SECONDS), Children("text", ()).started(SENDING, silent) as child:
        progress, last = await last_word(child)
    assert progress == []
    assert last.error is not None
    assert (last.error.reason, last.error.retryable) == (reasons.SSH_UNREACHABLE, True)


async def test_a_job_that_it_can_not_do_is_answered_with_an_error() -> None:
    async with asyncio.timeout(SECONDS), Children("text", ()).started(SENDING, NewLimit(limit=1)) as child:
        _, last = await last_word(child)
    assert last.error is not None
    assert last.error.reason == reasons.INTERNAL_ERROR


@pytest.mark.parametrize("told", [b"", b"what is that?\n", b'{"limit": -1}\n'], ids=["nothing", "no JSON", "no limit"])
async def test_it_ends_when_its_agent_does_whatever_that_told_it_before(told: bytes, silent: SendJob) -> None:
    called = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read()
        writer.close()

    async with asyncio.timeout(SECONDS), await asyncio.start_server(say_nothing, ADDRESS, 0) as sshd:
        endpoint = replace(silent.endpoint, port=sshd.sockets[0].getsockname()[1])
        async with Children("text", ()).started(SENDING, replace(silent, endpoint=endpoint)) as child:
            await called.wait()
            child._input.write(told)
            child._input.close()
            async with asyncio.timeout(5):  # sooner than it would give up the sshd
                assert await child._process.wait() == 1
