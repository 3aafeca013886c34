"""The guest: a small real Linux, and disks that prove which data it sees."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import paths
from lab.locks import locked
from lab.progress import ticking
from lab.steps import LabError, NotYet, run, wait_until

MAKER, INIT = paths.PACKAGE / "mk-guest", paths.PACKAGE / "guest-init"
DEBIAN_MAKER = paths.PACKAGE / "mk-debian"
KERNEL, INITRAMFS, DISK, DEBIAN = "vmlinuz", "initramfs.gz", "guest.img", "debian.img"
MAKE_SECONDS = 300.0
DEBIAN_SECONDS = 900.0
DISK_BYTES = 64 * 1024 * 1024


def ensure() -> Path:
    """Make kernel and initramfs unless they are in the cache, made by the same scripts; returns their directory.

    Raises:
        LabError: they could not be made, as where apt reaches nothing.
    """
    return _ensure("guest", MAKER, [INIT], "making the guest's kernel and initramfs", MAKE_SECONDS)


def ensure_debian() -> Path:
    """Make the disk of the fuller guest, as large as 1200 MiB and sparse, unless it is in the cache; returns where it is.

    Raises:
        LabError: it could not be made, as where apt reaches nothing.
    """
    return _ensure("debian", DEBIAN_MAKER, [], "making a disk with Debian", DEBIAN_SECONDS) / DEBIAN


def _ensure(name: str, maker: Path, inputs: Sequence[Path], label: str, seconds: float) -> Path:
    """A directory of the cache that a script fills: anew when it or its other inputs have changed."""
    directory = paths.cache() / name
    stamp = directory / "stamp"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in (maker, *inputs))).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return directory
    with locked(paths.cache() / f"{name}.lock", seconds=seconds):
        if stamp.exists() and stamp.read_text() == wanted:
            return directory
        stamp.unlink(missing_ok=True)
        with ticking(label):
            run([maker, directory], seconds=seconds)
        stamp.write_text(wanted)
    return directory


def furnish(images: Path, marker: str) -> None:
    """Put kernel, initramfs and a disk with this marker into a directory, as vmlinuz, initramfs.gz and guest.img.

    Raises:
        LabError: they could not be made.
    """
    source = ensure()
    images.mkdir(parents=True, exist_ok=True)
    for name in (KERNEL, INITRAMFS):
        shutil.copyfile(source / name, images / name)
    make_disk(images / DISK, marker, DISK_BYTES)


def furnish_debian(images: Path) -> None:
    """Put the disk of the fuller guest into a directory, as debian.img.

    Raises:
        LabError: it could not be made.
    """
    run(["cp", "--reflink=auto", "--sparse=always", ensure_debian(), images / DEBIAN], seconds=120)


def make_disk(path: Path, marker: str, size: int) -> None:
    """Make a sparse raw image of `size` bytes: an ext4 file system with the file `marker`.

    Raises:
        LabError: mkfs.ext4 failed.
    """
    with tempfile.TemporaryDirectory() as content:
        Path(content, "marker").write_text(marker)
        with path.open("wb") as file:
            file.truncate(size)
        run(["mkfs.ext4", "-q", "-F", "-d", content, path])


def read_file(image: Path, path: str) -> str:
    """A file of the ext4 file system on a raw image, or on its first partition, as its guest would find it at its next boot.

    That is with the journal replayed. The image is only read; the guest may run.

    Raises:
        FileNotFoundError: the file system has no such file.
        LabError: it is no ext4 file system.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "copy.img")
        run(["dd", f"if={image}", f"of={copy}", "bs=1M", "conv=sparse", "iflag=skip_bytes", f"skip={_start(image)}"])
        # What a guest has synced may so far be in the journal only.
        run(["e2fsck", "-y", "-E", "journal_only", copy])
        shown = run(["debugfs", "-R", f'cat "{path}"', copy])
    # debugfs ends with 0 whatever happens; its first line on stderr is its version.
    errors = shown.stderr.strip().splitlines()[1:]
    if any("File not found" in error for error in errors):
        raise FileNotFoundError(f"{image}: no file {path}")
    if errors:
        raise LabError(f"debugfs on {image}: {' '.join(errors)}")
    return shown.stdout


def _start(image: Path) -> int:
    """Where the file system of an image begins, in bytes: at once, or where the first entry of a partition table says."""
    with image.open("rb") as file:
        sector = file.read(512)
    return int.from_bytes(sector[454:458], "little") * 512 if sector[510:] == b"\x55\xaa" else 0


def heartbeats(image: Path) -> list[str]:
    """The times at which the guest of this disk was alive, as it wrote them there: one a second, the oldest first.

    Raises:
        FileNotFoundError: it has written none.
        LabError: there is no ext4 file system.
    """
    return read_file(image, "/log").split()


def wait_heartbeats(image: Path, earlier: Sequence[str] = (), *, seconds: float = 60) -> list[str]:
    """Wait until the guest, which may run, has gone on with its heartbeats after these earlier ones; returns the new ones.

    Raises:
        LabError: it has not within `seconds`, or its disk lacks one of the earlier ones.
    """

    def new() -> list[str]:
        try:
            told = heartbeats(image)
        except (FileNotFoundError, LabError) as error:  # a disk that is written to while it is copied may look torn
            raise NotYet(str(error)) from error
        if told[: len(earlier)] != list(earlier) or len(told) == len(earlier):
            raise NotYet(f"heartbeats {told[-5:]}, expected more than {list(earlier[-5:])}")
        return told[len(earlier) :]

    return wait_until(f"heartbeats on {image}", new, seconds=seconds)
