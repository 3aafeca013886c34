"""etcd, the Kubernetes control plane and kubectl, built from Go modules into the cache: once, and again when an input changes.

What `KUBEBUILDER_ASSETS` holds in a version that fits is linked there instead.
"""

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import assets, golang, paths
from lab.locks import locked
from lab.progress import say, ticking
from lab.steps import LabError, tail

MODULES = paths.PACKAGE / "tools"
BUILD_SECONDS = 1800.0
VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
BUILD = ("build", "-mod=readonly", "-trimpath", "-tags", "selinux,notest,grpcnotrace")
ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}


KUBERNETES = "k8s.io/kubernetes"


@dataclass(frozen=True, slots=True)
class Tool:
    """A binary, the wrapper module that pins it and the Go package that makes it."""

    name: str
    module: Path
    package: str
    versioned: str
    """The Go module that has its version."""


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("etcd", MODULES / "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        Tool("kubectl", MODULES / "kubernetes", "k8s.io/kubernetes/cmd/kubectl", KUBERNETES),
        Tool("kube-apiserver", MODULES / "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES),
        Tool("kube-controller-manager", MODULES / "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", KUBERNETES),
    )
}


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod's text requires of a module.

    Raises:
        LabError: the module is not required there.
    """
    found = re.search(rf"^(?:require|\t|\s)*\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise LabError(f"go.mod requires no {module}")
    return found[1]


def kubernetes_version() -> str:
    """The version of Kubernetes that the lab runs, as `v1.N.N`."""
    return version(TOOLS["kubectl"])


def version(tool: Tool) -> str:
    """The version of a tool that the lab builds, as `vN.N.N`."""
    return module_version((tool.module / "go.mod").read_text(), tool.versioned)


def bin_directory() -> Path:
    """Where the binaries are."""
    return paths.cache() / kubernetes_version() / "bin"


def linker_flags(version: str) -> str:
    """The -ldflags that tell the binaries their version; commit and date are fixed, so that a build depends on its inputs alone."""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "1970-01-01T00:00:00Z",
    }
    return " ".join(["-s -w", *(f"-X {package}.{key}={value}" for package in VERSION_PACKAGES for key, value in values.items())])


def stamp(tool: Tool, arguments: Sequence[str]) -> str:
    """SHA-256 over all that a tool is built from: go.mod, go.sum, package, flags and environment."""
    digest = hashlib.sha256()
    parts = [(tool.module / "go.mod").read_bytes(), (tool.module / "go.sum").read_bytes(), tool.package.encode()]
    parts += [argument.encode() for argument in arguments]
    parts += [f"{key}={value}".encode() for key, value in sorted(ENVIRONMENT.items())]
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def ensure(names: Sequence[str] = tuple(TOOLS)) -> Path:
    """Build the tools that are missing or were built from other inputs, and return the directory of the binaries.

    Raises:
        LabError: a build failed or took longer than half an hour; with the tail of its log.
    """
    directory = bin_directory()
    arguments = [*BUILD, "-ldflags", linker_flags(kubernetes_version())]
    given = {name: asset for name in names if (asset := assets.found(name, version(TOOLS[name]))) is not None}
    names = [name for name in names if name not in given]
    _link(directory, given)
    if all(_fresh(directory, TOOLS[name], arguments) for name in names):
        return directory
    lock = directory.parent / "build.lock"
    say(f"tool chain in {directory}")
    with locked(lock, seconds=BUILD_SECONDS * len(names)):
        wanted = [TOOLS[name] for name in names if not _fresh(directory, TOOLS[name], arguments)]
        if wanted:
            go = golang.find()
            directory.mkdir(parents=True, exist_ok=True)
            for left_over in directory.glob("*.part"):
                left_over.unlink()
            for number, tool in enumerate(wanted, start=1):
                _build(go, tool, arguments, directory, f"building {tool.name} ({number} of {len(wanted)})")
    return directory


def _link(directory: Path, given: Mapping[str, Path]) -> None:
    for name, asset in given.items():
        if (directory / name).resolve() == asset.resolve():
            continue
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory.parent / "build.lock", seconds=BUILD_SECONDS):
            say(f"{name} linked to {asset}")
            (directory / f"{name}.stamp").unlink(missing_ok=True)  # where it is given no more, it is built
            (directory / name).unlink(missing_ok=True)
            (directory / name).symlink_to(asset)


def _fresh(directory: Path, tool: Tool, arguments: Sequence[str]) -> bool:
    stamped = directory / f"{tool.name}.stamp"
    return (directory / tool.name).exists() and stamped.exists() and stamped.read_text() == stamp(tool, arguments)


def _build(go: Path, tool: Tool, arguments: Sequence[str], directory: Path, label: str) -> None:
    part = directory / f"{tool.name}.part"
    log = directory.parent / f"build-{tool.name}.log"
    stamped = directory / f"{tool.name}.stamp"
    stamped.unlink(missing_ok=True)
    command: list[str | Path] = [go, *arguments, "-o", part, tool.package]
    with ticking(label) as tick, log.open("w") as output:
        code = _run(command, tool.module, output.fileno(), tick)
        if code != 0:
            raise LabError(f"{label}: go ended with {code}\n{tail(log)}")
        part.rename(directory / tool.name)
        stamped.write_text(stamp(tool, arguments))


def _run(command: Sequence[str | Path], directory: Path, output: int, tick: Callable[[], None]) -> int:
    deadline = time.monotonic() + BUILD_SECONDS
    process = subprocess.Popen(
        command, cwd=directory, env=os.environ | ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    try:
        while time.monotonic() < deadline:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                tick()
        raise LabError(f"{' '.join(map(str, command))}: not done within {BUILD_SECONDS:g} s")
    finally:
        # Also on Ctrl-C: compilers are children of go.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
