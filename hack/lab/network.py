"""The network of one lab: a bridge of the machine, and a network namespace per host that is plugged into it.

Slot N has the subnet 10.199.N.0/24: the machine (and so the API server) is .1, hosts are .11, .12, ..., guests may take .100 to .254.
What only the machine itself talks to listens at 127.83.N.1.
"""

import errno
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.processes import Processes
from lab.record import Link, Netns, Record
from lab.steps import LabError, run

SLOTS = range(1, 255)
PREFIX = 24
BRIDGE = "br0"
"""Each host's bridge, which guests may be plugged into: its cable is in it, so all of a lab's guests and hosts are in one network."""
NETNS = Path("/run/netns")
LINKS = Path("/sys/class/net")
# On the loopback address.
ETCD_PORT, ETCD_PEER_PORT, MANAGER_PORT, METRICS_PORT = 2379, 2380, 10257, 9808


@dataclass(frozen=True, slots=True)
class Network:
    """The names and addresses of a lab's network.

    Attributes:
        lab: the lab's name.
        slot: 1 to 254, held by no other lab of this machine.
    """

    lab: str
    slot: int

    @property
    def bridge(self) -> str:
        """The machine's end: a bridge."""
        return f"kf-{self.slot}"

    @property
    def address(self) -> str:
        """The machine's address on the bridge."""
        return f"10.199.{self.slot}.1"

    @property
    def loopback(self) -> str:
        """An address that only the machine itself reaches."""
        return f"127.83.{self.slot}.1"

    def host_address(self, number: int) -> str:
        """The address of host 1, 2, ..."""
        return f"10.199.{self.slot}.{10 + number}"

    def netns(self, host: str) -> str:
        """The name of a host's network namespace."""
        return f"kubeferry-{self.lab}-{host}"

    def cable(self, number: int) -> str:
        """The machine's end of the cable to host 1, 2, ..."""
        return f"kf-{self.slot}-{number}"

    def hardware_address(self, number: int) -> str:
        """A fixed MAC for the bridge of host 1, 2, ... and, as 0, of the machine: a bridge without one takes a port's, and changes it."""
        return f"02:6b:66:{self.slot:02x}:00:{number:02x}"


def is_free(slot: int) -> bool:
    """Whether no link and no network namespace of the machine is named by this slot, and nothing listens where the lab would."""
    network = Network(paths.lab_name(slot), slot)
    linked = any(link.name == network.bridge or link.name.startswith(f"{network.bridge}-") for link in LINKS.iterdir())
    # A namespace that was left without its links would still fail the host that gets its name.
    named = any(NETNS.glob(network.netns("*")))
    return (
        not linked
        and not named
        and all(_listenable(network.loopback, port) for port in (ETCD_PORT, ETCD_PEER_PORT, MANAGER_PORT, METRICS_PORT))
    )


def bridges() -> list[str]:
    """The bridges of all labs of this machine."""
    return [link.name for link in LINKS.iterdir() if re.fullmatch(r"kf-\d+", link.name)]


def create_bridge(network: Network, record: Record, processes: Processes) -> None:
    """Make the lab's bridge.

    Raises:
        LabError: the subnet is in use on this machine, or `ip` failed.
    """
    subnet = f"10.199.{network.slot}.0/{PREFIX}"
    if json.loads(processes.run(["ip", "-json", "route", "show", "root", subnet])):
        raise LabError(f"this machine has a route into {subnet}, which the lab wants for its own")
    record.add(Link(network.bridge))
    _batch(
        processes,
        f"link add {network.bridge} address {network.hardware_address(0)} type bridge",
        f"address add {network.address}/{PREFIX} dev {network.bridge}",
        f"link set {network.bridge} up",
    )


def create_host(network: Network, host: str, number: int, record: Record, processes: Processes) -> None:
    """Make a host's network namespace: `BRIDGE` with the host's address, and in it `eth0`, the cable to the lab's bridge.

    Raises:
        LabError: `ip` failed.
    """
    netns, cable = network.netns(host), network.cable(number)
    record.add(Netns(netns))
    record.add(Link(cable))
    _batch(
        processes,
        f"netns add {netns}",
        f"link add {cable} type veth peer name eth0 netns {netns}",
        f"link set {cable} master {network.bridge}",
    )
    _batch(
        processes,
        "link set lo up",
        f"link add {BRIDGE} address {network.hardware_address(number)} type bridge",
        f"address add {network.host_address(number)}/{PREFIX} dev {BRIDGE}",
        f"link set eth0 master {BRIDGE} up",
        f"link set {BRIDGE} up",
        f"route add default via {network.address}",
        netns=netns,
    )


def plug(network: Network, number: int, processes: Processes) -> None:
    """Put a host's cable in."""
    _batch(processes, f"link set {network.cable(number)} up")


def unplug(network: Network, number: int, processes: Processes) -> None:
    """Pull a host's cable: from now on none of its packets arrives anywhere."""
    _batch(processes, f"link set {network.cable(number)} down")


def limit(network: Network, number: int, rate: str, processes: Processes) -> None:
    """Let a host receive no more than so much, as tc(8) writes rates: `8mbit`."""
    cable = network.cable(number)
    processes.run(["tc", "qdisc", "replace", "dev", cable, "root", "tbf", "rate", rate, "burst", "64kbit", "latency", "400ms"])


def unlimit(network: Network, number: int, processes: Processes) -> None:
    """Take a host's limit off."""
    processes.run(["tc", "qdisc", "del", "dev", network.cable(number), "root"])


def remove_link(name: str) -> bool:
    """Remove a link of the machine; False if there is none."""
    if not (LINKS / name).exists():
        return False
    run(["ip", "link", "delete", name])
    return True


def remove_netns(name: str) -> bool:
    """Remove a network namespace; False if there is none."""
    if not (NETNS / name).exists():
        return False
    run(["ip", "netns", "delete", name])
    return True


def _batch(processes: Processes, *commands: str, netns: str | None = None) -> None:
    """Run several commands by one `ip`."""
    where = ["-netns", netns] if netns else []
    processes.run(["ip", *where, "-batch", "-"], stdin="\n".join(commands) + "\n")


def _listenable(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
