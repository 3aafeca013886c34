"""The node's own libvirtd, over its socket."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from xml.etree import ElementTree

import libvirt  # type: ignore[import-untyped]

from kubeferry.agent.virt.capabilities import parse_capabilities
from kubeferry.agent.virt.port import DomainType, ExpiredError, HypervisorError, HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import NodeCpu

_KEEPALIVE_INTERVAL = 5
"""Seconds without a byte before libvirtd is asked whether it is alive."""
_KEEPALIVE_COUNT = 3
"""Questions without an answer before the connection counts as dead."""


@cache
def _event_loop() -> threading.Thread:
    """Start libvirt's event loop, once in a process and before its first connection: keepalive and events need it."""
    # Every error is raised as well; printed to stderr besides, it would only stand twice in the log, once without context.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
    thread.start()
    return thread


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


@dataclass(slots=True)
class _Session:
    """A connection, closed by the last call that uses it: libvirt frees it at once, also below a call of another thread."""

    connection: libvirt.virConnect
    watch: int | None
    """Id of the registered callback, which keeps the connection in memory until it is deregistered."""
    calls: int = 0
    retired: bool = False


class LibvirtHypervisor:
    """A `Hypervisor` that reconnects: a call after the connection was lost opens a new one.

    No call is repeated by itself: whether a `create` that was cut off took effect is for the caller to look at.
    """

    def __init__(self, uri: str, domain_type: DomainType) -> None:
        """Nothing is opened yet.

        Args:
            uri: `qemu:///system`, or `qemu+unix:///system?socket=PATH`.
            domain_type: what its domains are rendered with; `facts` checks that it is offered.
        """
        self._uri = uri
        self._domain_type: DomainType = domain_type
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._callback: Callable[[str], None] | None = None

    def facts(self) -> HypervisorFacts:
        """See `Hypervisor.facts`."""
        with self._connected() as connection:
            xml = connection.getCapabilities()
            version = connection.getVersion()
            cpus = connection.getInfo()[2]
            # Not getInfo's: that sums NUMA cells, which know nothing of memory that was plugged in later.
            memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)[libvirt.VIR_NODE_MEMORY_STATS_TOTAL]
            networks = _active_networks(connection)
        offered = parse_capabilities(xml, self._domain_type)
        return HypervisorFacts(
            domain_type=self._domain_type,
            version=f"{version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}",
            architecture=offered.architecture,
            machine_types=offered.machine_types,
            cpu=NodeCpu(count=cpus, model=offered.cpu_model),
            memory=memory * 1024,
            networks=networks,
        )

    def domains(self) -> Mapping[str, bool]:
        """See `Hypervisor.domains`."""
        with self._connected() as connection:
            return _domains(connection)

    def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        """See `Hypervisor.create`."""
        uuid = _uuid(xml)
        with self._connected() as connection:
            # libvirt would start a defined domain of that uuid and name, and keep its definition: `virsh start` could run it later.
            if uuid in _domains(connection):
                raise HypervisorError(
                    reasons.HYPERVISOR_ERROR,
                    f"libvirt knows a domain with uuid {uuid} already, expected none; if it is not this VM's, destroy and undefine it",
                )
            if not allowed():
                raise ExpiredError
            connection.createXML(xml)

    def shutdown(self, uuid: str) -> None:
        """See `Hypervisor.shutdown`."""
        with self._connected() as connection, _unless_ended(connection, uuid):
            connection.lookupByUUIDString(uuid).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def destroy(self, uuid: str) -> None:
        """See `Hypervisor.destroy`."""
        with self._connected() as connection, _unless_ended(connection, uuid):
            connection.lookupByUUIDString(uuid).destroy()

    def watch(self, callback: Callable[[str], None]) -> None:
        """See `Hypervisor.watch`."""
        with self._lock:
            self._callback = callback
            self._retire_session()
        with self._connected():
            pass

    def close(self) -> None:
        """End the connection; domains run on."""
        with self._lock:
            self._retire_session()

    @contextmanager
    def _connected(self) -> Iterator[libvirt.virConnect]:
        with self._lock:
            session = self._live_session()
            session.calls += 1
        try:
            yield session.connection
        except libvirt.libvirtError as error:
            if session.connection.isAlive():
                raise HypervisorError(reasons.HYPERVISOR_ERROR, f"libvirt: {error}") from error
            raise self._unreachable(error) from error
        finally:
            with self._lock:
                session.calls -= 1
                _close_unused(session)

    def _live_session(self) -> _Session:
        if self._session is not None and self._session.connection.isAlive():
            return self._session
        self._retire_session()
        if not _event_loop().is_alive():
            raise HypervisorError(
                reasons.HYPERVISOR_UNREACHABLE,
                "libvirt's event loop has ended (its error is in the agent's log): restart the agent",
                retryable=True,
            )
        try:
            self._session = self._connect()
        except libvirt.libvirtError as error:
            raise self._unreachable(error) from error
        return self._session

    def _connect(self) -> _Session:
        session = _Session(libvirt.open(self._uri), watch=None)
        session.connection.setKeepAlive(_KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT)
        if self._callback is not None:
            event = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
            session.watch = session.connection.domainEventRegisterAny(None, event, _notify, self._callback)
        return session

    def _retire_session(self) -> None:
        if self._session is not None:
            self._session.retired = True
            _close_unused(self._session)
            self._session = None

    def _unreachable(self, error: libvirt.libvirtError) -> HypervisorError:
        return HypervisorError(
            reasons.HYPERVISOR_UNREACHABLE,
            f"libvirtd does not answer at {self._uri}: {error}; see that it runs, and that its socket's directory is mounted",
            retryable=True,
        )


@contextmanager
def _unless_ended(connection: libvirt.virConnect, uuid: str) -> Iterator[None]:
    """Let an error go if the domain has no process any more: it ended before the call, or meanwhile."""
    try:
        yield
    except libvirt.libvirtError:
        # Not told by the error's code: beside "no domain" and "not running", it may be that of a monitor that was cut off.
        if _domains(connection).get(uuid):
            raise


def _domains(connection: libvirt.virConnect) -> Mapping[str, bool]:
    # The id came with the list: asked one by one, a domain could be gone in between.
    return {domain.UUIDString(): domain.ID() != -1 for domain in connection.listAllDomains()}


def _active_networks(connection: libvirt.virConnect) -> tuple[str, ...]:
    try:
        found = connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
    except libvirt.libvirtError:
        # A host may do without libvirt's network driver, or its daemon: it offers none of its networks, and all the rest.
        if not connection.isAlive():
            raise
        return ()
    return tuple(sorted(network.name() for network in found))


def _close_unused(session: _Session) -> None:
    if not session.retired or session.calls > 0:
        return
    if session.watch is not None:
        # This end forgets the callback first and tells libvirtd then, who is gone if the connection is dead.
        with suppress(libvirt.libvirtError):
            session.connection.domainEventDeregisterAny(session.watch)
    session.connection.close()


def _notify(_connection: libvirt.virConnect, domain: libvirt.virDomain, _event: int, _detail: int, callback: Callable[[str], None]) -> None:
    callback(domain.UUIDString())


def _uuid(xml: str) -> str | None:
    try:
        return ElementTree.fromstring(xml).findtext("uuid")  # noqa: S314 - the agent rendered it
    except ElementTree.ParseError as error:
        raise HypervisorError(reasons.HYPERVISOR_ERROR, f"the domain XML is malformed: {error}; this is a defect of kubeferry") from error
