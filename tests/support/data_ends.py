"""Both ends of a data connection, in one process."""

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from kubeferry.agent.transfer.tls import Identity, Stream, accept, connect, make_identity, make_token
from kubeferry.agent.transfer.wire import DataPort

ADDRESS = "127.0.0.1"
SECONDS = 10.0
"""More than anything here takes."""


@dataclass
class Ends:
    """A receiver that waits in a thread, and what its one sender has."""

    receiver: Identity
    sender: Identity
    token: str
    listener: socket.socket

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def data(self) -> DataPort:
        return DataPort(port=self.port, token=self.token, certificate=self.receiver.certificate)


@contextmanager
def ends() -> Iterator[Ends]:
    with socket.create_server((ADDRESS, 0)) as listener:
        try:
            yield Ends(make_identity(), make_identity(), make_token(), listener)
        finally:
            with suppress(OSError):  # closed by who listened, if all went well
                listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def streams(threads: ThreadPoolExecutor) -> Iterator[tuple[Stream, Stream]]:
    """Both ends of a connection: the receiver's, the sender's."""
    with ends() as two, ExitStack() as stack:
        data = two.data
        accepting: Future[Stream] = threads.submit(
            lambda: stack.enter_context(accept(two.listener, two.receiver, two.sender.certificate, two.token))
        )
        with connect(ADDRESS, data, two.sender) as sender:
            yield accepting.result(SECONDS), sender
