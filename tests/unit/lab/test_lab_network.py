from pathlib import Path

import pytest

from lab import network, paths
from lab.network import Network

SLOT = 25


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any link or network namespace."""
    for place in ("LINKS", "NETNS"):
        (tmp_path / place).mkdir()
        monkeypatch.setattr(network, place, tmp_path / place)


def test_a_slot_that_nothing_is_named_by_is_free() -> None:
    assert network.is_free(SLOT)


def test_a_machine_that_never_had_a_network_namespace_has_no_directory_for_them() -> None:
    network.NETNS.rmdir()
    assert network.is_free(SLOT)


def test_a_slot_is_not_free_while_a_namespace_of_a_host_is_left() -> None:
    (network.NETNS / Network(paths.lab_name(SLOT), SLOT).netns("worker-1")).touch()
    assert not network.is_free(SLOT)


@pytest.mark.parametrize("link", [f"kf-{SLOT}", f"kf-{SLOT}-1"])
def test_a_slot_is_not_free_while_a_link_of_it_is_left(link: str) -> None:
    (network.LINKS / link).touch()
    assert not network.is_free(SLOT)


def test_a_slot_is_free_of_what_a_slot_with_a_longer_number_or_a_stranger_has() -> None:
    for name in (f"kubeferry-lab-{SLOT}0-worker-1", f"other-lab-{SLOT}-worker-1"):
        (network.NETNS / name).touch()
    for name in (f"kf-{SLOT}0", f"kf-{SLOT}0-1", "eth0"):
        (network.LINKS / name).touch()
    assert network.is_free(SLOT)
