"""The directory of the machine that every host mounts a directory of its own over.

It belongs to all labs of the machine, whichever cache they are in: the first makes it, the last removes it, and a machine that
had it before keeps it.
"""

from pathlib import Path

from lab import network
from lab.locks import machine_lock
from lab.record import MountPoint, Record

PATH = Path("/var/lib/kubeferry")
# That labs made it. Beside the lock, because it is the machine's.
MARK = Path("/run/lock/kubeferry-lab.made-mount-point")


def make(record: Record) -> None:
    """Make it, unless it is there. The lab's bridge, which says that the lab needs it, must exist."""
    with machine_lock():
        record.add(MountPoint(str(PATH)))
        if not PATH.exists():
            MARK.touch()
            PATH.mkdir()


def remove() -> str | None:
    """Remove it if labs made it and none needs it any more; says so, or why not.

    By someone who holds the machine's lock, and has removed the lab's bridge.
    """
    if not MARK.exists() or in_use():
        return None
    if not PATH.exists():
        MARK.unlink()
        return None
    if any(PATH.iterdir()):
        return f"{PATH} is left: files are in it, which no lab puts there"
    PATH.rmdir()
    MARK.unlink()
    return f"mount point {PATH}"


def in_use() -> bool:
    """Whether a lab of this machine is there, or anything is mounted on it in any mount namespace."""
    return network.bridges() != [] or any(_mounted(process) for process in Path("/proc").glob("[0-9]*"))


def _mounted(process: Path) -> bool:
    try:
        mounts = (process / "mountinfo").read_text()
    except OSError:
        return False  # it ended meanwhile, or is defunct: it has no mounts
    return any(line.split()[4] == str(PATH) for line in mounts.splitlines())
