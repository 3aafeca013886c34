import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kubeferry.agent.identity import IdentityError
from kubeferry.agent.transfer.keys import ensure_keys, key_blob, public_form
from kubeferry.api.computenode import PublicKey
from kubeferry.api.model import adapter


def test_two_keys_are_made_at_the_first_start_and_stay(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    assert keys.host_public != keys.identity_public
    assert ensure_keys(tmp_path) == keys


def test_two_hosts_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    a, b = ensure_keys(tmp_path / "a"), ensure_keys(tmp_path / "b")
    assert len({a.host_public, a.identity_public, b.host_public, b.identity_public}) == 4


def test_only_their_owner_reads_them_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys = ensure_keys(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(keys.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (keys.host_key, keys.identity)} == {0o600}


def test_openssh_reads_the_same_public_keys_from_them(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    for path, public in ((keys.host_key, keys.host_public), (keys.identity, keys.identity_public)):
        said = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True, timeout=30).stdout
        assert said.split()[:2] == public.split(" ")
        adapter(PublicKey).validate_python(public)


def other_type() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize("name", ["host_key", "identity"])
@pytest.mark.parametrize("content", [b"", b"a key", other_type()], ids=["empty", "no key", "another type"])
def test_a_damaged_key_is_told_and_never_made_anew(name: str, content: bytes, tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    (keys.directory / name).write_bytes(content)
    with pytest.raises(IdentityError, match=rf"{name} holds no ed25519 private key"):
        ensure_keys(tmp_path)
    assert (keys.directory / name).read_bytes() == content


def test_a_key_that_is_cut_off_is_told(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    whole = keys.identity.read_bytes()
    keys.identity.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IdentityError, match="holds no ed25519 private key"):
        ensure_keys(tmp_path)


def test_a_first_start_that_was_cut_off_between_the_two_is_gone_on_from(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    keys.identity.unlink()
    again = ensure_keys(tmp_path)
    assert again.host_public == keys.host_public
    assert again.identity_public != keys.identity_public


def test_a_state_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "ssh").touch()
    with pytest.raises(IdentityError, match="could not read or make the SSH keys"):
        ensure_keys(tmp_path)


def test_a_public_key_has_one_form(tmp_path: Path) -> None:
    public = ensure_keys(tmp_path).host_public
    assert public_form(key_blob(public)) == public


@pytest.mark.parametrize(
    "public",
    [
        "ssh-rsa AAAA",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 no base64!",
        "ssh-ed25519",
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x21" + bytes(32)).decode(),
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(33)).decode(),
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode() + "\n",
    ],
)
def test_what_is_no_ed25519_key_is_refused(public: str) -> None:
    with pytest.raises(ValueError, match="is no public key"):
        key_blob(public)
