"""The fake hypervisor keeps the contract; the real one is put to the same tests in tests/integration."""

import pytest
from fake_hypervisor import FakeHypervisor
from hypervisor_contract import HypervisorContract


class FakeBench(FakeHypervisor):
    """The fake is its own bench."""

    @property
    def hypervisor(self) -> FakeHypervisor:
        return self


class TestFakeHypervisor(HypervisorContract):
    @pytest.fixture
    def bench(self) -> FakeBench:
        return FakeBench()
