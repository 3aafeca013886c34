"""An instances path, and sources to make a VM from."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from builders import UID, domain

from kubeferry.agent.settings import AllowList
from kubeferry.agent.storage.create import create_files
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api.domain import DiskFormat, DiskSource, Domain, DomainDisk, HostPath, KernelBoot
from kubeferry.core.journal import JournalDisk

CAPACITY = 1 << 20
ALL = ("kernel", "initrd", "root.raw", "data.raw")
CONTENT = {"kernel": b"kernel", "initrd": b"initrd", "root": b"root" * 5000, "data": b"data"}


@dataclasses.dataclass
class Bench:
    """An instances path, sources to make a VM from, and what a journal would have noted."""

    instances: Path
    sources: Path
    created: list[str] = dataclasses.field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.instances / UID

    @property
    def allow(self) -> AllowList:
        return AllowList(hostPaths=(str(self.sources),), kernelPaths=(str(self.sources),))

    def domain(self, **changes: Any) -> Domain:
        boot = KernelBoot(kernel_path=f"{self.sources}/kernel", initrd_path=f"{self.sources}/initrd")
        return domain(kernel_boot=boot, disks=(self.disk("root"), self.disk("data")), **changes)

    def disk(self, name: str) -> DomainDisk:
        source = DiskSource(host_path=HostPath(path=f"{self.sources}/{name}"))
        return DomainDisk(name=name, format=DiskFormat.RAW, capacity=CAPACITY, source=source)

    def create(self) -> dict[str, JournalDisk]:
        return create_files(self.instances, self.domain(), self.allow, tuple(self.created), self.created.append)

    def refusal(self) -> StorageError:
        with pytest.raises(StorageError) as refused:
            self.create()
        return refused.value

    def files(self) -> dict[str, bytes]:
        """Names and content, cut of the zeros that fill a disk; for links, where they lead."""
        return {
            path.name: os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes().rstrip(b"\0")
            for path in self.directory.iterdir()
        }

    def whole(self) -> bool:
        """Whether every file is there, as it should be, and nothing else."""
        return self.files() == {
            "kernel": CONTENT["kernel"],
            "initrd": CONTENT["initrd"],
            "root.raw": CONTENT["root"],
            "data.raw": CONTENT["data"],
        }
