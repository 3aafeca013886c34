import pytest

from kubeferry.agent.virt.capabilities import parse_capabilities
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.computenode import MachineType
from kubeferry.api.domain import Architecture

GUEST = """
<guest><os_type>hvm</os_type><arch name='{arch}'>
  <emulator>/usr/bin/qemu-system-{arch}</emulator>
  <machine maxCpus='288'>pc-q35-7.2</machine>
  <machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine>
  <machine maxCpus='1' deprecated='yes'>{extra}</machine>
  {types}
</arch></guest>"""
BOTH = "<domain type='qemu'/><domain type='kvm'/>"


def capabilities(*guests: str, arch: str = "x86_64", model: str = "<model>EPYC</model>") -> str:
    """As libvirt 9.0 tells them, cut to what is read."""
    return f"<capabilities><host><cpu><arch>{arch}</arch>{model}</cpu></host>{''.join(guests)}</capabilities>"


def guest(arch: str = "x86_64", extra: str = "isapc", types: str = BOTH) -> str:
    return GUEST.format(arch=arch, extra=extra, types=types)


def test_machine_types_are_those_of_the_hosts_architecture_sorted_with_what_aliases_stand_for() -> None:
    offered = parse_capabilities(capabilities(guest("i686", extra="only-32-bit"), guest()), "qemu")
    assert offered.architecture == Architecture.AMD64
    assert offered.cpu_model == "EPYC"
    assert offered.machine_types == (
        MachineType(name="isapc"),
        MachineType(name="pc-q35-7.2"),
        MachineType(name="q35", canonical="pc-q35-7.2"),
    )


def test_a_cpu_that_libvirt_has_no_model_for_is_unknown() -> None:
    assert parse_capabilities(capabilities(guest(), model=""), "kvm").cpu_model == "unknown"


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        pytest.param(capabilities(guest(types="<domain type='qemu'/>")), r"\['qemu'\].*'kvm' is configured", id="kvm is not offered"),
        pytest.param(capabilities(guest("i686")), r"\[\].*x86_64", id="only 32-bit guests"),
        pytest.param(capabilities(guest().replace("hvm", "xen")), r"\[\]", id="only paravirtual guests"),
        pytest.param(capabilities(guest("riscv64"), arch="riscv64"), "'riscv64', expected one of: x86_64", id="another architecture"),
    ],
)
def test_a_host_that_can_not_run_guests_says_why(xml: str, says: str) -> None:
    with pytest.raises(HypervisorError, match=says) as refused:
        parse_capabilities(xml, "kvm")
    assert refused.value.reason == reasons.HYPERVISOR_ERROR
