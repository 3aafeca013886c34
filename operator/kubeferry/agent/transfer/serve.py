"""The forced command of sshd: it checks what is asked, tells the agent who asks, and then only relays bytes.

It is started for each command of another agent, so it imports little, and it keeps no state: what is done is done by the agent.
"""

import json
import os
import socket
import threading
from pathlib import Path

from kubeferry.agent.transfer.vocabulary import HELLO_LIMIT, VOCABULARY

_BUFFER = 1 << 18
"""Bytes relayed at a time."""
_CONNECT_SECONDS = 10.0

_STDIN = 0
_STDOUT = 1


class ServeError(Exception):
    """The command is refused, or the agent does not listen."""


def serve(path: Path, peer: str, command: str | None) -> None:
    """Relay between standard input and output and the agent's socket, until the agent has ended its side.

    When the other agent ends its side, this host's agent is told, and what it still says is relayed.

    Args:
        path: the agent's unix socket.
        peer: the node that asks, as sshd knows it by its key.
        command: what it asks (sshd's SSH_ORIGINAL_COMMAND); None: it asked for a shell.

    Raises:
        ServeError: the command is none of the vocabulary; the agent does not listen.
    """
    if command not in VOCABULARY:
        raise ServeError(f"the command {(command or '')[:80]!r} is refused: one of {', '.join(VOCABULARY)} was expected")
    hello = json.dumps({"peer": peer, "command": command}).encode() + b"\n"
    if len(hello) > HELLO_LIMIT:
        raise ServeError(f"the name of the node that asks is {len(peer)} characters long: no name of a node is")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        try:
            agent.settimeout(_CONNECT_SECONDS)
            agent.connect(str(path))
            agent.settimeout(None)
            agent.sendall(hello)
        except OSError as error:
            raise ServeError(f"the agent does not listen on {path}: {error.strerror or error}; see that it runs on this node") from error
        threading.Thread(target=_send, args=(agent,), daemon=True).start()
        _receive(agent)


def _send(agent: socket.socket) -> None:
    """From the other agent to this host's. An agent that closed its side is heard to the end by `_receive`, so no error is one here."""
    try:
        while data := os.read(_STDIN, _BUFFER):
            agent.sendall(data)
        agent.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _receive(agent: socket.socket) -> None:
    """From this host's agent to the other. Either going away ends it."""
    try:
        while data := agent.recv(_BUFFER):
            view = memoryview(data)
            while view:
                view = view[os.write(_STDOUT, view) :]
    except (ConnectionResetError, BrokenPipeError):
        return
