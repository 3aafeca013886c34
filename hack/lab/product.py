"""kubeferry in the lab: the controller and the agents, as processes from the working tree."""

import sys
from pathlib import Path
from typing import Any

import yaml

from lab import mountpoint, paths
from lab.cluster import NAMESPACE, Cluster
from lab.hosts import ENVIRONMENT, Host
from lab.processes import Process
from lab.site import Site
from lab.steps import LabError

IMAGES = f"{mountpoint.PATH}/images"


class Controller:
    """The controller, on the lab's machine."""

    def __init__(self, site: Site, cluster: Cluster) -> None:
        self._site = site
        self._environment = ENVIRONMENT | _environment(cluster, "controller")
        self._process: Process | None = None

    def start(self) -> Process:
        """Start it.

        Raises:
            LabError: it runs already.
        """
        _must_not_run(self._process, "the controller")
        argv = _command(self._site, "controller", "controller", {"namespace": NAMESPACE, "logFormat": "json"})
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
    """The agent of a host, in the host's namespaces."""

    def __init__(self, site: Site, cluster: Cluster, host: Host) -> None:
        self._site = site
        self._host = host
        self._environment = _environment(cluster, host.name)
        self._process: Process | None = None

    def start(self) -> Process:
        """Start it.

        Raises:
            LabError: it runs already, or the host is off.
        """
        _must_not_run(self._process, f"the agent of {self._host.name}")
        name = f"agent-{self._host.name}"
        argv = _command(self._site, "agent", name, agent_config(self._host.name))
        self._process = self._host.spawn("agent", argv, self._site.log(name), self._environment)
        return self._process

    @property
    def process(self) -> Process:
        """The one that was started last.

        Raises:
            LabError: none was.
        """
        return _started(self._process, f"the agent of {self._host.name}")


def agent_config(node: str) -> dict[str, Any]:
    """The configuration of a node's agent: guests by TCG, since /dev/kvm may open and still run no guest."""
    return {
        "nodeName": node,
        "namespace": NAMESPACE,
        "logFormat": "json",
        "instancesPath": f"{mountpoint.PATH}/instances",
        "statePath": f"{mountpoint.PATH}/state",
        "libvirtURI": "qemu:///system",
        "virtualizationType": "qemu",
        "allow": {"hostPaths": [IMAGES], "kernelPaths": [IMAGES]},
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
