"""A whole lab: control plane, hosts, and kubeferry's controller and agents from the working tree."""

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab import guest, mountpoint, packages, paths, removal, site, toolchain
from lab.cluster import ADMIN, Cluster, Manifests
from lab.controlplane import ControlPlane
from lab.hosts import Host
from lab.processes import Process
from lab.product import Agent, Controller
from lab.steps import LabError, NotYet, tail, wait_until

HOSTS = ("worker-1", "worker-2", "worker-3")
READY_SECONDS = 30.0
READY = "jsonpath={range .status.conditions[?(@.type=='Ready')]}{.status}/{.reason}: {.message}{end}"
MANIFESTS = Manifests(crds=paths.REPOSITORY / "manifests" / "crds.yaml", rest=paths.REPOSITORY / "manifests" / "kubeferry.yaml")


class Lab:
    """A lab; as a context manager it is started whole and removed at the end.

    Args:
        hosts: the names of its hosts.
        manifests: what is applied to its cluster.

    Attributes:
        hosts: by name. On each, /var/lib/kubeferry/images has vmlinuz, initramfs.gz and guest.img: a disk whose marker is the host's name.
    """

    def __init__(self, hosts: Sequence[str] = HOSTS, manifests: Manifests = MANIFESTS) -> None:
        self.hosts: dict[str, Host] = {}
        self._names = tuple(hosts)
        self._manifests = manifests
        self._site: site.Site | None = None
        self._cluster: Cluster | None = None
        self._controller: Controller | None = None
        self._agents: dict[str, Agent] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns when every host's ComputeNode is Ready, if the controller still runs then.

        Raises:
            LabError: a step of the lab failed, or kubeferry did not start. What was started until then is removed.
            ExceptionGroup: several did at once.
        """
        self.start_infrastructure()
        try:
            _at_once([self.start_controller, *(partial(self.start_agent, name) for name in self._names)])
            _at_once([partial(self._wait_ready, name) for name in self._names])
            self._controller_must_run()
        except BaseException:
            self.stop()
            raise

    def start_infrastructure(self) -> None:
        """Start all but kubeferry: the control plane, and the hosts with their images.

        Raises:
            LabError: a step of the lab failed. What was started until then is removed.
            ExceptionGroup: several did at once.
        """
        packages.check()
        tools = toolchain.ensure()
        guest.ensure()
        ground = self._site = site.take()
        try:
            mountpoint.make(ground.record)
            addresses = {name: ground.network.host_address(number) for number, name in enumerate(self._names, start=1)}
            made = [partial(self._start_host, ground, name, number, addresses) for number, name in enumerate(self._names, start=1)]
            _at_once([partial(self._start_cluster, ground, tools, addresses), *made])
            self.hosts = {name: self.hosts[name] for name in self._names}
        except BaseException:
            self.stop()
            raise

    def stop(self) -> list[str]:
        """Remove the lab and say what was removed.

        Raises:
            LabError: something does not end or cannot be removed; it stays on record for `python -m lab clean`.
        """
        ground = self._ground()
        removed = removal.remove(ground.directory)
        ground.processes.reap()
        return removed

    @property
    def name(self) -> str:
        """`lab-N`; no other lab of this machine has it."""
        return self._ground().name

    @property
    def directory(self) -> Path:
        """Where everything of this lab is: kubeconfigs, logs/, hosts/NAME/, and the record."""
        return self._ground().directory

    def log(self, name: str) -> Path:
        """The log of `controller`, `agent-HOST`, `sshd-HOST`, `HOST` (its console), `etcd`, or of a `kube-` part of the control plane."""
        return self._ground().log(name)

    def kubectl(
        self, *arguments: str, as_: str = ADMIN, stdin: str | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as `admin`, as `controller`, by the name of its host as an agent, or as an identity that was added.

        Raises:
            LabError: with `check`, it failed; without, only if it took longer than a minute.
        """
        return self._content().kubectl(*arguments, as_=as_, stdin=stdin, check=check)

    def kubeconfig(self, identity: str = ADMIN) -> Path:
        """The kubeconfig of `admin`, of `controller`, by the name of its host of an agent, or of an identity that was added.

        Raises:
            LabError: no such identity.
        """
        return self._content().kubeconfig(identity)

    def add_identity(self, identity: str, account: str, namespace: str, *, node: str | None = None) -> None:
        """Let kubectl run as a ServiceAccount, which exists; see `Cluster.add_identity`.

        Raises:
            LabError: another identity is called so, or there is no such ServiceAccount.
        """
        self._content().add_identity(identity, account, namespace, node=node)

    def start_controller(self, **config: Any) -> Process:
        """Start the controller from the working tree; `config` is what its configuration has beside the lab's own.

        Raises:
            LabError: it runs already.
        """
        if self._controller is None:
            self._controller = Controller(self._ground(), self._content())
        return self._controller.start(**config)

    def metrics_address(self) -> str:
        """Where the controller serves its metrics; an agent does so at its host's address."""
        return self._ground().network.loopback

    def stop_controller(self) -> None:
        """End the controller by SIGTERM.

        Raises:
            LabError: it was not started, or does not end.
        """
        self.controller.stop()

    def kill_controller(self) -> None:
        """End the controller by SIGKILL.

        Raises:
            LabError: it was not started.
        """
        self.controller.kill()

    @property
    def controller(self) -> Process:
        """The controller that was started last.

        Raises:
            LabError: none was.
        """
        if self._controller is None:
            raise LabError("the controller was not started")
        return self._controller.process

    def start_agent(self, host: str) -> Process:
        """Start a host's agent from the working tree, in the host's namespaces; also again, after a power cut and a boot.

        The sshd beside it is started too, unless one of this boot still runs.

        Raises:
            LabError: it runs already, the host is off, or the agent wrote no configuration for its sshd; with its log.
        """
        if host not in self._agents:
            self._agents[host] = Agent(self._ground(), self._content(), self.hosts[host])
        return self._agents[host].start()

    def kill_agent(self, host: str) -> None:
        """End a host's agent by SIGKILL; its sshd and processes that it started are left, as they would be.

        Raises:
            LabError: it was not started.
        """
        self.agent(host).kill()

    def agent(self, host: str) -> Process:
        """The agent of a host that was started last.

        Raises:
            LabError: none was.
        """
        return self._part(host).process

    def restart_sshd(self, host: str) -> Process:
        """End the sshd beside a host's agent by SIGTERM, and start it again: it reads its files anew.

        Raises:
            LabError: it was not started, or does not end.
        """
        self.sshd(host).stop()
        return self._part(host).start_sshd()

    def sshd(self, host: str) -> Process:
        """The sshd of a host that was started last.

        Raises:
            LabError: none was.
        """
        return self._part(host).sshd

    def _part(self, host: str) -> Agent:
        if host not in self._agents:
            raise LabError(f"the agent of {host} was not started")
        return self._agents[host]

    def _start_cluster(self, ground: site.Site, tools: Path, addresses: dict[str, str]) -> None:
        control_plane = ControlPlane(ground, tools)
        control_plane.start()
        cluster = Cluster(control_plane, ground.processes)
        cluster.install(self._manifests)
        cluster.add_nodes(addresses)
        cluster.add_identities(self._names)
        self._cluster = cluster

    def _start_host(self, ground: site.Site, name: str, number: int, peers: dict[str, str]) -> None:
        host = Host(name, number, ground, peers)
        guest.furnish(host.root / "images", marker=name)
        host.boot()
        self.hosts[name] = host

    def _wait_ready(self, host: str) -> None:
        def ready() -> None:
            told = self.kubectl("get", "computenode", host, "-o", READY, check=False)
            if not told.stdout.startswith("True/"):
                raise NotYet(told.stderr.strip() or (f"Ready={told.stdout}" if told.stdout else "no condition Ready"))

        agent = self.agent(host)
        what = f"kubeferry's agent on {host} to tell Ready=True in its ComputeNode"
        wait_until(what, ready, seconds=READY_SECONDS, log=agent.log, process=agent)

    def _controller_must_run(self) -> None:
        # Nothing in the API tells that it is ready. That it ended would else be seen as a VM that is not served, by whoever waits for it.
        if ended := self.controller.ended():
            raise LabError(f"kubeferry's {ended}, expected it to run\n{tail(self.controller.log)}")

    def _ground(self) -> site.Site:
        if self._site is None:
            raise LabError("the lab was not started")
        return self._site

    def _content(self) -> Cluster:
        if self._cluster is None:
            raise LabError("the lab's cluster was not started")
        return self._cluster


def _at_once(steps: Sequence[Callable[[], object]]) -> None:
    """Take independent steps in threads, wait for all, and raise what was raised."""
    with ThreadPoolExecutor(max_workers=len(steps)) as pool:
        futures = [pool.submit(step) for step in steps]
    errors = [error for future in futures if isinstance(error := future.exception(), Exception)]
    if len(errors) > 1:
        raise ExceptionGroup("several steps of the lab failed", errors)
    if errors:
        raise errors[0]
