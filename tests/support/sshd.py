"""A host that takes copies: journals, instances, keys and the agent's transfer service; and a real sshd, run from what the agent wrote."""

import asyncio
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from builders import UID, domain

from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.settings import AgentSettings
from kubeferry.agent.transfer import tls, wire
from kubeferry.agent.transfer.children import Children
from kubeferry.agent.transfer.digest import digest
from kubeferry.agent.transfer.keys import Keys, ensure_keys
from kubeferry.agent.transfer.receivers import Receivers
from kubeferry.agent.transfer.sender import Copy, opened
from kubeferry.agent.transfer.service import TransferService
from kubeferry.agent.transfer.sshd import authorized_keys, write_authorized_keys, write_sshd
from kubeferry.agent.transfer.throttle import Throttle
from kubeferry.agent.transfer.wire import Announcement, Answer, AnswerState, DataPort, FileHeader, FrameType, Request
from kubeferry.api.computenode import SshEndpoint
from kubeferry.api.domain import DiskFormat, DiskSource, Domain, DomainDisk, HostPath
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core.journal import Journal, JournalStep

EPOCH = 7
EPOCH_ID = "e7"
REQUEST = Request(uid=UID, epoch=EPOCH, epoch_id=EPOCH_ID)

MIB = 1 << 20
CAPACITY = 16 * MIB
KERNEL = b"a kernel" * 1000
ROOT_DATA = {0: b"boot" * 1000, 5 * MIB - 4096: b"over the edge of two frames" * 100_000, CAPACITY - 4096: b"end!" * 1024}
"""What the disk holds, by place; all else is holes."""
NAMES = ("kernel", "root.raw")

SSHD = "/usr/sbin/sshd"


def vm_domain() -> Domain:
    """What the VM runs with: a kernel and one disk."""
    source = DiskSource(host_path=HostPath(path="/images/root"))
    return domain(disks=(DomainDisk(name="root", format=DiskFormat.RAW, capacity=CAPACITY, source=source),))


def write_files(directory: Path) -> None:
    """The VM's files, as a source holds them."""
    directory.mkdir(parents=True)
    (directory / "kernel").write_bytes(KERNEL)
    with (directory / "root.raw").open("wb") as file:
        for place, content in ROOT_DATA.items():
            file.seek(place)
            file.write(content)
        file.truncate(CAPACITY)


def headers(directory: Path) -> tuple[FileHeader, ...]:
    """What a source announces of them."""
    found = {name: (directory / name).stat() for name in NAMES}
    return tuple(FileHeader(name=name, size=status.st_size, allocated=status.st_blocks * 512) for name, status in found.items())


def digests(directory: Path) -> dict[str, str]:
    """What a source tells at the end."""
    found = {}
    for name in NAMES:
        fd = os.open(directory / name, os.O_RDONLY)
        found[name] = digest(fd, lambda: None)
        os.close(fd)
    return found


def parts(names: Sequence[str]) -> list[str]:
    """What lies in the instance directory while files of these names are filled."""
    return sorted(name + suffix for name in names for suffix in (".part", ".manifest"))


