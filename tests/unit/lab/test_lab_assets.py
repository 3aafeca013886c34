"""What envtest holds is linked where it fits, and built where not."""

from pathlib import Path

import pytest

from lab import assets, paths, toolchain
from lab.toolchain import TOOLS

SAYS = {
    "etcd": "etcd Version: {}\nGit SHA: abc\nGo Version: go1.26.1\n",
    "kube-apiserver": "Kubernetes v{}",
    "kubectl": "Client Version: v{}\nKustomize Version: v5.8.1",
}


def binary(directory: Path, name: str, version: str, code: int = 0) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{SAYS.get(name, '{}').format(version)}\nE\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def envtest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What KUBEBUILDER_ASSETS names; the lab's own cache is elsewhere."""
    directory = tmp_path / "envtest"
    directory.mkdir()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(directory))
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    return directory


@pytest.mark.parametrize("name", list(SAYS))
@pytest.mark.parametrize(("holds", "fits"), [("1.36.4", True), ("1.36.0", True), ("1.35.9", False), ("1.3.6", False), ("2.36.4", False)])
def test_a_binary_of_the_same_minor_version_fits(name: str, holds: str, fits: bool, envtest: Path) -> None:
    path = binary(envtest, name, holds)
    assert assets.found(name, "v1.36.4") == (path if fits else None)


def test_what_is_not_there_or_can_not_be_run_or_tells_no_version_does_not_fit(envtest: Path) -> None:
    binary(envtest, "etcd", "1.36.4", code=1)
    binary(envtest, "kubectl", "no version")
    binary(envtest, "kube-controller-manager", "1.36.4")  # envtest has none: nobody knows how it is asked
    for name in TOOLS:
        assert assets.found(name, "v1.36.4") is None


def test_without_the_variable_nothing_fits(envtest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary(envtest, "kubectl", "1.36.4")
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    assert assets.found("kubectl", "v1.36.4") is None


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools that would be built."""
    names: list[str] = []

    def build(_go: Path, tool: toolchain.Tool, arguments: list[str], directory: Path, _label: str) -> None:
        names.append(tool.name)
        part = directory / f"{tool.name}.part"
        part.write_text("built")
        part.rename(directory / tool.name)
        (directory / f"{tool.name}.stamp").write_text(toolchain.stamp(tool, arguments))

    monkeypatch.setattr(toolchain, "_build", build)
    monkeypatch.setattr(toolchain.golang, "find", lambda: Path("go"))
    return names


def test_what_fits_is_linked_and_the_rest_is_built(envtest: Path, built: list[str]) -> None:
    etcd = binary(envtest, "etcd", toolchain.version(TOOLS["etcd"]).removeprefix("v"))
    binary(envtest, "kubectl", "1.2.3")
    directory = toolchain.ensure(["etcd", "kubectl"])
    assert ((directory / "etcd").readlink(), built) == (etcd, ["kubectl"])
    toolchain.ensure(["etcd", "kubectl"])
    assert built == ["kubectl"]


def test_what_is_given_no_more_is_built_and_what_was_given_is_not_written_over(
    envtest: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = binary(envtest, "etcd", toolchain.version(TOOLS["etcd"]).removeprefix("v"))
    before = etcd.read_text()
    directory = toolchain.ensure(["etcd"])
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    toolchain.ensure(["etcd"])
    assert built == ["etcd"]
    assert not (directory / "etcd").is_symlink()
    assert etcd.read_text() == before


def test_what_was_built_gives_way_to_what_is_given(envtest: Path, built: list[str]) -> None:
    directory = toolchain.ensure(["etcd"])
    etcd = binary(envtest, "etcd", toolchain.version(TOOLS["etcd"]).removeprefix("v"))
    toolchain.ensure(["etcd"])
    assert built == ["etcd"]
    assert (directory / "etcd").readlink() == etcd
