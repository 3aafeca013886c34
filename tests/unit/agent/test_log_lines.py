"""Log lines about a VM: each says which VM, node, task, verb and epoch it is about, and whose migration."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from agent_rig import Rig
from builders import UID
from migration_rig import move as moved
from migration_rig import running

from kubeferry.api.task import Verb
from kubeferry.cli.logs import configure_logs


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    root, kopf = logging.getLogger(), logging.getLogger("kopf.objects")
    before, level, kopf_level, configured = root.handlers, root.level, kopf.level, structlog.get_config()
    configure_logs("json")
    yield caplog
    root.handlers, root.level, kopf.level = before, level, kopf_level
    structlog.configure(**configured)


def lines(logged: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What structlog has handed on, before it is rendered."""
    return [record.msg for record in logged.records if isinstance(record.msg, dict)]


async def test_a_tasks_lines_name_vm_migration_node_epoch_and_verb(rig: Rig, logged: pytest.LogCaptureFixture) -> None:
    await running(rig)
    await moved(rig)
    logged.clear()
    await rig.ask(Verb.SEAL)
    told = lines(logged)
    assert {"VM sealed", "task ended"} <= {line["event"] for line in told}
    names = {"vm": "shop/web-0", "vm_uid": UID, "migration": "shop/move", "node": "a", "epoch": 2, "verb": "Seal"}
    assert all(line.items() >= names.items() for line in told)


async def test_the_lines_of_a_vm_that_its_agent_starts_by_itself_name_it_and_what_is_said_after_that_is_not_said_in_its_name(
    rig: Rig, logged: pytest.LogCaptureFixture
) -> None:
    await running(rig)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    logged.clear()
    await rig.worker.reconcile(UID)
    structlog.get_logger("kubeferry.test").info("something else")
    *told, last = lines(logged)
    of_vm = [line for line in told if line["event"] in ("start gate open", "VM runs")]
    assert len(of_vm) == 2
    assert all(line.items() >= {"vm": "shop/web-0", "vm_uid": UID, "node": "a"}.items() for line in of_vm)
    assert set(last) == {"event", "logger", "level", "timestamp"}


async def test_of_a_start_that_is_refused_the_vm_is_named(rig: Rig, logged: pytest.LogCaptureFixture) -> None:
    await running(rig)
    rig.hypervisor.power_cut()
    rig.boot(rig.settings, "boot-2")
    await rig.change(running=False)
    logged.clear()
    await rig.worker.reconcile(UID)
    (refused,) = [line for line in lines(logged) if line["event"] == "the VM is not started"]
    assert refused.items() >= {"vm": "shop/web-0", "vm_uid": UID, "node": "a"}.items()


async def test_what_is_said_after_a_task_is_not_said_in_its_name(rig: Rig, logged: pytest.LogCaptureFixture) -> None:
    await running(rig)
    structlog.get_logger("kubeferry.test").info("something else")
    assert set(lines(logged)[-1]) == {"event", "logger", "level", "timestamp"}
