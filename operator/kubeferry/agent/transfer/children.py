"""Runs the processes that move data (`processes`), from the agent's side."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import structlog
from pydantic import ValidationError

from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.processes import LINE_LIMIT, LOG_NAMES
from kubeferry.agent.transfer.threads import gone
from kubeferry.agent.transfer.wire import broken
from kubeferry.api.model import dump, load

T = TypeVar("T")

END_SECONDS = 5.0
"""For a process whose output has ended to end."""


class Child:
    """A process that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process was started without pipes")
        self._process = process
        self._input = process.stdin
        self._output = process.stdout

    def tell(self, value: object) -> None:
        """Tell it something; one that has ended hears nothing."""
        self._input.write(json.dumps(dump(value)).encode() + b"\n")

    async def word(self, kind: type[T]) -> T:
        """What it tells next.

        Raises:
            TransferError: `TransferBroken`: it has ended, or what it told is no such word.
        """
        try:
            line = await self._output.readuntil()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise await self._died() from error
        try:
            return load(kind, line)
        except ValidationError as error:
            raise broken(f"the process that moves data told what its agent does not understand: {error.errors()[0]['msg']}") from error

    async def _died(self) -> TransferError:
        with suppress(TimeoutError):  # its output ends a moment before itself
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        code = self._process.returncode
        return broken(
            f"the process that moves data ended {'early' if code is None else f'with {code}'}; see this agent's log, and the memory left"
        )


class Children:
    """Starts such processes."""

    def __init__(self, log_format: str, held: Collection[int]) -> None:
        """For one agent.

        Args:
            log_format: of what they log, beside what the agent does.
            held: descriptors that each of them holds as long as it lives: the host's lock.
        """
        self._log_format = log_format
        self._held = tuple(held)

    @asynccontextmanager
    async def started(self, command: str, job: object, descriptors: Collection[int] = ()) -> AsyncIterator[Child]:
        """A process for a job; it is gone when this ends.

        Args:
            command: which, of `processes`.
            job: its first line.
            descriptors: what the job names.

        Raises:
            OSError: it can't be started.
        """
        # -P: as of `sshd`.
        argv = [sys.executable, "-P", "-m", "kubeferry.cli.main", command, "--log-format", self._log_format]
        pipe = asyncio.subprocess.PIPE
        environment = os.environ | {LOG_NAMES: json.dumps(structlog.contextvars.get_contextvars())}
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, pass_fds=(*self._held, *descriptors), limit=LINE_LIMIT, env=environment
        )
        try:
            child = Child(process)
            child.tell(job)
            yield child
        finally:
            if process.returncode is None:
                process.kill()
            await gone(asyncio.ensure_future(process.wait()))
