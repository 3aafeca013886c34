"""The two SSH keys of a host: what its sshd proves to have, and what its agent proves to have. They never leave it."""

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_ssh_private_key

from kubeferry.agent.identity import IdentityError
from kubeferry.agent.storage.atomic import sync_directory, write_atomic

_SSH = "ssh"
_HOST_KEY = "host_key"
_IDENTITY = "identity"

_TYPE = "ssh-ed25519"
_BLOB_HEAD = b"\x00\x00\x00\x0b" + _TYPE.encode() + b"\x00\x00\x00\x20"
"""What a public key begins with (RFC 8709); the key's own 32 bytes follow."""
_BLOB_LENGTH = len(_BLOB_HEAD) + 32


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the keys of this host lie, and their public halves: `ssh-ed25519 AAAA...`, without a comment."""

    directory: Path
    """Holds all that belongs to SSH; nobody but root looks into it."""
    host_key: Path
    identity: Path
    host_public: str
    identity_public: str


def ensure_keys(state_path: Path) -> Keys:
    """The keys of this host, made at its first start.

    Call it with the host's lock taken (`agent.identity.take_host_lock`).

    Args:
        state_path: host-local, never shared; it exists.

    Raises:
        IdentityError: a key is damaged, or the file system refused. A damaged one is not made anew: other nodes would take
            this host for another, and nobody would know why.
    """
    directory = state_path / _SSH
    host_key, identity = directory / _HOST_KEY, directory / _IDENTITY
    with _telling(f"read or make the SSH keys in {directory}"):
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(state_path)
        return Keys(directory, host_key, identity, _ensure(host_key), _ensure(identity))


def key_blob(public: str) -> bytes:
    """The key itself of its public form: two forms of the same key have the same.

    Raises:
        ValueError: it is no ed25519 key.
    """
    kind, _, encoded = public.partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{public[:80]!r} is no public key: {error}") from error
    if kind != _TYPE or len(blob) != _BLOB_LENGTH or not blob.startswith(_BLOB_HEAD):
        raise ValueError(f"{public[:80]!r} is no public key of type {_TYPE}")
    return blob


def public_form(blob: bytes) -> str:
    """The public form of a key, as OpenSSH writes it, without a comment."""
    return f"{_TYPE} {base64.b64encode(blob).decode('ascii')}"


@contextmanager
def _telling(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IdentityError(f"could not {doing}: {error}; see that it is mounted and can be written") from error


def _ensure(path: Path) -> str:
    """The public form of the key at that path, which is made if nothing is there."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    else:
        key = _parsed(path, content)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _parsed(path: Path, content: bytes) -> Ed25519PrivateKey:
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _damaged(path, "it is of another type")
    return key


def _damaged(path: Path, seen: str) -> IdentityError:
    return IdentityError(
        f"{path} holds no ed25519 private key as OpenSSH writes it ({seen}); restore it from a backup, or remove it: "
        f"a new one is made then, and other nodes take it once they have read this node's ComputeNode"
    )
