from typing import Any

from lab.cluster import collections, node
from lab.network import Network


def crd(plural: str, **versions: bool) -> dict[str, Any]:
    served = [{"name": name, "served": served} for name, served in versions.items()]
    return {"kind": "CustomResourceDefinition", "spec": {"group": "example.org", "names": {"plural": plural}, "versions": served}}


def test_every_served_version_of_every_crd_is_a_collection_to_wait_for() -> None:
    manifests = [crd("ships", v1=True, v0=False), {"kind": "Namespace"}, crd("boats", v1=True, v2=True)]
    assert collections(manifests) == ["/apis/example.org/v1/ships", "/apis/example.org/v1/boats", "/apis/example.org/v2/boats"]


def test_a_node_is_a_ready_hypervisor() -> None:
    made = node("worker-1", "10.0.0.1", "2026-01-01T00:00:00Z")
    assert made["metadata"]["labels"]["kubeferry.io/hypervisor"] == "true"
    assert [(c["type"], c["status"]) for c in made["status"]["conditions"]] == [("Ready", "True")]


def test_names_of_links_fit_into_the_kernels_15_characters_also_in_the_last_slot() -> None:
    network = Network("lab-254", 254)
    assert max(len(network.bridge), len(network.cable(20))) <= 15


def test_labs_share_no_address_and_no_name() -> None:
    def names(network: Network) -> set[str]:
        hosts = {network.host_address(1), network.netns("worker-1"), network.cable(1), network.hardware_address(1)}
        return hosts | {network.bridge, network.address, network.loopback, network.hardware_address(0)}

    assert names(Network("lab-1", 1)).isdisjoint(names(Network("lab-11", 11)))