class Target:
    """Host `b`, which was prepared to be filled by node `a`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("instances", "state/journals", 'run "it\'s"'):
            (path / name).mkdir(parents=True)
        settings = AgentSettings.model_validate(
            {
                "nodeName": "b",
                "instancesPath": path / "instances",
                "statePath": path / "state",
                # A path that a shell, sshd or JSON could stumble over.
                "runPath": path / 'run "it\'s"',
                "migrationAddress": "127.0.0.1",
                "sshPort": _free_port(),
                "dataPorts": _free_ports(),
            }
        )
        self.machine = Machine(settings=settings, host_id="host-b", boot_id="boot-1")
        self.journals = JournalStore(settings.state_path)
        self.receivers = Receivers()
        self.service = TransferService(self.machine, self.journals, self.receivers, Children("text", held=()))
        self.socket = settings.run_path / "agent.sock"
        self.directory = self.machine.instance(UID)

    def expect(self, role: Role = Role.INCOMING, source: str | None = "a", created: tuple[str, ...] = ()) -> Journal:
        """Journal the copy, as Prepare does."""
        journal = Journal(
            uid=UID,
            epoch=EPOCH,
            epoch_id=EPOCH_ID,
            role=role,
            step=JournalStep(seq=3, verb=Verb.PREPARE),
            source=source,
            domain=vm_domain(),
            created=created,
        )
        self.journals.write(journal)
        return journal

    def journal(self) -> Journal:
        journal = self.journals.read(UID)
        assert journal is not None
        return journal

    def files(self) -> list[str]:
        """Names in the instance directory."""
        return sorted(os.listdir(self.directory)) if self.directory.exists() else []

    def still_incoming(self, created: tuple[str, ...] = NAMES) -> bool:
        """Whether the copy waits to be filled: nothing of it has its name."""
        journal = self.journal()
        return (journal.role, journal.created, self.files()) == (Role.INCOMING, created, parts(created))

    async def idle(self) -> None:
        """Wait until nothing is received any more."""
        async with self.receivers.barred(UID):
            pass

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """The life of its agent."""
        await self.service.start(self.socket)
        try:
            yield
        finally:
            await self.service.stop()

    @asynccontextmanager
    async def call(self, command: str, peer: str = "a") -> AsyncIterator["Caller"]:
        """What ssh_serve does when node `peer` asks."""
        reader, writer = await asyncio.open_unix_connection(self.socket, limit=MIB)
        caller = Caller(reader, writer)
        try:
            writer.write(f'{{"peer": "{peer}", "command": "{command}"}}\n'.encode())
            yield caller
        finally:
            writer.close()


class Caller:
    """The other end of the agent's socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.own = tls.make_identity()

    def send(self, frame: bytes) -> None:
        self.writer.write(frame)

    def announce(self, files: Sequence[FileHeader]) -> None:
        self.send(wire.message(Announcement(request=REQUEST, files=tuple(files), certificate=self.own.certificate)))

    async def begin(self, source: Path) -> DataPort:
        """Announce the VM's files, and be let send them."""
        self.announce(headers(source))
        answer = await self.answer()
        assert answer.state == AnswerState.READY
        assert answer.data is not None
        return answer.data

    async def fill(self, source: Path, to: DataPort) -> None:
        """Send the VM's files."""
        await asyncio.to_thread(self._fill, source, to)

    def _fill(self, source: Path, to: DataPort) -> None:
        with opened(source, NAMES, {}) as files, tls.connect("127.0.0.1", to, self.own) as stream:
            Copy(files, Throttle(None, time.monotonic), lambda *_: None).run(stream)

    async def answer(self) -> Answer:
        """The next answer; signs of life come before."""
        while (got := await wire.next_frame(self.reader)).type == FrameType.ALIVE:
            pass
        return wire.parse(Answer, got)

    async def refusal(self) -> str:
        """The reason of the refusal that comes next, and its message."""
        answer = await self.answer()
        assert answer.error is not None, answer
        return f"{answer.error.reason}: {answer.error.message}"


class Sshd:
    """An sshd that runs, and what it said."""

    def __init__(self, config: Path) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks its unprivileged part in
        self.said: list[str] = []
        self._listens = threading.Event()
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._listens.wait(30)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.said.append(line.rstrip())
                if "Server listening" in line:
                    self._listens.set()
        self._listens.set()

    def end(self) -> list[str]:
        """End it; all that it said, when its last session is gone too."""
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(30)
        return self.said


@contextmanager
def target_behind_sshd() -> Iterator[tuple[Target, Sshd, SshEndpoint, Keys]]:
    """A target with an sshd, where it is reached, and the keys of node `a`, which it lets in.

    Below /run: sshd's StrictModes takes no keys from below a directory that everybody may write to, as /tmp is.
    """
    with tempfile.TemporaryDirectory(dir="/run", prefix="kubeferry-test-") as name:
        target = Target(Path(name))
        settings = target.machine.settings
        (target.path / "state-a").mkdir()
        keys, theirs = ensure_keys(settings.state_path), ensure_keys(target.path / "state-a")
        write_authorized_keys(authorized_keys(keys), {"a": theirs.identity_public}, target.socket)
        sshd = Sshd(write_sshd(keys, settings.migration_address, settings.ssh_port))
        assert sshd.process.poll() is None, sshd.said
        endpoint = SshEndpoint(
            address=settings.migration_address, port=settings.ssh_port, host_key=keys.host_public, identity_key=keys.identity_public
        )
        try:
            yield target, sshd, endpoint, theirs
        finally:
            sshd.end()


def _free_ports() -> dict[str, int]:
    """A few ports, of which no more than one or two are taken by others meanwhile."""
    first = _free_port()
    return {"first": first, "last": min(first + 9, 65535)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
