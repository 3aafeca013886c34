"""Tells what a status that was written means: Events for people, numbers for machines. No pass waits for it."""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from structlog.contextvars import bound_contextvars, get_contextvars

from kubeferry.api.migration import Migration, MigrationStatus
from kubeferry.api.virtualmachine import VirtualMachine, VirtualMachineStatus
from kubeferry.controller.metrics import Metrics
from kubeferry.core import events
from kubeferry.kube.errors import KubeError
from kubeferry.kube.events import Occurrence, write_event
from kubeferry.kube.server import Server

REPORTER = "kubeferry.io/controller"
WAITING = 1000
"""Events that wait to be written; what comes on top of them is not told."""
_ACTIONS = {Migration: "Migrate", VirtualMachine: "Run"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _News:
    read: VirtualMachine | Migration
    event: events.Event
    at: datetime
    names: Mapping[str, object]
    """What the log lines tell of the pass that it is of."""


class Herald:
    """Called after each write of a status, with what was told before. A VM may be off meanwhile, so Events are written on the side."""

    def __init__(self, server: Server, metrics: Metrics) -> None:
        self._server = server
        self._metrics = metrics
        self._instance = socket.gethostname()
        self._news: asyncio.Queue[_News] = asyncio.Queue(WAITING)
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write_all(), name="herald")

    async def stop(self, grace: timedelta) -> None:
        """Write what waits, for that long, and then no more."""
        if self._writer is None:
            return
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._news.join()
        except TimeoutError:
            log.warning("events are not told: the controller ends", waiting=self._news.qsize())
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    def told(self, read: VirtualMachine | Migration, status: object) -> None:
        """A status was written.

        Args:
            read: the object as it was before, with the status told then.
            status: the status that it has now.
        """
        match read, status:
            case Migration(), MigrationStatus():
                self._metrics.told(read.status, status)
                happened = events.of_migration(read.status, status)
            case VirtualMachine(), VirtualMachineStatus():
                happened = events.of_vm(read.status, status)
            case _:
                raise TypeError(f"a {type(status).__name__} is no status of a {type(read).__name__}")
        self._happened(read, happened)

    def deleted(self, vm: VirtualMachine) -> None:
        """A VM was let go: no host holds anything of it, but in its trash."""
        self._happened(vm, (events.DELETED,))

    def _happened(self, read: VirtualMachine | Migration, happened: Iterable[events.Event]) -> None:
        with bound_contextvars(**_name(read)):
            for event in happened:
                log.info("event", kind=type(read).__name__, reason=event.reason, note=event.note)
                try:
                    self._news.put_nowait(_News(read, event, datetime.now(UTC), get_contextvars()))
                except asyncio.QueueFull:
                    log.warning("event is not told: too many wait", kind=type(read).__name__, reason=event.reason)

    async def _write_all(self) -> None:
        while True:
            news = await self._news.get()
            with bound_contextvars(**news.names, event_reason=news.event.reason):
                try:
                    await self._write(news)
                except KubeError as error:  # the status tells the same
                    log.warning("event could not be told", reason=error.reason, error=str(error))
                except Exception:  # whatever it is, the next ones are to be told
                    log.exception("event could not be told")
                finally:
                    self._news.task_done()

    async def _write(self, news: _News) -> None:
        kind, event = type(news.read), news.event
        what = Occurrence(reason=event.reason, note=event.note, action=_ACTIONS[kind], type="Warning" if event.warning else "Normal")
        meta = news.read.metadata
        await write_event(self._server, kind, meta, what, controller=REPORTER, instance=self._instance, now=news.at)


def _name(read: VirtualMachine | Migration) -> dict[str, str]:
    """What the log lines call it; a Migration may be another one than the pass is of."""
    return {"vm" if isinstance(read, VirtualMachine) else "migration": f"{read.metadata.namespace}/{read.metadata.name}"}
