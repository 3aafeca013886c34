"""The processes that move an agent's data: what it tells them and what they tell it, as lines of JSON on their standard input and output.

Processes, not threads: they hash, encrypt and wait for disks beside the agent, and can be ended at any moment. A process ends when
its standard input does, and that is when its agent ends; until then it holds the host's lock (`agent.identity.take_host_lock`), so
no other agent begins beside it.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import structlog
from pydantic import Field, ValidationError

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.tls import Identity
from kubeferry.agent.transfer.wire import FILES_LIMIT, Certificate, FileHeader, Request, Token
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.model import MESSAGE_LENGTH, Bytes, Digest, Int, dump, model
from kubeferry.api.task import TaskError, TaskProgress

log = structlog.get_logger(__name__)

LOG_NAMES = "KUBEFERRY_LOG_NAMES"
"""The environment variable with what each of its log lines names, as JSON. No argument: a uid in a command line is QEMU's."""
LINE_LIMIT = 64 << 10
"""Bytes of a line."""

Descriptor = Annotated[Int, Field(ge=3)]
"""Of a file that the process was given open."""


@model
class SendJob:
    """What a sending process is to do."""

    endpoint: SshEndpoint
    identity: str
    """Path of this host's private key."""
    request: Request
    directory: str
    """The VM's instance directory."""
    names: Annotated[tuple[str, ...], Field(max_length=FILES_LIMIT)]
    """Of the files to send."""
    inodes: dict[str, int]
    """Inode number of each of them that is a disk, as the journal tells."""
    limit: Bytes | None = None
    """Bytes a second."""


@model
class NewLimit:
    """What it is told while it sends."""

    limit: Bytes | None = None


@model
class Sent:
    """A copy that the target has verified."""

    bytes_sent: Bytes
    """Bytes of data that went over the network; 0 where the target had it whole already."""
    digest: Digest | None = None
    """Of all files together; None where the target had them whole already."""


@model
class SendWord:
    """What it tells: how far it is, and at last what came of it."""

    progress: TaskProgress | None = None
    sent: Sent | None = None
    error: TaskError | None = None


@model
class PartJob:
    """A file that is to be filled."""

    header: FileHeader
    part: Descriptor
    manifest: Descriptor
    fresh: bool
    """Nothing was ever written to the part."""


@model
class ReceiveJob:
    """What a receiving process is to do."""

    listener: Descriptor
    parts: tuple[PartJob, ...]
    own: Identity
    peer: Certificate
    token: Token


@model
class ReceiveWord:
    """What came of it."""

    digests: dict[str, Digest] | None = None
    """Of each file, by name, as read back."""
    sent: dict[str, Digest] | None = None
    """As the sender told them."""
    error: TaskError | None = None


def be_process(
    work: Callable[[bytes, Callable[[object], None]], object],
    failed: Callable[[TaskError], object],
    on_line: Callable[[bytes], None],
) -> NoReturn:
    """Be such a process: do the work that the first line asks, tell what came of it, and end.

    Args:
        work: given the first line and what tells a word; the last word is its result.
        failed: the last word of a failure.
        on_line: given each later line, in another thread.
    """
    # Whatever prints must not print into the words.
    structlog.contextvars.bind_contextvars(**json.loads(os.environ.get(LOG_NAMES, "{}")))
    words = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    telling = threading.Lock()

    def tell(word: object) -> None:
        with telling:
            words.write(json.dumps(dump(word)).encode() + b"\n")

    lines = sys.stdin.buffer
    first = lines.readline(LINE_LIMIT)
    threading.Thread(target=_listen, args=(lines, on_line), daemon=True).start()
    try:
        tell(work(first, tell))
    except ValidationError as error:  # which shows what it was told, keys too
        seen = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        log.error("a process that moves data was told a job that it does not understand", seen=seen)
        message = f"the process that moves data does not understand its job: {seen}; the agent was replaced while it ran: start it anew"
        tell(failed(TaskError(reason=reasons.INTERNAL_ERROR, message=message[:MESSAGE_LENGTH])))
    except (StorageError, TransferError) as failure:
        tell(failed(TaskError(reason=failure.reason, message=str(failure)[:MESSAGE_LENGTH], retryable=failure.retryable)))
    except Exception as defect:
        log.exception("a process that moves data failed unexpectedly")
        message = f"the process that moves data met what it does not know, {defect!r}: see the agent's log on this node, and report it"
        tell(failed(TaskError(reason=reasons.INTERNAL_ERROR, message=message[:MESSAGE_LENGTH])))
    finally:
        os._exit(0)


def _listen(lines: Any, on_line: Callable[[bytes], None]) -> None:
    try:
        while line := lines.readline(LINE_LIMIT):
            on_line(line)
    except Exception:
        log.exception("a process that moves data was told what it does not understand")
    finally:
        os._exit(1)  # the agent is no more, or can't be heard: nothing may be written beside its successor
