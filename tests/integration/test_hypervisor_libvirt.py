"""The real libvirt keeps the contract that the fake is held to: libvirtd and QEMU on a lab host, called over the host's own socket."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypervisor_contract import UUID, HypervisorContract, allowed, machine

from kubeferry.agent.virt.libvirt_port import LibvirtHypervisor
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from lab.hosts import Host
from lab.lab import Lab
from lab.steps import NotYet, wait_until

VIRSH = ("/usr/bin/virsh", "-c", "qemu:///system")


class LibvirtBench:
    """A lab host's libvirtd, and what others do to it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        socket = f"/proc/{host.first_process().pid}/root/run/libvirt/libvirt-sock"
        self.hypervisor = LibvirtHypervisor(f"qemu+unix:///system?socket={socket}", "qemu")

    def define(self, xml: str) -> None:
        self._host.run([*VIRSH, "define", "/dev/stdin"], stdin=xml)

    def undefine(self, uuid: str) -> None:
        self._host.run([*VIRSH, "undefine", uuid])

    def destroy(self, uuid: str) -> None:
        self._host.run([*VIRSH, "destroy", uuid], check=False)

        def gone() -> None:
            if uuid in self._host.run([*VIRSH, "list", "--uuid"]).stdout:
                raise NotYet("virsh lists it")

        wait_until(f"the end of domain {uuid}", gone, seconds=20)

    def signal(self, name: str) -> None:
        """Send a signal to libvirtd."""
        self._host.run(["/bin/sh", "-c", f"kill -{name} $(cat /run/libvirtd.pid)"])

    def stop_service(self) -> None:
        self.signal("KILL")
        self.wait_ended()

    def wait_ended(self) -> None:
        """Wait until libvirtd is gone."""

        def ended() -> None:
            if self._host.run(["/bin/sh", "-c", "kill -0 $(cat /run/libvirtd.pid)"], check=False).returncode == 0:
                raise NotYet("it runs")

        wait_until("the end of libvirtd", ended, seconds=20)

    def start_service(self) -> None:
        self._host.run(["/usr/sbin/libvirtd", "-d"])

        def answers() -> None:
            answer = self._host.run([*VIRSH, "version"], check=False)
            if answer.returncode != 0:
                raise NotYet(answer.stderr)

        wait_until("libvirtd", answers, seconds=30)

    def clear(self) -> None:
        """Leave no domain."""
        self.hypervisor.close()
        for uuid in self._host.run([*VIRSH, "list", "--all", "--uuid"]).stdout.split():
            self._host.run([*VIRSH, "destroy", uuid], check=False)
            self._host.run([*VIRSH, "undefine", uuid], check=False)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    lab = Lab(hosts=("contract",))
    lab.start_infrastructure()
    yield lab.hosts["contract"]
    lab.stop()


@pytest.fixture
def bench(host: Host) -> Iterator[LibvirtBench]:
    made = LibvirtBench(host)
    yield made
    made.clear()


class TestLibvirt(HypervisorContract):
    """The contract."""


def test_the_memory_is_the_hosts_as_its_kernel_tells_it(bench: LibvirtBench) -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert bench.hypervisor.facts().memory == int(total.split()[1]) * 1024


def test_the_power_button_reaches_the_guests_machine(bench: LibvirtBench, host: Host) -> None:
    bench.hypervisor.create(machine(), allowed)
    with ThreadPoolExecutor() as pool:
        heard = pool.submit(host.run, [*VIRSH, "qemu-monitor-event", UUID, "--event", "POWERDOWN", "--timeout", "20"])

        def pressed() -> None:
            bench.hypervisor.shutdown(UUID)  # repeated: one that came before virsh listened is lost
            if not heard.done():
                raise NotYet("virsh has not heard of it")

        wait_until("QEMU's event of a power button", pressed, seconds=20)
        assert "POWERDOWN" in heard.result().stdout


def test_a_call_that_was_under_way_when_libvirtd_died_ends_as_unreachable(bench: LibvirtBench) -> None:
    assert bench.hypervisor.domains() == {}
    bench.signal("STOP")
    with ThreadPoolExecutor() as pool:
        call = pool.submit(bench.hypervisor.domains)
        bench.signal("KILL")
        with pytest.raises(HypervisorError) as refused:
            call.result(timeout=30)
    assert refused.value.reason == reasons.HYPERVISOR_UNREACHABLE
    bench.wait_ended()
    bench.start_service()
    assert bench.hypervisor.domains() == {}
