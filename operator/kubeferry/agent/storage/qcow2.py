"""What an image's header says, read without QEMU: opening an image that names other files would open those, too.

The format: https://www.qemu.org/docs/master/interop/qcow2.html
"""

import os
import struct
import subprocess

from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

_HEAD = struct.Struct(">4sIQIIQI")
"""Magic, version, offset and size of the backing file's name, cluster bits, virtual size, encryption."""
_FEATURES = struct.Struct(">Q")
_FEATURES_AT = 72
_EXTERNAL_DATA = 1 << 2
_MAGIC = b"QFI\xfb"

_TIMEOUT = 60
"""Seconds for one call, which writes metadata only."""


def virtual_size(fd: int, path: str) -> int:
    """Bytes that a guest sees of a qcow2 image that is whole in one file.

    Args:
        fd: open for reading.
        path: for messages.

    Raises:
        StorageError: `SourceUnusable`: it is none, is encrypted, or lies in another file too.
        OSError: it can't be read.
    """
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or head[:4] != _MAGIC:
        raise _unusable(path, "it is no qcow2 image; name its format")
    _, version, backing, _, _, size, encryption = _HEAD.unpack(head)
    if version not in (2, 3):
        raise _unusable(path, f"it is of version {version}, 2 or 3 was expected; convert it by qemu-img convert")
    if backing:
        raise _unusable(path, "it has a backing file, and would be nothing without it; flatten it by qemu-img convert")
    if encryption:
        raise _unusable(path, "it is encrypted, which is not supported; convert it by qemu-img convert")
    if version == 3:
        extended = os.pread(fd, _FEATURES.size, _FEATURES_AT)
        if len(extended) < _FEATURES.size:
            raise _unusable(path, "its header ends early; see whether it was copied whole")
        (features,) = _FEATURES.unpack(extended)
        if features & _EXTERNAL_DATA:
            raise _unusable(path, "its data lies in another file; convert it by qemu-img convert")
    return int(size)


def resize(fd: int, size: int, path: str) -> None:
    """Have a guest see so many bytes, at least as many as before, of an image that `virtual_size` took.

    Args:
        fd: open to write.
        size: bytes.
        path: for messages.

    Raises:
        StorageError: qemu-img refused, or took too long.
    """
    _qemu_img("resize", fd, size, path)


def make_blank(fd: int, size: int, path: str) -> None:
    """Make an image of which a guest sees so many bytes, all zero.

    Args:
        fd: of an empty file, open to write.
        size: bytes.
        path: for messages.

    Raises:
        StorageError: qemu-img refused, or took too long.
    """
    _qemu_img("create", fd, size, path)


def _qemu_img(verb: str, fd: int, size: int, path: str) -> None:
    # qemu-img gets no other name of it: should it outlive its agent, it works on what the next one has removed.
    command = ["qemu-img", verb, "-q", "-f", "qcow2", f"/proc/self/fd/{fd}", str(size)]
    doing = f"qemu-img {verb} {path} ({size} bytes)"
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdin=none, stdout=none, stderr=pipe, pass_fds=(fd,), timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise StorageError(
            reasons.STORAGE_ERROR, f"{doing} did not end within {_TIMEOUT} s; see that its file system answers", retryable=True
        ) from error
    except OSError as error:
        raise StorageError(reasons.STORAGE_ERROR, f"{doing} can't be run: {error.strerror}; install qemu-utils") from error
    if done.returncode != 0:
        raise StorageError(reasons.STORAGE_ERROR, f"{doing} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")


def _unusable(path: str, seen: str) -> StorageError:
    return StorageError(reasons.SOURCE_UNUSABLE, f"{path} can't be a disk: {seen}")
