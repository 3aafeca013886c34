"""The scheduling pass as it is configured: what an administrator writes, and what is refused before anything is done."""

from pathlib import Path

import pytest

from kubeferry.cli.config import ConfigError, read_config
from kubeferry.controller.settings import ControllerSettings
from kubeferry.scheduling.allocation import Allocation, Allocations
from kubeferry.scheduling.registry import FILTER_NAMES, Profile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "controller.yaml"


def profile(path: Path, text: str) -> Profile:
    path.write_text(text, encoding="utf-8")
    return read_config(path, ControllerSettings).scheduler.profile()


def test_by_default_every_filter_is_asked_weighers_count_alike_and_cpus_are_overcommitted(path: Path) -> None:
    made = profile(path, "")
    assert [of.name for of in made.filters] == list(FILTER_NAMES)
    assert [(of.name, multiplier) for of, multiplier in made.weighers] == [("RAM", 1), ("CPU", 1), ("Disk", 1)]
    assert made.allocations == Allocations(cpu=Allocation(4000, 0), memory=Allocation(1000, 0), disk=Allocation(1000, 0))


def test_all_of_it_can_be_configured(path: Path) -> None:
    text = """
scheduler:
  filters: [SourceNode, Ready, Memory]
  weighers: {Disk: -2}
  allocationRatios: {cpu: 16, memory: 1.001, disk: 0.9}
  reserved: {cpu: 2, memory: 4Gi, disk: 1000}
"""
    made = profile(path, text)
    assert [of.name for of in made.filters] == ["Ready", "SourceNode", "Memory"]
    assert [(of.name, multiplier) for of, multiplier in made.weighers] == [("RAM", 1), ("CPU", 1), ("Disk", -2)]
    assert made.allocations == Allocations(cpu=Allocation(16_000, 2), memory=Allocation(1001, 4 << 30), disk=Allocation(900, 1000))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("filters: [Ready, Weather]", "scheduler: Value error, there is no filter Weather: there are Ready, Schedulable, NodeSelector,"),
        ("weighers: {Weather: 1}", "scheduler: Value error, there is no weigher Weather: there are RAM, CPU, Disk"),
        ("weighers: {RAM: 0.5}", "scheduler.weighers.RAM: Input should be a valid integer"),
        ("weighers: {RAM: 1000001}", "scheduler.weighers.RAM: Input should be less than or equal to 1000000"),
        ("weighers: {RAM: -1000001}", "scheduler.weighers.RAM: Input should be greater than or equal to -1000000"),
        ("allocationRatios: {cpu: 0}", "scheduler.allocationRatios.cpu: Input should be greater than 0"),
        ("allocationRatios: {cpu: 1.0005}", "scheduler.allocationRatios.cpu: Decimal input should have no more than 3 decimal places"),
        ("allocationRatios: {cpu: .inf}", "scheduler.allocationRatios.cpu: Input should be a finite number"),
        ("allocationRatios: {gpu: 1}", "scheduler.allocationRatios.gpu: Extra inputs are not permitted"),
        ("reserved: {cpu: -1}", "scheduler.reserved.cpu: Input should be greater than or equal to 0"),
        ("reserved: {memory: 1.5Gi}", "scheduler.reserved.memory: Value error, '1.5Gi' is no quantity of bytes"),
        ("weights: {RAM: 1}", "scheduler.weights: Extra inputs are not permitted"),
    ],
)
def test_what_can_not_be_done_is_refused_with_its_key_and_what_was_expected(path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        profile(path, f"scheduler: {{{text}}}")
    assert str(caught.value).startswith(f"{path}: {says}")
