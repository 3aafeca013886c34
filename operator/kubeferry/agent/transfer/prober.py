"""The target's end of a preflight: it leaves a file of its own, looks for the source's, and opens a data port."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path

from kubeferry.agent.storage.looks import Looks
from kubeferry.agent.storage.probe import Probe, is_seen, left
from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.receiver import SILENCE_SECONDS, tell
from kubeferry.agent.transfer.threads import completed, finished, unstoppable
from kubeferry.agent.transfer.wire import Answer, AnswerState, DataPort, Probed, ProbeRequest

THREADS = 16
"""Probes at a time that wait for the file system: as many sources as may well move to one target."""


class Prober:
    """Answers what sources ask before they stop a VM."""

    def __init__(self, instances_path: Path, host_id: str, address: str, ports: range) -> None:
        self._instances_path = instances_path
        self._host_id = host_id
        self._address = address
        self._ports = ports
        self._looks = Looks(instances_path, "probe-look")
        # asyncio's own threads are everybody's. These wait for no look longer than it may take.
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="probe")

    async def answer(self, asked: ProbeRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look and tell; what was opened is closed when the source has ended the line.

        Raises:
            TransferError: `DataPortsBusy`, or the source takes nothing any more.
            StorageError: the file system refused, or does not answer.
        """
        left_here = ExitStack()
        try:
            looking = self._threads.submit(partial(self._leave_and_look, left_here, asked.probe))
            ours, seen = await finished(looking, unstoppable)
            with tls.listen(self._address, self._ports) as listener, _open(listener, asked.certificate) as data:
                await tell(writer, Answer(state=AnswerState.PROBED, probed=Probed(seen=seen, probe=ours, data=data)))
                with suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await reader.read(1)
        finally:
            await completed(self._threads.submit(left_here.close))

    def _leave_and_look(self, left_here: ExitStack, theirs: Probe) -> tuple[Probe, bool]:
        """In this order: who changes a directory itself is told anew what is in it, be it that a cache knew of nothing of the other's."""
        ours = left_here.enter_context(self._looks.held(left(self._instances_path, self._host_id)))
        return ours, self._looks.call(partial(is_seen, self._instances_path, theirs))


@contextmanager
def _open(listener: socket.socket, peer: str) -> Iterator[DataPort]:
    """The listener takes the source in, and lets it go; that it does not come is for the source to tell."""
    own, token = tls.make_identity(), tls.make_token()
    data = DataPort(port=listener.getsockname()[1], token=token, certificate=own.certificate)
    theirs = listener.dup()  # the thread's: one that another closes may be another file by the time that it looks

    def accept() -> None:
        with suppress(TransferError), tls.accept(theirs, own, peer, token):
            return

    threading.Thread(target=copy_context().run, args=(accept,), name="probe-accept", daemon=True).start()
    try:
        yield data
    finally:
        with suppress(OSError):  # nobody is connected: that is what it says then
            listener.shutdown(socket.SHUT_RDWR)  # has the thread end
