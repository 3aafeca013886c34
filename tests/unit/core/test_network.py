"""Network cards of a VM: which it runs with, and that each has an address of its own, for life."""

import dataclasses
from typing import Any

import pytest
from builders import NOON, UID, decided, host, observed, plugged, vm

from kubeferry.api import reasons
from kubeferry.api.domain import DomainInterface
from kubeferry.api.meta import condition
from kubeferry.api.network import BridgeNetwork, LibvirtNetwork, NetworkSource, UserNetwork
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core.domain import mac_addresses
from kubeferry.core.observed import CreatePlacement, VmDecision

MAC = "02:00:00:00:00:01"


def first(made: VirtualMachine, **seen: Any) -> VmDecision:
    return decided(observed(vm=made, hosts=(host(),), **seen), NOON, "e1")


def cards(made: VirtualMachine) -> tuple[DomainInterface, ...]:
    decision = first(made)
    assert isinstance(decision.placement, CreatePlacement)
    return decision.placement.spec.domain.interfaces


def refusal(decision: VmDecision) -> tuple[str, str]:
    assert decision.placement is None
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.SCHEDULED)
    assert told is not None
    return told.reason, told.message


def test_a_vm_without_interfaces_has_none() -> None:
    assert cards(vm()) == ()


def test_cards_come_in_the_order_of_the_interfaces_each_in_the_network_of_its_name() -> None:
    parts = plugged({"name": "c", "macAddress": MAC}, {"name": "a"}, {"name": "b"})
    parts["networks"] = [{"name": "a", "user": {}}, {"name": "b", "libvirt": {"name": "default"}}, {"name": "c", "bridge": {"name": "br7"}}]
    found = cards(vm(**parts))
    assert [(card.name, card.network) for card in found] == [
        ("c", NetworkSource(bridge=BridgeNetwork(name="br7"))),
        ("a", NetworkSource(user=UserNetwork())),
        ("b", NetworkSource(libvirt=LibvirtNetwork(name="default"))),
    ]
    assert found[0].mac == MAC


def test_an_address_that_is_made_is_of_the_vm_and_the_interface_alone_and_locally_administered() -> None:
    made = vm(**plugged({"name": "a"}, {"name": "b"}))
    a, b = (card.mac for card in cards(made))
    # Seen once and written down: it must never change, whatever the version.
    assert (a, b) == ("02:2e:89:9d:35:8b", "02:f3:93:a3:93:d8")
    assert cards(vm(**plugged({"name": "b"}, {"name": "a"})))[1].mac == a
    other = dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, uid=f"{UID}-2"))
    assert set(mac_addresses(other).values()).isdisjoint({a, b})


@pytest.mark.parametrize("networks", [[], [{"name": "b", "user": {}}], [{"name": "a", "user": {}}] * 2], ids=["none", "other", "twice"])
def test_interfaces_and_networks_that_do_not_name_each_other_are_refused_before_placement(networks: list[dict[str, Any]]) -> None:
    reason, message = refusal(first(vm(**(plugged({"name": "a"}) | {"networks": networks}))))
    assert reason == reasons.INVALID_SPEC
    assert "domain.devices.interfaces names a, networks has " in message


def test_an_address_that_another_vm_has_is_refused_with_the_name_of_that_vm() -> None:
    made = vm(**plugged({"name": "a"}, {"name": "b", "macAddress": MAC}))
    reason, message = refusal(first(made, mac_users={MAC: "shop/db-0"}))
    assert reason == reasons.MAC_ADDRESS_IN_USE
    assert message.startswith(f"interface b has the MAC address {MAC}, which VM shop/db-0 has already: ")
    assert isinstance(first(made, mac_users={"02:00:00:00:00:02": "shop/db-0"}).placement, CreatePlacement)
