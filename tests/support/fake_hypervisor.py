"""An in-memory hypervisor that keeps libvirt's rules: one domain per uuid and name, transient ones leave nothing behind."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from kubeferry.agent.virt.port import ExpiredError, HypervisorError, HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.computenode import MachineType, NodeCpu
from kubeferry.api.domain import Architecture

FACTS = HypervisorFacts(
    domain_type="qemu",
    version="7.2.22",
    architecture=Architecture.AMD64,
    machine_types=(MachineType(name="pc-q35-7.2"), MachineType(name="q35", canonical="pc-q35-7.2")),
    cpu=NodeCpu(count=8, model="qemu64"),
    memory=16 << 30,
    networks=("default",),
)


@dataclass(slots=True)
class _Domain:
    name: str
    xml: str
    persistent: bool
    running: bool


class FakeHypervisor:
    """A `Hypervisor`; `listen`, `define`, `stop_service`, `start_service` and `power_cut` are what others do to it."""

    def __init__(self, facts: HypervisorFacts = FACTS) -> None:
        self._facts = facts
        self._lock = threading.Lock()
        self._domains: dict[str, _Domain] = {}
        self._callback: Callable[[str], None] | None = None
        self._serving = True
        self._connected = True
        self._listening: set[str] = set()
        self.pressed: list[str] = []
        self.was_pressed = threading.Event()
        self.starts = 0
        """The domain of each press of a power button, heard or not."""

    def facts(self) -> HypervisorFacts:
        with self._lock:
            self._connect()
            return self._facts

    def domains(self) -> Mapping[str, bool]:
        with self._lock:
            self._connect()
            return {uuid: domain.running for uuid, domain in self._domains.items()}

    def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        with self._lock:
            self._connect()
            uuid, name = _parse(xml, self._facts)
            self._refuse_known(uuid, name)
            if not allowed():
                raise ExpiredError
            self._domains[uuid] = _Domain(name, xml, persistent=False, running=True)
            self.starts += 1
        self._tell(uuid)

    def shutdown(self, uuid: str) -> None:
        with self._lock:
            self._connect()
            if not self._runs(uuid):
                return
            self.pressed.append(uuid)
            self.was_pressed.set()
            if uuid not in self._listening:
                return
            self._end(uuid)
        self._tell(uuid)

    def destroy(self, uuid: str) -> None:
        with self._lock:
            self._connect()
            if not self._runs(uuid):
                return
            self._end(uuid)
        self._tell(uuid)

    def watch(self, callback: Callable[[str], None]) -> None:
        with self._lock:
            self._callback = callback
            self._connect()

    def xml(self, uuid: str) -> str:
        """What the domain was made from."""
        return self._domains[uuid].xml

    def define(self, xml: str) -> None:
        """`virsh define`: a domain that is not ours."""
        with self._lock:
            uuid, name = _parse(xml, self._facts)
            self._refuse_known(uuid, name)
            self._domains[uuid] = _Domain(name, xml, persistent=True, running=False)
        self._tell(uuid)

    def undefine(self, uuid: str) -> None:
        """`virsh undefine` of a domain that does not run."""
        with self._lock:
            del self._domains[uuid]
        self._tell(uuid)

    def listen(self, uuid: str) -> None:
        """The guest's system heeds the power button from now on, until its domain ends. Without this it does not."""
        self._listening.add(uuid)

    def ignore(self, uuid: str) -> None:
        """It does not any more."""
        self._listening.discard(uuid)

    def stop_service(self) -> None:
        """The daemon ends; domains run on."""
        self._serving = self._connected = False

    def start_service(self) -> None:
        """The daemon is back."""
        self._serving = True

    def power_cut(self) -> None:
        """The host goes down and comes back: no domain runs, and nobody was told."""
        with self._lock:
            self._connected = False
            self._domains = {uuid: domain for uuid, domain in self._domains.items() if domain.persistent}
            self._listening.clear()
            for domain in self._domains.values():
                domain.running = False

    def _runs(self, uuid: str) -> bool:
        return uuid in self._domains and self._domains[uuid].running

    def _end(self, uuid: str) -> None:
        self._listening.discard(uuid)
        if self._domains[uuid].persistent:
            self._domains[uuid].running = False
        else:
            del self._domains[uuid]

    def _connect(self) -> None:
        if not self._serving:
            raise HypervisorError(reasons.HYPERVISOR_UNREACHABLE, "the fake's service is stopped: start it", retryable=True)
        self._connected = True

    def _refuse_known(self, uuid: str, name: str) -> None:
        for known, domain in self._domains.items():
            if known == uuid or domain.name == name:
                raise HypervisorError(reasons.HYPERVISOR_ERROR, f"domain {domain.name!r} already exists with uuid {known}")

    def _tell(self, uuid: str) -> None:
        if self._callback is not None and self._connected:
            # Joined, so that a test knows when it was told; from another thread, as libvirt does.
            thread = threading.Thread(target=self._callback, args=(uuid,))
            thread.start()
            thread.join()


def _parse(xml: str, facts: HypervisorFacts) -> tuple[str, str]:
    """Uuid and name of a domain that this hypervisor can run."""
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - made by a test
    except ElementTree.ParseError as error:
        raise HypervisorError(reasons.HYPERVISOR_ERROR, f"malformed XML: {error}") from error
    uuid, name, memory = (root.findtext(tag) for tag in ("uuid", "name", "memory"))
    kind = root.find("os/type")
    if not (uuid and name and memory) or kind is None:
        raise HypervisorError(reasons.HYPERVISOR_ERROR, "a domain has a uuid, a name, memory and an os type")
    if kind.get("machine") not in {machine.name for machine in facts.machine_types}:
        raise HypervisorError(reasons.HYPERVISOR_ERROR, f"unsupported machine type {kind.get('machine')}")
    return uuid, name
