"""Runs an agent until it is told to stop, or libvirt hangs."""

import asyncio
import logging
import os
from typing import NoReturn

import kopf
import structlog

from kubeferry.agent.agent import Agent
from kubeferry.agent.handlers import register
from kubeferry.agent.identity import boot_id, host_id, require_instances_path, take_host_lock
from kubeferry.agent.machine import Machine
from kubeferry.agent.settings import AgentSettings
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.probe import left_by, remove_left
from kubeferry.agent.transfer.children import Children
from kubeferry.agent.transfer.keys import Keys, ensure_keys
from kubeferry.agent.transfer.sshd import write_sshd
from kubeferry.agent.virt.libvirt_port import LibvirtHypervisor
from kubeferry.api.computenode import SshEndpoint
from kubeferry.kube.operator import configure, watch_tasks_of
from kubeferry.kube.rest import RestServer

FAILED_EXIT_CODE = 1
HUNG_EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: something underneath is broken; whoever restarts the agent may find it mended."""

LAST_WORDS_DEADLINE = 10
"""Seconds for telling the ComputeNode that libvirt hangs."""

log = structlog.get_logger(__name__)


def run_agent(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT. However it ends, it ends the process: a thread that hangs would keep the host's lock.

    Raises:
        kubeferry.agent.identity.IdentityError: the state can't be used, or another agent holds the host's lock.
        kubeferry.kube.errors.NotConfigured: it is not known which API server to ask.
    """
    require_instances_path(settings.instances_path)
    lock = take_host_lock(settings.state_path)  # for the life of the process: never closed
    host = host_id(settings.state_path, settings.instances_path)
    keys = ensure_keys(settings.state_path)
    write_sshd(keys, settings.migration_address, settings.ssh_port)
    endpoint = SshEndpoint(
        address=settings.migration_address, port=settings.ssh_port, host_key=keys.host_public, identity_key=keys.identity_public
    )
    machine = Machine(settings=settings, host_id=host, boot_id=boot_id(settings.run_path), ssh=endpoint)
    _tidy(machine)
    asyncio.run(_run(machine, keys, Children(settings.log_format, held=[lock])))


def _tidy(machine: Machine) -> None:
    """What can't be removed is in nobody's way: VMs must run all the same."""
    path = machine.settings.instances_path
    try:
        remove_left(path, machine.host_id)
    except StorageError as error:
        log.error("what preflights left is not removed; do it by hand", remove=str(path / left_by(machine.host_id)), error=str(error))


async def _run(machine: Machine, keys: Keys, children: Children) -> None:
    server = await RestServer.connect()
    port = LibvirtHypervisor(machine.settings.libvirt_uri, machine.settings.virtualization_type)
    agent = Agent(machine, keys, server, port, asyncio.get_running_loop(), children)
    watchdog = asyncio.create_task(_end_when_hung(agent), name="watchdog")
    code = FAILED_EXIT_CODE
    try:
        await _serve(machine.settings, agent)
        log.info("the agent ends, VMs run on", node=machine.node)
        code = 0
    except Exception as error:
        log.critical("the agent fails, VMs run on", node=machine.node, error=str(error), exc_info=True)
    finally:
        watchdog.cancel()
        _end_process(code)


async def _serve(settings: AgentSettings, agent: Agent) -> None:
    registry = kopf.OperatorRegistry()
    register(registry, agent)
    kopf_settings = kopf.OperatorSettings()
    configure(kopf_settings)
    watch_tasks_of(kopf_settings, settings.node_name)
    await kopf.operator(registry=registry, settings=kopf_settings, clusterwide=True)


async def _end_when_hung(agent: Agent) -> None:
    """End the process when a call to libvirt does not return: its thread can't be ended, and would be waited for at exit."""
    await agent.hypervisor.hung.wait()
    log.critical("libvirt hangs, the agent ends")
    try:
        async with asyncio.timeout(LAST_WORDS_DEADLINE):
            await agent.publisher.publish()  # Ready=False/HypervisorHung
    except Exception as error:  # whatever it is, the process must end
        log.exception("the ComputeNode could not be told", error=str(error))
    finally:
        _end_process(HUNG_EXIT_CODE)


def _end_process(code: int) -> NoReturn:
    """End at once, without waiting for threads: what is cut off goes on from the journal, as after a kill."""
    logging.shutdown()
    os._exit(code)
