"""Names in an instance directory, `<instances path>/<VM uid>/`: the seam between the files and the domain XML."""

import re

from kubeferry.api.domain import Domain, DomainDisk
from kubeferry.core.journal import Journal

KERNEL = "kernel"
INITRD = "initrd"
CONSOLE_LOG = "console.log"
"""Made by virtlogd, which also rotates it (console.log.0): no journal tells of it."""
BOOT_LIMIT = 1 << 30
"""Bytes of a kernel or an initrd; a copy refuses a larger one, so none is made."""
PART = ".part"
"""Suffix of a file that is not whole yet."""
MANIFEST = ".manifest"
"""Suffix of the file that tells what a part is known to hold."""
TRASH = ".trash"
"""Directory beside the instance directories. No VM's: a uid has no dot."""

_CONSOLE_LOGS = re.compile(re.escape(CONSOLE_LOG) + r"(\.[0-9]+)?")


def disk_file(disk: DomainDisk) -> str:
    """Name of a disk's image. Volume names have no dot, so it is never another file's name."""
    return f"{disk.name}.{disk.format}"


def boot_files(domain: Domain) -> list[str]:
    """Names of what the VM boots by, beside its disks."""
    boot = domain.kernel_boot
    if boot is None:
        return []
    return [KERNEL] if boot.initrd_path is None else [KERNEL, INITRD]


def image_inodes(journal: Journal) -> dict[str, int]:
    """Inode number of each disk that is whole, by its image's name."""
    disks = () if journal.domain is None else journal.domain.disks
    return {disk_file(disk): journal.disks[disk.name].inode for disk in disks if disk.name in journal.disks}


def final_name(name: str) -> str:
    """The name that a file, its part and its manifest come to have."""
    return name.removesuffix(PART).removesuffix(MANIFEST)


def is_console_log(name: str) -> bool:
    """Whether virtlogd made it: the guest's console log, or one that was rotated away."""
    return _CONSOLE_LOGS.fullmatch(name) is not None
