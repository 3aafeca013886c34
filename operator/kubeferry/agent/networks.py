"""What VMs may be plugged into on this host: the bridges that its operator lists, and the networks of its libvirt."""

from collections.abc import Collection, Iterable
from pathlib import Path

from kubeferry.agent.errors import RefusedError
from kubeferry.api import reasons
from kubeferry.api.domain import Domain

LINKS = Path("/sys/class/net")
"""The links of the network namespace that /sys was mounted in: the host's."""


def present_bridges(allowed: Iterable[str]) -> tuple[str, ...]:
    """Those of the allowed bridges that are there, by name."""
    return tuple(sorted(name for name in set(allowed) if (LINKS / name / "bridge").is_dir()))


def require_bridges(domain: Domain, allowed: Collection[str]) -> None:
    """Look that the VM's bridges may be had, and are there.

    Args:
        domain: what the VM runs with.
        allowed: the bridges that VMs may be plugged into.

    Raises:
        RefusedError: `BridgeNotAllowed`, with the same message whether such a bridge exists or not; `NetworkUnavailable`.
    """
    for name in sorted(domain.bridges):
        if name not in allowed:
            raise RefusedError(
                reasons.BRIDGE_NOT_ALLOWED,
                f"bridge {name} is not allowed: allow.bridges of the agent's configuration lists {', '.join(allowed) or 'none'}; "
                "name one of those, or have the operator of the node extend the list",
            )
        if not present_bridges([name]):
            raise RefusedError(
                reasons.NETWORK_UNAVAILABLE,
                f"this host has no bridge {name}, although its agent would allow it: make the bridge, or take another host",
                retryable=True,
            )


def require_networks(domain: Domain, allowed: Collection[str], active: Collection[str]) -> None:
    """Look that the VM can be plugged into every network that it names.

    Args:
        domain: what the VM runs with.
        allowed: the bridges that VMs may be plugged into.
        active: the active networks of libvirt.

    Raises:
        RefusedError: as `require_bridges`; `NetworkUnavailable`: libvirt has no such active network.
    """
    require_bridges(domain, allowed)
    if lacking := sorted(domain.libvirt_networks - frozenset(active)):
        raise RefusedError(
            reasons.NETWORK_UNAVAILABLE,
            f"this host's libvirt has no active network {', '.join(lacking)}; it has {', '.join(active) or 'none'}: "
            "start it (`virsh net-start`), or take another host",
            retryable=True,
        )
