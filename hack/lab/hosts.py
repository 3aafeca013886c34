"""Hypervisor hosts: Linux namespaces with a libvirtd and a virtlogd of their own.

A host keeps its directories over a boot, as a machine keeps its disks; its /run is new each time. That its first process is killed
is a power cut: libvirtd, guests, sshd and agent die with it at once.
"""

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import network, paths
from lab.processes import Process, children, runs, send, wait_gone
from lab.record import Identity
from lab.site import Site
from lab.steps import LabError, NotYet, wait_until

BOOT_SECONDS = 60.0
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home()), "LANG": "C.UTF-8"}

# Guests as root and unconfined: the lab's machine need not have a libvirt-qemu user's rights, AppArmor or cgroups of any version.
QEMU_CONF = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\nremember_owner = 0\n'
LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""


class Host:
    """One hypervisor host. Made switched off: see `boot`.

    Args:
        name: its host name, and its Node's.
        number: 1, 2, ...: its place in the lab's network.
        ground: its directory, hosts/NAME/, must not exist there.
        peers: the addresses of all hosts of the lab by name.

    Attributes:
        address: its IP address, on br0.
        root: where its /var/lib/kubeferry lies on this machine.
        log: where its console goes.
    """

    def __init__(self, name: str, number: int, ground: Site, peers: Mapping[str, str]) -> None:
        self.name = name
        self.address = ground.network.host_address(number)
        self.log = ground.log(name)
        self._number = number
        self._directory = ground.directory / "hosts" / name
        self.root = self._directory / "kubeferry"
        self._network = ground.network
        self._processes = ground.processes
        self._power: Process | None = None
        self._init: Identity | None = None
        self._on_it: list[Process] = []
        network.create_host(ground.network, name, number, ground.record, ground.processes)
        self._furnish(peers)

    def boot(self) -> None:
        """Switch it on; returns when libvirtd answers.

        Raises:
            LabError: it is on, or did not come up in time; with its console.
        """
        if self.is_on():
            raise LabError(f"{self.name} is on already")
        network.plug(self._network, self._number, self._processes)
        argv: list[str | Path] = ["ip", "netns", "exec", self._network.netns(self.name)]
        # --kill-child: whoever kills the recorded unshare has cut the host's power.
        argv += ["unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
        argv += [paths.PACKAGE / "host.sh", self.name, self._directory]
        power = self._processes.spawn(self.name, argv, self.log, env=ENVIRONMENT)
        self._power = power
        self._init = wait_until(f"the first process of {self.name}", self._first_child, seconds=BOOT_SECONDS, log=self.log, process=power)
        # Before that, a command on the host would still see the machine's own /run, and so the machine's own libvirtd.
        wait_until(f"the boot of {self.name}", self._is_up, seconds=BOOT_SECONDS, log=self.log, process=power)
        libvirtd = self._directory / "log" / "libvirtd.log"
        wait_until(f"libvirtd on {self.name}", self._libvirtd_answers, seconds=BOOT_SECONDS, log=libvirtd, process=power)

    def is_on(self) -> bool:
        """Whether its first process runs."""
        return self._init is not None and runs(self._init)

    def first_process(self) -> Identity:
        """Its PID 1, as this machine sees it.

        Raises:
            LabError: it is off.
        """
        if self._init is None or not runs(self._init):
            raise LabError(f"{self.name} is off")
        return self._init

    def power_cut(self) -> None:
        """Pull the cable, then kill everything on it at once. Returns when all of it is gone.

        Raises:
            LabError: it is off.
        """
        init = self.first_process()
        # First the cable: the kernel would say goodbye on each TCP connection, which a machine without power does not.
        network.unplug(self._network, self._number, self._processes)
        send(init, signal.SIGKILL)
        self._is_gone(init)

    @contextmanager
    def slow(self, rate: str) -> Iterator[None]:
        """Meanwhile it receives no more than so much, as tc(8) writes rates: `8mbit`."""
        network.limit(self._network, self._number, rate, self._processes)
        try:
            yield
        finally:
            network.unlimit(self._network, self._number, self._processes)

    def shutdown(self) -> None:
        """End libvirtd, guests, sshd and agent by SIGTERM. Guests are ended as if by a pulled plug: shut them down before.

        Raises:
            LabError: it is off, or not everything ended in time.
        """
        init = self.first_process()
        send(init, signal.SIGTERM)
        self._is_gone(init)

    def run(
        self, argv: Sequence[str | Path], *, seconds: float = 30.0, stdin: str | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host, in its root directory: paths must be absolute.

        Raises:
            LabError: the host is off; the command took longer than `seconds` (it is killed); with `check`, it failed.
        """
        command = f"{self.name}: {' '.join(map(str, argv))}"
        pipe = subprocess.PIPE
        with subprocess.Popen(
            self._enter(argv),
            env=ENVIRONMENT,
            stdin=pipe if stdin is not None else subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        ) as popen:
            try:
                output, errors = popen.communicate(stdin, timeout=seconds)
            except subprocess.TimeoutExpired as error:
                # A process group reaches into the namespaces: nsenter and the command.
                os.killpg(popen.pid, signal.SIGKILL)
                raise LabError(f"{command}: not done within {seconds:g} s") from error
        if check and popen.returncode != 0:
            raise LabError(f"{command}: exit status {popen.returncode}\n{output}{errors}".rstrip())
        return subprocess.CompletedProcess(argv, popen.returncode, output, errors)

    def spawn(self, name: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> Process:
        """Start a process on the host, in its root directory; `name` is for the record.

        Raises:
            LabError: the host is off, or the process ended at once; with its log.
        """
        process = self._processes.spawn(f"{name} on {self.name}", self._enter(argv), log, env=ENVIRONMENT | dict(env))
        self._on_it.append(process)

        def inner() -> Identity:
            # nsenter stays outside as the parent of what it runs.
            for child in children(process.outer):
                return child
            raise NotYet("nsenter has no child")

        process.target = wait_until(f"the start of {name} on {self.name}", inner, seconds=10, log=log, process=process)
        return process

    def _enter(self, argv: Sequence[str | Path]) -> list[str | Path]:
        return ["nsenter", "--target", str(self.first_process().pid), "--all", "--", *argv]

    def _is_gone(self, init: Identity) -> None:
        # A PID namespace's first process ends only after all others were reaped, some of them by their nsenter outside.
        for process in self._on_it:
            send(process.outer, signal.SIGCONT)
        wait_gone(f"everything on {self.name}", [init])
        power, self._power, self._init = self._power, None, None
        for process in [*self._on_it, *([power] if power else [])]:
            process.reap()
        self._on_it.clear()

    def _first_child(self) -> Identity:
        if self._power is not None:
            for child in children(self._power.outer):
                return child
        raise NotYet("unshare has no child")

    def _is_up(self) -> None:
        if not Path(f"/proc/{self.first_process().pid}/root/run/host-is-up").exists():
            raise NotYet("no /run/host-is-up")

    def _libvirtd_answers(self) -> None:
        answer = self.run(["virsh", "--connect", "qemu:///system", "version"], check=False)
        if answer.returncode != 0:
            raise NotYet(answer.stderr.strip())

    def _furnish(self, peers: Mapping[str, str]) -> None:
        for name in ("lib", "log", "cache", "kubeferry/instances"):
            (self._directory / name).mkdir(parents=True)
        for name in ("qemu", "images", "boot", "dnsmasq"):
            (self._directory / "lib" / name).mkdir()
        etc = self._directory / "etc"
        shutil.copytree("/etc/libvirt", etc, ignore=shutil.ignore_patterns("autostart"))
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, self._network.netns(self.name))
        (etc / "qemu.conf").write_text(QEMU_CONF)
        (etc / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=identity))
        hosts = {"localhost": "127.0.0.1"} | dict(peers)
        (self._directory / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))
