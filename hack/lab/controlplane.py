"""The control plane: etcd, kube-apiserver and kube-controller-manager as processes of this machine.

What differs from a real cluster, and why:
- etcd does not fsync: it is thrown away with the lab.
- Nodes have no kubelets. So of kube-controller-manager only garbage collection and namespaces run (others would find the Nodes
  unreachable), and the API server does not taint new Nodes as not ready, because nobody would take that taint off.
"""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lab import kubeconfig
from lab.api import Api
from lab.certificates import Authority
from lab.network import ETCD_PEER_PORT, ETCD_PORT, MANAGER_PORT
from lab.processes import Process
from lab.site import Site
from lab.steps import NotYet, wait_until

PORT = 6443
SERVICE_RANGE, SERVICE_ADDRESS = "10.96.0.0/24", "10.96.0.1"
START_SECONDS = 60.0
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
T = TypeVar("T")


class ControlPlane:
    """A Kubernetes API without nodes of its own.

    Args:
        ground: etcd/, pki/ and the kubeconfig are made in its directory. The API server listens on its bridge, for the hosts; etcd
            and kube-controller-manager listen where only this machine reaches them.
        tools: the directory of the binaries.

    Attributes:
        kubeconfig: the administrator's.
        server: the URL of the API server.
        authority: the certificate that the API server is known by.
    """

    def __init__(self, ground: Site, tools: Path) -> None:
        self.directory = ground.directory
        self.kubeconfig = self.directory / "kubeconfig"
        self.server = f"https://{ground.network.address}:{PORT}"
        self.authority = self.directory / "pki" / "ca.crt"
        self.tools = tools
        self._site = ground
        self._address = ground.network.address
        self._loopback = ground.network.loopback

    def start(self) -> None:
        """Start all three and return when the API server is ready.

        Raises:
            LabError: one ended or was not ready in time; with its log.
        """
        etcd = self._start_etcd()
        authority = Authority(self.authority.parent, self._site.processes)
        admin = authority.client("admin", "kubeferry-lab", "system:masters")
        kubeconfig.by_certificate(self.kubeconfig, self.server, self.authority, admin)
        self._api = Api(self._address, PORT, self.authority, admin)
        wait_until("etcd", self._etcd_is_healthy, seconds=START_SECONDS, log=etcd.log, process=etcd)
        self._apiserver = self._start_apiserver(authority)
        self.wait_until("the API server", lambda: self._api.get("/readyz"), seconds=START_SECONDS)
        # Not before: it ends when it is not yet allowed to read its configuration.
        manager = self._start_manager(authority)
        healthy = Api(self._loopback, MANAGER_PORT, self.authority, admin)
        wait_until("kube-controller-manager", lambda: healthy.get("/healthz"), seconds=START_SECONDS, log=manager.log, process=manager)

    def api(self) -> Api:
        """A client of the API server, as the administrator."""
        return self._api

    def wait_until(self, what: str, condition: Callable[[], T], *, seconds: float) -> T:
        """Wait for something that the API server is to show; its log is part of a failure.

        Raises:
            LabError: not in time, or the API server ended.
        """
        return wait_until(what, condition, seconds=seconds, log=self._apiserver.log, process=self._apiserver)

    def _etcd_is_healthy(self) -> None:
        try:
            with urllib.request.urlopen(f"http://{self._loopback}:{ETCD_PORT}/health", timeout=2) as response:
                body = response.read()
        except OSError as error:
            raise NotYet(str(error)) from error
        if b'"true"' not in body:
            raise NotYet(body.decode())

    def _start_etcd(self) -> Process:
        clients, peers = f"http://{self._loopback}:{ETCD_PORT}", f"http://{self._loopback}:{ETCD_PEER_PORT}"
        return self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )

    def _start_apiserver(self, authority: Authority) -> Process:
        serving = authority.server("kube-apiserver", self._address, SERVICE_ADDRESS)
        private, public = authority.signing_key("service-accounts")
        return self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://{self._loopback}:{ETCD_PORT}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={PORT}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={authority.pair.certificate}",
            f"--service-account-issuer={self.server}",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--disable-admission-plugins=TaintNodesByCondition",
            "--endpoint-reconciler-type=none",
        )

    def _start_manager(self, authority: Authority) -> Process:
        config = self.directory / "pki" / "kube-controller-manager.kubeconfig"
        user = authority.client("kube-controller-manager", "system:kube-controller-manager")
        kubeconfig.by_certificate(config, self.server, self.authority, user)
        serving = authority.server("kube-controller-manager-server", self._loopback)
        return self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={self._loopback}",
            f"--secure-port={MANAGER_PORT}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--service-account-private-key-file={self.directory / 'pki' / 'service-accounts.key'}",
            "--controllers=garbage-collector-controller,namespace-controller",
            "--use-service-account-credentials",
            "--leader-elect=false",
        )

    def _spawn(self, name: str, *arguments: str) -> Process:
        return self._site.processes.spawn(name, [self.tools / name, *arguments], self._site.log(name), env=ENVIRONMENT)
