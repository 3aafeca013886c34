"""kubeferry in the lab: the controller and the agents from the working tree, and beside each agent its sshd, all as processes."""

import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from lab import mountpoint, paths
from lab.cluster import NAMESPACE, Cluster
from lab.hosts import ENVIRONMENT, Host
from lab.network import BRIDGE, METRICS_PORT
from lab.processes import Process
from lab.site import Site
from lab.steps import LabError, NotYet, wait_until

STATE = "state"
SSHD_CONFIG = f"{STATE}/ssh/sshd_config"
"""Below a host's /var/lib/kubeferry: the agent writes it before it tells its ComputeNode where it can be reached."""
SSH_PORT = 8022
SSHD_SECONDS = 30.0
CPU_RATIO = {"cpu": 64}
IMAGES = f"{mountpoint.PATH}/images"


class Controller:
    """The controller, on the lab's machine."""

    def __init__(self, site: Site, cluster: Cluster) -> None:
        self._site = site
        self._environment = ENVIRONMENT | _environment(cluster, "controller")
        self._process: Process | None = None

    def start(self, **config: Any) -> Process:
        """Start it; `config` is what its configuration has beside the lab's own.

        Raises:
            LabError: it runs already.
        """
        _must_not_run(self._process, "the controller")
        argv = _command(self._site, "controller", "controller", controller_config(self._site.network.loopback) | config)
        log = self._site.log("controller")
        self._process = self._site.processes.spawn("controller", argv, log, env=self._environment, cwd=paths.REPOSITORY)
        return self._process

    @property
    def process(self) -> Process:
        """The one that was started last.

        Raises:
            LabError: none was.
        """
        return _started(self._process, "the controller")


class Agent:
    """The agent of a host and the sshd beside it, in the host's namespaces."""

    def __init__(self, site: Site, cluster: Cluster, host: Host) -> None:
        self._site = site
        self._host = host
        self._environment = _environment(cluster, host.name)
        self._process: Process | None = None
        self._sshd: Process | None = None

    def start(self) -> Process:
        """Start it, and its sshd as `start_sshd` does.

        Raises:
            LabError: it runs already, the host is off, or the agent wrote no configuration for its sshd.
        """
        _must_not_run(self._process, f"the agent of {self._host.name}")
        name = f"agent-{self._host.name}"
        argv = _command(self._site, "agent", name, agent_config(self._host.name, self._host.address))
        self._process = self._host.spawn("agent", argv, self._site.log(name), self._environment)
        self.start_sshd()
        return self._process

    def start_sshd(self) -> Process:
        """Start sshd once its configuration is there; one of this boot that still runs is left: a sidecar outlives its agent.

        Raises:
            LabError: the agent was not started, or wrote no configuration; the host is off; sshd does not listen.
        """
        if self._sshd is None or self._sshd.ended() is not None:
            agent = self.process
            wait_until(f"{agent.name} to write {SSHD_CONFIG}", self._sshd_is_configured, seconds=SSHD_SECONDS, log=agent.log, process=agent)
            argv = ["/usr/sbin/sshd", "-D", "-e", "-f", f"{mountpoint.PATH}/{SSHD_CONFIG}"]
            sshd = self._sshd = self._host.spawn("sshd", argv, self._site.log(f"sshd-{self._host.name}"), {})
            wait_until(f"{sshd.name} to listen", self._sshd_listens, seconds=SSHD_SECONDS, log=sshd.log, process=sshd)
        return self._sshd

    @property
    def process(self) -> Process:
        """The one that was started last.

        Raises:
            LabError: none was.
        """
        return _started(self._process, f"the agent of {self._host.name}")

    @property
    def sshd(self) -> Process:
        """The sshd that was started last.

        Raises:
            LabError: none was.
        """
        return _started(self._sshd, f"the sshd of {self._host.name}")

    def _sshd_is_configured(self) -> None:
        if not (self._host.root / SSHD_CONFIG).exists():
            raise NotYet("no such file")

    def _sshd_listens(self) -> None:
        try:
            socket.create_connection((self._host.address, SSH_PORT), timeout=2).close()
        except OSError as error:
            raise NotYet(str(error)) from error


def controller_config(address: str) -> dict[str, Any]:
    """The controller's configuration: guests idle here, and each host tells of the few processors that all of them share.

    Args:
        address: where its metrics are served.
    """
    metrics = {"address": address, "port": METRICS_PORT}
    return {"namespace": NAMESPACE, "logFormat": "json", "scheduler": {"allocationRatios": CPU_RATIO}, "metrics": metrics}


def agent_config(node: str, address: str) -> dict[str, Any]:
    """The configuration of a node's agent: guests by TCG, since /dev/kvm may open and still run no guest.

    Args:
        node: its name.
        address: its IP address, which the agents of other nodes reach it at.
    """
    return {
        "nodeName": node,
        "namespace": NAMESPACE,
        "logFormat": "json",
        "instancesPath": f"{mountpoint.PATH}/instances",
        "statePath": f"{mountpoint.PATH}/{STATE}",
        "libvirtURI": "qemu:///system",
        "virtualizationType": "qemu",
        "migrationAddress": address,
        "sshPort": SSH_PORT,
        "allow": {"hostPaths": [IMAGES], "kernelPaths": [IMAGES], "bridges": [BRIDGE]},
        "metrics": {"address": address, "port": METRICS_PORT},
    }


def _command(site: Site, part: str, name: str, config: dict[str, Any]) -> list[str | Path]:
    path = site.directory / "config" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return [sys.executable, "-m", "kubeferry.cli.main", part, "--config", path]


def _environment(cluster: Cluster, identity: str) -> dict[str, str]:
    return {"KUBECONFIG": str(cluster.kubeconfig(identity)), "PYTHONPATH": str(paths.REPOSITORY / "operator"), "PYTHONUNBUFFERED": "1"}


def _must_not_run(process: Process | None, what: str) -> None:
    if process and process.ended() is None:
        raise LabError(f"{what} runs already, as pid {process.target.pid}")


def _started(process: Process | None, what: str) -> Process:
    if process is None:
        raise LabError(f"{what} was not started")
    return process
