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
from kubeferry.agent.virt.libvirt_port import LibvirtHypervisor
from kubeferry.kube.operator import configure, watch_tasks_of
from kubeferry.kube.rest import RestServer

HUNG_EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: something underneath is broken; whoever restarts the agent may find it mended."""

LAST_WORDS_DEADLINE = 10
"""Seconds for telling the ComputeNode that libvirt hangs."""

log = structlog.get_logger(__name__)


def run_agent(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT, which end the process.

    Raises:
        kubeferry.agent.identity.IdentityError: the state can't be used, or another agent holds the host's lock.
        kopf.ActivityError: it could not start; the message of its cause says why.
    """
    require_instances_path(settings.instances_path)
    take_host_lock(settings.state_path)  # for the life of the process: never closed
    host = host_id(settings.state_path, settings.instances_path)
    machine = Machine(settings=settings, host_id=host, boot_id=boot_id(settings.run_path))
    asyncio.run(_run(machine))


async def _run(machine: Machine) -> None:
    settings = machine.settings
    server = await RestServer.connect()
    port = LibvirtHypervisor(settings.libvirt_uri, settings.virtualization_type)
    agent = Agent(machine, server, port, asyncio.get_running_loop())
    watchdog = asyncio.create_task(_end_when_hung(agent), name="watchdog")
    try:
        registry = kopf.OperatorRegistry()
        register(registry, agent)
        kopf_settings = kopf.OperatorSettings()
        configure(kopf_settings)
        watch_tasks_of(kopf_settings, settings.node_name)
        await kopf.operator(registry=registry, settings=kopf_settings, clusterwide=True)
    finally:
        watchdog.cancel()
        await server.close()
    log.info("the agent ends, VMs run on", node=machine.node)
    _end_process(0)


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
