"""Which tests share a process of `pytest -n N`: those of one lab, or each process would start a lab of its own."""

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

GROUPS = {
    "test_migration.py": "lab-1",
    "test_agent_guards.py": "lab-1",
    "test_terms.py": "lab-1",
    "test_observe.py": "lab-1",
    "test_ferry.py": "lab-1",
    "test_resilience.py": "lab-2",
    "test_transfer.py": "lab-2",
    "test_network.py": "lab-3",
    "test_disks.py": "lab-3",
    "test_vm.py": "lab-2",
    "test_life.py": "lab-3",
    "test_api_rules.py": "api",
    "test_rights.py": "api",
    "test_rights_operator.py": "api",
    "test_hypervisor_libvirt.py": "api",
    "test_lab.py": "api",
    "test_demo.py": "api",
    "test_seeds.py": "simulation",
}
ORDER = ("lab-1", "lab-2", "lab-3", "api", "simulation")
"""The longest first, then everything else."""


def group(path: PurePosixPath) -> str:
    """Of a file of tests; a new one that needs a lab is to be named above."""
    if path.parent.name == "integration" or path.name in GROUPS:
        return GROUPS[path.name]
    # There, some look for processes of a VM, and others make some, of the same uid.
    return "agent" if path.parent.name == "agent" else str(path)


class Groups(LoadScopeScheduling):
    """Gives each process one group at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group(PurePosixPath(nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Instead of what `--dist` names."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort."""

    def place(item: pytest.Item) -> int:
        name = group(PurePosixPath(item.path))
        return ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=place)
