"""Kubeconfig files: one server, one user each."""

import base64
import os
from pathlib import Path
from typing import Any

import yaml

from lab.certificates import Pair


def by_certificate(path: Path, server: str, authority: Path, pair: Pair) -> None:
    """Write the kubeconfig of a user who comes with a client certificate."""
    _write(path, server, authority, {"client-certificate-data": _data(pair.certificate), "client-key-data": _data(pair.key)})


def by_token(path: Path, server: str, authority: Path, token: str) -> None:
    """Write the kubeconfig of a user who comes with a token."""
    _write(path, server, authority, {"token": token})


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(path: Path, server: str, authority: Path, user: dict[str, str]) -> None:
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority-data": _data(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(config, file, sort_keys=False)
