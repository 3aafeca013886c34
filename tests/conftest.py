"""Which tests share a process (`pytest -n N --dist loadgroup`): those of one lab, or each would start labs of its own."""

import pytest

GROUPS = {
    "test_migration.py": "lab-1",
    "test_agent_guards.py": "lab-1",
    "test_ferry.py": "lab-1",
    "test_observe.py": "lab-1",
    "test_resilience.py": "lab-2",
    "test_transfer.py": "lab-2",
    "test_vm.py": "lab-1",
    "test_terms.py": "lab-1",
    "test_api_rules.py": "api",
    "test_rights.py": "api",
    "test_rights_operator.py": "api",
    "test_hypervisor_libvirt.py": "api",
    "test_lab.py": "api",
    "test_demo.py": "api",
    "test_seeds.py": "simulation",
}
ORDER = ("lab-1", "lab-2", "api", "simulation", "")
"""The longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark and sort."""
    for item in items:
        if item.path.parent.name == "integration" or item.path.name in GROUPS:
            item.add_marker(pytest.mark.xdist_group(GROUPS[item.path.name]))
    items.sort(key=lambda item: ORDER.index(GROUPS.get(item.path.name, "")))
