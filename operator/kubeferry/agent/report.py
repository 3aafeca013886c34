"""What this host is and holds: its status, as the file system, the journals and the hypervisor say it now."""

import asyncio
import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from kubeferry import __version__
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.look import Look
from kubeferry.agent.machine import Machine
from kubeferry.agent.networks import present_bridges
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.space import instances_file_system, occupied_bytes
from kubeferry.agent.storage.sweep import trash_bytes
from kubeferry.agent.virt.port import HypervisorError, HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import NETWORKS_TOLD, ComputeNodeStatus, Hypervisor, InstancesPath, InventoryItem
from kubeferry.api.meta import Condition, Status, with_condition
from kubeferry.api.names import PROTOCOL_VERSION
from kubeferry.api.role import Role, RunState
from kubeferry.core.journal import Journal

FREE_STEP = 64 << 20
"""Bytes are told in whole steps of so many, free ones rounded down, occupied ones up: or each heartbeat of a guest would be a write."""

log = structlog.get_logger(__name__)


class Report:
    """Looks at each part by itself: one that fails is told, and hides no other. One look at a time."""

    def __init__(self, machine: Machine, journals: JournalStore, hypervisor: HypervisorCalls) -> None:
        self._machine = machine
        self._hypervisor = hypervisor
        path = machine.settings.instances_path
        self._look_at_room = Look(f"the instances path {path}", lambda: _room(path))
        self._look_at_journals = Look(f"the journals in {machine.settings.state_path}", journals.all)
        self._look_at_files = Look(f"the files in {path}", self._allocated_now)
        self._looking = asyncio.Lock()
        self._room: InstancesPath | None = None
        self._held: tuple[Journal, ...] | None = None
        self._unreadable: Mapping[str, StorageError] = {}
        self._facts: HypervisorFacts | None = None
        self._domains: Mapping[str, bool] | None = None
        self._allocated: Mapping[str, int] = {}
        self._conditions: tuple[Condition, ...] = ()

    async def now(self) -> ComputeNodeStatus:
        """The status. Of journals and facts that can't be looked at now, the last that was seen is told; of everything else, nothing.

        Raises:
            StorageError: the journals could not be looked at since the agent began: an empty inventory would read as "no copies".
        """
        async with self._looking:
            failures = [await self._see_room(), await self._see_journals(), await self._see_facts(), await self._see_domains()]
            failures.append(await self._see_files())
            self._judge([failure for failure in failures if failure is not None])
            return self._status(self._held or ())

    def _status(self, held: tuple[Journal, ...]) -> ComputeNodeStatus:
        facts, room = self._facts, self._room
        return ComputeNodeStatus(
            host_id=self._machine.host_id,
            boot_id=self._machine.boot_id,
            protocol_version=PROTOCOL_VERSION,
            agent_version=__version__,
            hypervisor=None if facts is None else Hypervisor(type=facts.domain_type, version=facts.version),
            architecture=None if facts is None else facts.architecture,
            machine_types=() if facts is None else facts.machine_types,
            cpu=None if facts is None else facts.cpu,
            memory=None if facts is None else facts.memory,
            bridges=present_bridges(self._machine.settings.allow.bridges),
            networks=() if facts is None else facts.networks[:NETWORKS_TOLD],
            ssh=self._machine.ssh,
            instances=None if room is None else dataclasses.replace(room, free=room.free - room.free % FREE_STEP),
            inventory=tuple(
                _item(journal, self._domains, self._allocated.get(journal.uid)) for journal in held if journal.role != Role.GONE
            ),
            conditions=self._conditions,
        )

    async def _see_room(self) -> StorageError | None:
        self._room = None
        try:
            self._room = await self._look_at_room.now()
        except StorageError as error:
            return error
        return None

    async def _see_journals(self) -> StorageError | None:
        try:
            held, unreadable = await self._look_at_journals.now()
        except StorageError as error:
            if self._held is None:
                raise
            # What was held is told on, for the same reason.
            self._condition(reasons.JOURNALS_READABLE, Status.FALSE, error.reason, str(error))
            return error
        for uid in unreadable.keys() - self._unreadable.keys():
            log.error("journal unreadable, this VM is left alone", vm_uid=uid, reason=unreadable[uid].reason, error=str(unreadable[uid]))
        self._held, self._unreadable = held, unreadable
        if unreadable:
            message = f"of {len(unreadable)} VMs, the journal can't be read: {', '.join(unreadable)}; {next(iter(unreadable.values()))}"
            self._condition(reasons.JOURNALS_READABLE, Status.FALSE, reasons.JOURNAL_UNREADABLE, message)
        else:
            self._condition(reasons.JOURNALS_READABLE, Status.TRUE, reasons.AS_EXPECTED, "")
        return None

    async def _see_files(self) -> StorageError | None:
        """Of the copies that were seen last."""
        self._allocated = {}
        try:
            self._allocated = await self._look_at_files.now()
        except StorageError as error:
            return error
        return None

    def _allocated_now(self) -> Mapping[str, int]:
        """Bytes that the files of each copy occupy, by uid, in whole steps; runs in a thread."""
        told: dict[str, int] = {}
        for journal in self._held or ():
            if journal.role == Role.GONE:
                continue
            # What can't be told of one copy is left out; that the instances path can't be looked at, the look at its room says.
            with suppress(StorageError):
                occupied = occupied_bytes(self._machine.settings.instances_path, journal.uid, journal.created)
                told[journal.uid] = occupied + -occupied % FREE_STEP
        return told

    async def _see_facts(self) -> HypervisorError | None:
        try:
            self._facts = await self._hypervisor.facts()
        except HypervisorError as error:
            return error
        return None

    async def _see_domains(self) -> HypervisorError | None:
        self._domains = None
        try:
            self._domains = await self._hypervisor.domains()
        except HypervisorError as error:
            return error
        return None

    def _judge(self, failures: list[StorageError | HypervisorError]) -> None:
        if failures:
            self._condition(reasons.READY, Status.FALSE, failures[0].reason, "; ".join(dict.fromkeys(map(str, failures))))
        else:
            self._condition(reasons.READY, Status.TRUE, reasons.AGENT_READY, "libvirt answers, the paths can be read")

    def _condition(self, kind: str, status: Status, reason: str, message: str) -> None:
        self._conditions = with_condition(self._conditions, kind, status, reason, message, None, datetime.now(UTC))


def _room(path: Path) -> InstancesPath:
    """The instances' file system; what lies in the trash gives way to whatever comes, so it counts as free."""
    room = instances_file_system(path)
    return dataclasses.replace(room, free=room.free + trash_bytes(path))


def _item(journal: Journal, domains: Mapping[str, bool] | None, allocated: int | None) -> InventoryItem:
    if domains is None:
        state = RunState.UNKNOWN
    else:
        state = RunState.RUNNING if domains.get(journal.uid) else RunState.STOPPED
    return InventoryItem(
        uid=journal.uid, state=state, role=journal.role, epoch=journal.epoch, epoch_id=journal.epoch_id, allocated=allocated
    )
