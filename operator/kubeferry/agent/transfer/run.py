"""The processes that move an agent's data, from their first line to their last word."""

import time
from collections.abc import Callable
from typing import NoReturn

from kubeferry.agent.transfer.filling import fill
from kubeferry.agent.transfer.pace import Pace
from kubeferry.agent.transfer.processes import NewLimit, ReceiveJob, ReceiveWord, SendJob, SendWord, be_process
from kubeferry.agent.transfer.sender import send
from kubeferry.agent.transfer.throttle import Throttle
from kubeferry.api.model import load
from kubeferry.api.task import TaskError


def run_sender() -> NoReturn:
    """Be the process that sends a copy."""
    throttle = Throttle(None, time.monotonic)

    def work(line: bytes, tell: Callable[[object], None]) -> SendWord:
        job = load(SendJob, line)
        throttle.set(job.limit)
        return SendWord(sent=send(job, throttle, Pace(time.monotonic, lambda progress: tell(SendWord(progress=progress)))))

    be_process(work, lambda error: SendWord(error=error), lambda line: throttle.set(load(NewLimit, line).limit))


def run_receiver() -> NoReturn:
    """Be the process that receives a copy."""

    def work(line: bytes, _tell: Callable[[object], None]) -> ReceiveWord:
        return fill(load(ReceiveJob, line))

    def failed(error: TaskError) -> ReceiveWord:
        return ReceiveWord(error=error)

    be_process(work, failed, lambda _line: None)
