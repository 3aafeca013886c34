"""What the lab needs of the machine, and the Debian packages that have it."""

import os
import shutil

from lab.steps import LabError

# Directories of commands that a user's PATH may lack.
SYSTEM_PATH = f"{os.defpath}:/usr/sbin:/sbin"
COMMANDS = {
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "sshd": "openssh-server",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
    "ps": "procps",
    "cpio": "cpio",
    "mkfs.ext4": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "openssl": "openssl",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}


def missing() -> dict[str, str]:
    """The commands that the machine lacks, each with its Debian package."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return {command: package for command, package in COMMANDS.items() if not shutil.which(command, path=path)}


def check() -> None:
    """Check that a lab can run here.

    Raises:
        LabError: commands are missing, or this is not root; with what to do.
    """
    if lacking := missing():
        packages = " ".join(sorted(set(lacking.values())))
        raise LabError(
            f"not on this machine: {', '.join(lacking)}\n"
            f"as root on Debian 12: apt-get update && apt-get install --no-install-recommends {packages}\n"
            "or, in kubeferry's repository: hack/packages"
        )
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces, mounts and network links: it must be run as root")
