"""What the sshd beside an agent reads: its configuration, and which keys of which nodes it lets in, to do what.

It runs as `/usr/sbin/sshd -D -e -f STATE/ssh/sshd_config`, as root. sshd reads the keys anew at each login.
"""

import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import structlog

from kubeferry.agent.identity import IdentityError
from kubeferry.agent.storage.atomic import write_atomic
from kubeferry.agent.transfer.keys import Keys, key_blob, public_form

log = structlog.get_logger(__name__)

_NODE = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""A DNS name, as names of nodes are."""

_CONFIG = """\
# Written by the agent of kubeferry at each of its starts.
Port {port}
ListenAddress {address}
PidFile none
HostKey {host_key}
HostKeyAlgorithms ssh-ed25519
AuthorizedKeysFile {authorized_keys}
PubkeyAcceptedAlgorithms ssh-ed25519
StrictModes yes
UsePAM no
AllowUsers root
PermitRootLogin forced-commands-only
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
HostbasedAuthentication no
MaxAuthTries 2
LoginGraceTime 15
DisableForwarding yes
AllowTcpForwarding no
AllowStreamLocalForwarding no
AllowAgentForwarding no
X11Forwarding no
PermitTTY no
PermitTunnel no
PermitUserRC no
PermitUserEnvironment no
PrintMotd no
PrintLastLog no
UseDNS no
Compression no
ClientAliveInterval 15
ClientAliveCountMax 3
"""


def authorized_keys(keys: Keys) -> Path:
    """Where sshd looks for the keys that it lets in."""
    return keys.directory / "authorized_keys"


def write_sshd(keys: Keys, address: str, port: int) -> Path:
    """Write sshd's configuration.

    Args:
        keys: of this host.
        address: IP address to listen on.
        port: port to listen on.

    Returns:
        Its path.

    Raises:
        IdentityError: the path of the keys has a character that sshd's configuration can't name, or the file system refused.
    """
    path = keys.directory / "sshd_config"
    # In the paths of authorized keys, and only there, a % begins what sshd fills in.
    allowed = _word(authorized_keys(keys)).replace("%", "%%")
    config = _CONFIG.format(port=port, address=address, host_key=_word(keys.host_key), authorized_keys=allowed)
    try:
        _write_if_changed(path, config)
    except OSError as error:
        raise IdentityError(f"could not write {path}: {error}; see that it is mounted and can be written") from error
    return path


def write_authorized_keys(path: Path, peers: Mapping[str, str], socket: Path) -> None:
    """Let other nodes in, each to nothing but a relay to this host's agent that tells which node asks.

    A key that two nodes have is let in for neither: who asks could not be told. What is refused is logged, and hides no other.

    Args:
        path: of the file; its directory exists.
        peers: public keys (`ssh-ed25519 AAAA...`) by name of the node.
        socket: where this host's agent listens.

    Raises:
        ValueError: the socket's path, or that of this Python, has a control character.
        OSError: the file system refused.
    """
    nodes: dict[bytes, list[str]] = defaultdict(list)
    for node, public in sorted(peers.items()):
        try:
            nodes[key_blob(public)].append(node)
        except ValueError as error:
            log.error("node is not let in", peer=node, error=str(error))
    for sharing in nodes.values():
        if len(sharing) > 1:
            log.error("nodes are not let in: they have the same key; remove `ssh/identity` of each and restart its agent", peers=sharing)
    lines = [_line(names[0], blob, socket) for blob, names in nodes.items() if len(names) == 1 and _is_node(names[0])]
    _write_if_changed(path, "".join(lines))


def _is_node(name: str) -> bool:
    if _NODE.fullmatch(name):
        return True
    log.error("node is not let in: its name is no DNS name", peer=name)
    return False


def _line(node: str, blob: bytes, socket: Path) -> str:
    # -P: modules are not looked for in root's home directory, where sshd runs the command.
    argv = [sys.executable, "-P", "-m", "kubeferry.cli.ssh_serve", "--socket", str(socket), "--peer", node]
    command = shlex.join(argv)
    if not command.isprintable():
        raise ValueError(f"{command!r} has a control character, which no line of authorized keys can hold")
    quoted = command.replace('"', r"\"")
    return f'command="{quoted}",restrict {public_form(blob)}\n'


def _word(path: Path) -> str:
    text = str(path)
    if not text.isprintable() or '"' in text or "\\" in text:
        raise IdentityError(f"{text!r} can't be named in sshd's configuration: no control character, quote or backslash may be in it")
    return f'"{text}"'


def _write_if_changed(path: Path, text: str) -> None:
    content = text.encode()
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    write_atomic(path, content)
