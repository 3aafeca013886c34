"""What a thread tries at another host within one deadline, so that another thread can end it."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Dial = Callable[[tuple[str, int], float], socket.socket]
"""Makes a TCP connection to an address and a port, in so many seconds; raises `OSError`. As `socket.create_connection`."""


class Attempt:
    """A context: what it holds is let go of at the end."""

    def __init__(self, seconds: float) -> None:
        """The time begins now."""
        self.step = "begin"
        """What it is at, as "it was to ..." may tell."""
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._duplicates: list[socket.socket] = []
        self.is_over = False
        """It was ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            for duplicate in self._duplicates:
                duplicate.close()

    def rest(self) -> float:
        """Seconds that are left; none once it was ended."""
        return 0.0 if self.is_over else max(self._until - time.monotonic(), 0.0)

    def dial(self, to: tuple[str, int], timeout: float) -> socket.socket:
        """A connection that breaks when the attempt is ended.

        Raises:
            OSError: none can be made in that time, or in what is left.
        """
        connection = socket.create_connection(to, timeout=max(min(timeout, self.rest()), 0.001))
        with self._lock:
            # By a duplicate: TLS takes the socket itself over, and a descriptor that was closed may be another file's by then.
            self._duplicates.append(connection.dup())
            if self.is_over:
                self._break()
        return connection

    def end(self) -> None:
        """Have whoever waits for another host, or for time to pass, wait no more. Does not block."""
        with self._lock:
            self.is_over = True
            self._break()

    def _break(self) -> None:
        for duplicate in self._duplicates:
            with suppress(OSError):  # broken already, or closed
                duplicate.shutdown(socket.SHUT_RDWR)
