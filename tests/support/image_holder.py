"""A QEMU that holds the write lock of an image, as a guest's does."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held_by_qemu(image: Path, *, readonly: bool = False) -> Iterator[None]:
    """A QEMU with a machine has the image; its guest does not run. It answers once all devices are there."""
    access = "on" if readonly else "off"
    drive = ["-drive", f"id=root,if=none,format=raw,readonly={access},file={image}", "-device", "virtio-blk-device,drive=root"]
    command = ["qemu-system-x86_64", "-S", "-machine", "microvm", "-m", "8", "-nodefaults", "-display", "none", "-qmp", "stdio", *drive]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"execute": "qmp_capabilities"}')
        process.stdin.flush()
        assert [set(json.loads(process.stdout.readline())) for _ in range(2)] == [{"QMP"}, {"return"}]
        yield
        process.communicate(b'{"execute": "quit"}')
