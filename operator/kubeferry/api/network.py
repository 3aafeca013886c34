"""Networks of a VM, and how it is plugged into them."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeferry.api.model import Label, Rule, model, model_with

INTERFACES = 8
"""Interfaces that a VM can have."""

MacAddress = Annotated[str, Field(max_length=17, pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
"""A MAC address in lower case: 02:00:5e:10:00:01."""


BridgeName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Name of a bridge: the kernel takes up to 15 characters."""


class InterfaceModel(StrEnum):
    """The network card that the guest sees."""

    VIRTIO = "virtio"


@model
class BridgeNetwork:
    """A bridge of the node (Linux bridge): the guest is in the network that the node's administrators plugged it into."""

    name: Annotated[BridgeName, Field(description="Name of the bridge; it is in the allow-list of the node's agent.")]


@model
class LibvirtNetwork:
    """A network of the node's libvirt."""

    name: Annotated[
        str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the network; it is active.")
    ]


@model
class UserNetwork:
    """QEMU's own network (slirp): the guest reaches what its node reaches, at 10.0.2.2 the node's loopback, too; nobody reaches it."""


@model
class NetworkSource:
    """What an interface is plugged into; exactly one is set."""

    bridge: Annotated[BridgeNetwork | None, Field(description="A bridge of the node.")] = None
    libvirt: Annotated[LibvirtNetwork | None, Field(description="A network of the node's libvirt.")] = None
    user: Annotated[
        UserNetwork | None,
        Field(description="QEMU's own network: the guest reaches what its node reaches, the node's loopback, too; nobody reaches it."),
    ] = None


@model_with(
    Rule(
        "[has(self.bridge), has(self.libvirt), has(self.user)].filter(set, set).size() == 1",
        message="a network is exactly one of bridge, libvirt and user",
    )
)
class Network(NetworkSource):
    """A network that an interface names."""

    name: Annotated[Label, Field(description="The network's name, for the interface that is plugged into it.")]


@model_with(
    Rule(
        "!has(self.macAddress) || (!self.macAddress.matches('^.[13579bdf]') && self.macAddress != '00:00:00:00:00:00')",
        message="macAddress is no address of one card: multicast (its first byte is odd), or all zeros; take one like 02:00:00:00:00:01",
        path=".macAddress",
    )
)
class Interface:
    """A network card of the guest, plugged into the network of the same name."""

    name: Annotated[Label, Field(description="Name of a network.")]
    model: Annotated[InterfaceModel, Field(description="The network card that the guest sees.")] = InterfaceModel.VIRTIO
    mac_address: Annotated[
        MacAddress | None,
        Field(description="Its MAC address, in lower case; absent: one is made of the VM's uid and the name, and stays for life."),
    ] = None
