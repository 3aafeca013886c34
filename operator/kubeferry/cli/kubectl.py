"""Running kubectl: a plugin asks the API server as its user does, with the same configuration, context, credentials and messages."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

FIELD_MANAGER = "kubectl-ferry"
NOT_FOUND = 127
"""The exit status that a shell gives for a command that is not there."""


class KubectlError(Exception):
    """kubectl was refused, or could not be run; the message is its own.

    Attributes:
        code: its exit status.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Kubectl:
    """kubectl with the flags that choose cluster, user and namespace."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        """`flags` are those of kubectl that go before every command."""
        self._flags = tuple(flags)

    def text(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl prints.

        Raises:
            KubectlError: it failed.
        """
        done = subprocess.run([_kubectl(), *words, *self._flags], input=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip() or done.stdout.strip(), done.returncode)
        return done.stdout

    def object(self, *words: str, stdin: str | None = None) -> Mapping[str, Any]:
        """What kubectl prints as JSON; else as `text`."""
        found: Mapping[str, Any] = json.loads(self.text(*words, "-o", "json", stdin=stdin))
        return found

    def show(self, *words: str, stdin: str | None = None) -> None:
        """Let kubectl print what it has to say.

        Raises:
            KubectlError: it failed, and has said why; the message is empty.
        """
        done = subprocess.run([_kubectl(), *words, *self._flags], input=stdin, text=True, check=False)
        if done.returncode != 0:
            raise KubectlError("", done.returncode)


def _kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        raise KubectlError("kubectl is not on the PATH: this is a plugin of it", NOT_FOUND)
    return found
