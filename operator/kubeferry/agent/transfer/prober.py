"""The target's end of a preflight: it looks, leaves a file of its own, and opens a data port."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kubeferry.agent.storage.probe import is_seen, left
from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.receiver import SILENCE_SECONDS, tell
from kubeferry.agent.transfer.wire import Answer, AnswerState, DataPort, Probed, ProbeRequest


class Prober:
    """Answers what sources ask before they stop a VM."""

    def __init__(self, instances_path: Path, host_id: str, address: str, ports: range) -> None:
        self._instances_path = instances_path
        self._host_id = host_id
        self._address = address
        self._ports = ports

    async def answer(self, asked: ProbeRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look and tell; what was opened is closed when the source has ended the line.

        Raises:
            TransferError: `DataPortsBusy`, or the source takes nothing any more.
            StorageError: the file system refused.
        """
        seen = await asyncio.to_thread(is_seen, self._instances_path, asked.probe)
        left_here = ExitStack()
        try:
            ours = await asyncio.to_thread(left_here.enter_context, left(self._instances_path, self._host_id))
            with tls.listen(self._address, self._ports) as listener, _open(listener, asked.certificate) as data:
                await tell(writer, Answer(state=AnswerState.PROBED, probed=Probed(seen=seen, probe=ours, data=data)))
                with suppress(TimeoutError):
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await reader.read(1)
        finally:
            await asyncio.to_thread(left_here.close)


@contextmanager
def _open(listener: socket.socket, peer: str) -> Iterator[DataPort]:
    """The listener takes the source in, and lets it go; that it does not come is for the source to tell."""
    own, token = tls.make_identity(), tls.make_token()
    data = DataPort(port=listener.getsockname()[1], token=token, certificate=own.certificate)

    def accept() -> None:
        with suppress(TransferError), tls.accept(listener, own, peer, token):
            return

    accepting = threading.Thread(target=accept, name="probe", daemon=True)
    accepting.start()
    try:
        yield data
    finally:
        with suppress(OSError):  # nobody is connected: that is what it says then
            listener.shutdown(socket.SHUT_RDWR)  # has the thread end, which may be in the middle of a handshake with a stranger
