"""Where `ssh_serve` brings other agents: a unix socket on which this host's agent takes their copies."""

import asyncio
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import Field, ValidationError

from kubeferry.agent.errors import FAILURES, defect_error, task_error
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.looks import Looks
from kubeferry.agent.transfer.children import Children
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.landing import Claim, Landing, make_directory
from kubeferry.agent.transfer.prober import Prober
from kubeferry.agent.transfer.receiver import Receiver, SignsOfLife, read_frame, tell
from kubeferry.agent.transfer.receivers import Receivers
from kubeferry.agent.transfer.threads import finished, unstoppable
from kubeferry.agent.transfer.vocabulary import HELLO_LIMIT, MAKE_DIRECTORY, PROBE, RECEIVE
from kubeferry.agent.transfer.wire import Announcement, Answer, AnswerState, ProbeRequest, Request, broken, parse
from kubeferry.api.model import Name, load, model
from kubeferry.api.task import TaskError, Verb

STOP_SECONDS = 2.0
"""For what is being received to let go of its files."""
HELLO_SECONDS = 10.0
"""In which `ssh_serve` tells who asks what."""

_BUFFER = 1 << 20
"""Bytes that are read ahead of what is worked on, at most twice as many."""

log = structlog.get_logger(__name__)


@model
class _Hello:
    peer: Name
    """The node that asks, as sshd knows it by its key."""
    command: Annotated[str, Field(max_length=64)]


class TransferService:
    """Takes copies from the agents of other hosts, each as this host's journal allows."""

    def __init__(self, machine: Machine, journals: JournalStore, receivers: Receivers, children: Children) -> None:
        self._machine = machine
        address, ports = machine.settings.migration_address, machine.settings.data_ports.all
        self._receiver = Receiver(children, address, ports)
        self._prober = Prober(machine.settings.instances_path, machine.host_id, address, ports)
        self._journals = journals
        self._receivers = receivers
        # Apart: the one is a look at the journals, the other at the instances, and either may hang alone.
        self._claims = Looks(machine.settings.state_path, "claim")
        self._directories = Looks(machine.settings.instances_path, "make-directory")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, socket_path: Path) -> None:
        """Listen. What an agent that is no more left at that path is replaced: call it with the host's lock taken.

        Raises:
            OSError: the socket can't be made.
        """
        self._server = await asyncio.start_unix_server(self._connected, sock=_listener(socket_path), limit=_BUFFER)

    async def stop(self) -> None:
        """Listen no more, and end what is being received; a thread that hangs is left to the end of the process, which must follow."""
        if self._server is None:
            return
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        if connections:
            await asyncio.wait(connections, timeout=STOP_SECONDS)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: of one that asyncio makes, it logs the cancellation as an error.
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with structlog.contextvars.bound_contextvars(node=self._machine.node):
            try:
                error = await self._outcome(reader, writer)
                if error is not None:
                    await tell(writer, Answer(state=AnswerState.REFUSED, error=error))
            except TransferError as failure:
                log.info("nobody is left to be told", message=str(failure))
            finally:
                writer.close()

    async def _outcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> TaskError | None:
        """Serve one command; what ended it, if it did not end well."""
        try:
            await self._execute(reader, writer)
        except FAILURES as failure:
            log.warning("command of another agent refused", reason=failure.reason, message=str(failure))
            return task_error(failure)
        except Exception as defect:
            log.exception("command of another agent failed unexpectedly")
            return defect_error(defect)
        return None

    async def _execute(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with ExitStack() as stack:
            await self._obey(await _hello(reader), reader, writer, stack)

    async def _obey(self, hello: _Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stack: ExitStack) -> None:
        verb = Verb.COPY if hello.command == RECEIVE else Verb.PREFLIGHT  # that the other agent is at
        structlog.contextvars.bind_contextvars(peer=hello.peer, command=hello.command, verb=verb)
        if hello.command == PROBE:
            asked = parse(ProbeRequest, await read_frame(reader))
            claim = Claim(hello.peer, asked.request)
            work = partial(self._prober.answer, asked, reader, writer)
        elif hello.command == MAKE_DIRECTORY:
            claim = Claim(hello.peer, parse(Request, await read_frame(reader)))
            work = partial(self._make_directory, claim, writer)
        elif hello.command == RECEIVE:
            announced = parse(Announcement, await read_frame(reader))
            claim = Claim(hello.peer, announced.request)
            life = SignsOfLife(writer)
            stack.callback(life.stop)
            landing = Landing(self._machine, self._journals, claim, announced.files)
            work = partial(self._receiver.receive, landing, announced.certificate, reader, writer, life)
        else:
            raise broken(f"the command {hello.command} is none that this agent knows; see that both agents are of one version")
        asks = claim.request
        structlog.contextvars.bind_contextvars(vm_uid=asks.uid, epoch=asks.epoch, vm=asks.vm, migration=asks.migration)
        # Before the receiver that runs is ended for this one; each looks once more when it is the only one.
        await finished(self._claims.begin(partial(claim.journal, self._journals)), unstoppable)
        await self._receivers.run(claim.request.uid, work)
        log.info("command of another agent done")

    async def _make_directory(self, claim: Claim, writer: asyncio.StreamWriter) -> None:
        # Not given up while it hangs: nothing of this may be done behind the back of who bars the VM.
        await finished(self._directories.begin(partial(make_directory, self._machine, self._journals, claim)), unstoppable)
        await tell(writer, Answer(state=AnswerState.MADE))


async def _hello(reader: asyncio.StreamReader) -> _Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            line = await reader.readuntil()
    except TimeoutError as error:
        raise broken(f"ssh_serve did not tell who asks within {HELLO_SECONDS:.0f} s") from error
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
        raise broken(f"ssh_serve did not tell who asks: {error}") from error
    if len(line) > HELLO_LIMIT:
        raise broken(f"ssh_serve told who asks in {len(line)} bytes, at most {HELLO_LIMIT} were expected")
    try:
        return load(_Hello, line)
    except ValidationError as error:
        raise broken(f"ssh_serve told what this agent does not understand: {error.errors()[0]['msg']}") from error


def _listener(path: Path) -> socket.socket:
    """A socket that only root reaches: nobody can connect before it listens, and by then its mode is set."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError:
        listener.close()
        raise
    return listener
