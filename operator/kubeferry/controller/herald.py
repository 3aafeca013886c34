"""Tells what a status that was written means: Events for people, numbers for machines. Nothing waits for it, and nothing hangs on it."""

import socket
from datetime import UTC, datetime

import structlog

from kubeferry.api.migration import Migration, MigrationStatus
from kubeferry.api.virtualmachine import VirtualMachine, VirtualMachineStatus
from kubeferry.controller.metrics import Metrics
from kubeferry.core import events
from kubeferry.kube.errors import KubeError
from kubeferry.kube.events import Occurrence, write_event
from kubeferry.kube.server import Server

REPORTER = "kubeferry.io/controller"
_ACTIONS = {Migration: "Migrate", VirtualMachine: "Run"}

log = structlog.get_logger(__name__)


class Herald:
    """Called after each write of a status, with what was told before."""

    def __init__(self, server: Server, metrics: Metrics) -> None:
        self._server = server
        self._metrics = metrics
        self._instance = socket.gethostname()

    async def told(self, read: VirtualMachine | Migration, status: object) -> None:
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
        for event in happened:
            await self._write(read, event)

    async def _write(self, read: VirtualMachine | Migration, event: events.Event) -> None:
        what = Occurrence(reason=event.reason, note=event.note, action=_ACTIONS[type(read)], type="Warning" if event.warning else "Normal")
        log.info("event", reason=event.reason, note=event.note, kind=type(read).__name__, name=read.metadata.name)
        try:
            await write_event(
                self._server, type(read), read.metadata, what, controller=REPORTER, instance=self._instance, now=datetime.now(UTC)
            )
        except KubeError as error:  # the status tells the same
            log.warning("event could not be told", reason=error.reason, error=str(error))
