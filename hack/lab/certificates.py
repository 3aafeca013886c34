"""The lab's certificate authority, by the openssl command: EC keys, valid for a month."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.processes import Processes

DAYS = "30"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
# Without the machine's openssl.cnf, whose extensions would make each certificate an authority.
CONFIG = "[req]\ndistinguished_name = name\n[name]\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a directory, with the certificates that it issued."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        """Makes the authority's own certificate.

        Raises:
            LabError: openssl failed.
        """
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._processes = processes
        self._config = directory / "openssl.cnf"
        self._config.write_text(CONFIG)
        self.pair = self._request("ca", "/CN=kubeferry-lab", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")

    def server(self, name: str, *addresses: str) -> Pair:
        """A certificate for a server at these IP addresses."""
        names = ",".join(f"IP:{address}" for address in addresses)
        return self._issue(name, f"/CN={name}", "extendedKeyUsage=serverAuth", f"subjectAltName={names}")

    def client(self, name: str, user: str, group: str | None = None) -> Pair:
        """A certificate by which the API server knows a user, and the group the user is in."""
        subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
        return self._issue(name, subject, "extendedKeyUsage=clientAuth")

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """A private and a public key, to sign and to check tokens with."""
        private, public = self._directory / f"{name}.key", self._directory / f"{name}.pub"
        self._processes.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private])
        self._processes.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public])
        return private, public

    def _issue(self, name: str, subject: str, *extensions: str) -> Pair:
        signer: list[str | Path] = ["-CA", self.pair.certificate, "-CAkey", self.pair.key]
        usage = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature")
        return self._request(name, subject, *usage, *extensions, signer=signer)

    def _request(self, name: str, subject: str, *extensions: str, signer: Sequence[str | Path] = ()) -> Pair:
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        argv: list[str | Path] = ["openssl", "req", "-x509", "-config", self._config, *NEW_KEY, "-days", DAYS, "-subj", subject]
        for extension in extensions:
            argv += ["-addext", extension]
        self._processes.run([*argv, *signer, "-keyout", pair.key, "-out", pair.certificate])
        return pair
