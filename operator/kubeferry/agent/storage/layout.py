"""Names in an instance directory, `<instances path>/<VM uid>/`: the seam between the files and the domain XML."""

from kubeferry.api.domain import DomainDisk

KERNEL = "kernel"
INITRD = "initrd"
CONSOLE_LOG = "console.log"
"""Made by virtlogd, which also rotates it (console.log.0): no journal tells of it."""
PART = ".part"
"""Suffix of a file that is not whole yet."""


def disk_file(disk: DomainDisk) -> str:
    """Name of a disk's image. Volume names have no dot, so it is never another file's name."""
    return f"{disk.name}.{disk.format}"
