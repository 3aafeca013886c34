"""What the agent writes for its sshd. That a real sshd obeys it is shown by `test_ssh` and `test_copy`."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sshd import SSHD
from structlog.testing import capture_logs

from kubeferry.agent.identity import IdentityError
from kubeferry.agent.transfer.keys import Keys, ensure_keys
from kubeferry.agent.transfer.sshd import authorized_keys, write_authorized_keys, write_sshd

SOCKET = Path("/run/kubeferry/agent.sock")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return ensure_keys(tmp_path)


def public(path: Path, name: str) -> str:
    """The public key of another node."""
    (path / name).mkdir()
    return ensure_keys(path / name).identity_public


def test_sshd_takes_the_configuration_as_it_is_meant(keys: Keys) -> None:
    config = write_sshd(keys, "127.0.0.1", 8022)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    said = subprocess.run([SSHD, "-T", "-f", config], capture_output=True, text=True, check=True, timeout=30).stdout
    assert {
        "port 8022",
        "listenaddress 127.0.0.1:8022",
        f"hostkey {keys.host_key}",
        f"authorizedkeysfile {authorized_keys(keys)}",
        "hostkeyalgorithms ssh-ed25519",
        "pubkeyacceptedalgorithms ssh-ed25519",
        "authenticationmethods publickey",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "hostbasedauthentication no",
        "usepam no",
        "permitrootlogin forced-commands-only",
        "allowusers root",
        "strictmodes yes",
        "disableforwarding yes",
        "allowtcpforwarding no",
        "allowagentforwarding no",
        "x11forwarding no",
        "permittty no",
        "permittunnel no",
        "permituserrc no",
        "permituserenvironment no",
        "maxauthtries 2",
        "logingracetime 15",
        "clientaliveinterval 15",
        "pidfile none",
    } <= set(said.splitlines())


def test_paths_with_signs_that_mean_something_to_sshd_stay_paths(tmp_path: Path) -> None:
    (tmp_path / "100%h of # it").mkdir()
    keys = ensure_keys(tmp_path / "100%h of # it")
    config = write_sshd(keys, "::1", 8022)
    said = subprocess.run([SSHD, "-T", "-f", config], capture_output=True, text=True, check=True, timeout=30).stdout
    assert f"hostkey {keys.host_key}" in said
    assert f"authorizedkeysfile {keys.directory}/authorized_keys".replace("%", "%%") in said
    assert "listenaddress [::1]:8022" in said


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_path_that_sshd_can_not_be_told_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(IdentityError, match="can't be named"):
        write_sshd(ensure_keys(tmp_path / name), "127.0.0.1", 8022)


def test_a_configuration_that_can_not_be_written_is_told(keys: Keys) -> None:
    (keys.directory / "sshd_config").mkdir()
    with pytest.raises(IdentityError, match=r"could not write .*sshd_config"):
        write_sshd(keys, "127.0.0.1", 8022)


def test_a_configuration_is_written_only_if_it_changes(keys: Keys) -> None:
    first = write_sshd(keys, "127.0.0.1", 8022).stat()
    assert first.st_mode & 0o777 == 0o600
    assert write_sshd(keys, "127.0.0.1", 8022).stat().st_ino == first.st_ino
    assert "Port 8023\n" in write_sshd(keys, "127.0.0.1", 8023).read_text()


def test_each_node_has_a_line_with_its_name_and_nothing_but_the_relay(keys: Keys, tmp_path: Path) -> None:
    peers = {name: public(tmp_path, name) for name in ("a", "c.example")}
    write_authorized_keys(authorized_keys(keys), peers, SOCKET)
    lines = authorized_keys(keys).read_text().splitlines()
    assert lines == [
        f'command="{shlex.quote(sys.executable)} -P -m kubeferry.cli.ssh_serve --socket {SOCKET} --peer {name}",restrict {key}'
        for name, key in peers.items()
    ]


def test_without_other_nodes_nobody_is_let_in(keys: Keys, tmp_path: Path) -> None:
    path = authorized_keys(keys)
    write_authorized_keys(path, {"a": public(tmp_path, "a")}, SOCKET)
    write_authorized_keys(path, {}, SOCKET)
    assert path.read_bytes() == b""


def test_a_key_that_two_nodes_have_is_let_in_for_neither(keys: Keys, tmp_path: Path) -> None:
    twice, own = public(tmp_path, "a"), public(tmp_path, "c")
    with capture_logs() as logs:
        write_authorized_keys(authorized_keys(keys), {"a": twice, "b": twice, "c": own}, SOCKET)
    assert [line.split()[-3:] for line in authorized_keys(keys).read_text().splitlines()] == [['c",restrict', *own.split()]]
    assert [(entry["log_level"], entry["peers"]) for entry in logs] == [("error", ["a", "b"])]


@pytest.mark.parametrize("name", ['x" ssh', "x,y", "a b", "", "A", "a\nb", "-a", "a" * 254])
def test_what_is_no_name_of_a_node_is_not_let_in_and_hides_no_other(name: str, keys: Keys, tmp_path: Path) -> None:
    bad, good = public(tmp_path, "x"), public(tmp_path, "good")
    with capture_logs() as logs:
        write_authorized_keys(authorized_keys(keys), {name: bad, "good": good}, SOCKET)
    text = authorized_keys(keys).read_text()
    assert bad not in text
    assert good in text
    assert [(entry["log_level"], entry["peer"]) for entry in logs] == [("error", name)]


def test_what_is_no_key_is_not_let_in_and_hides_no_other(keys: Keys, tmp_path: Path) -> None:
    good = public(tmp_path, "good")
    with capture_logs() as logs:
        write_authorized_keys(authorized_keys(keys), {"a": "ssh-ed25519 AAAA\nssh-rsa BBBB", "good": good}, SOCKET)
    assert authorized_keys(keys).read_text().count("\n") == 1
    assert [entry["peer"] for entry in logs] == ["a"]


def test_a_socket_that_no_line_can_hold_is_refused(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a control character"):
        write_authorized_keys(authorized_keys(keys), {"a": public(tmp_path, "a")}, Path("/run/a\nssh-rsa BBBB"))
    assert not authorized_keys(keys).exists()
