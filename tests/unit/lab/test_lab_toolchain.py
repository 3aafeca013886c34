from dataclasses import replace
from pathlib import Path

import pytest

from lab import golang, toolchain
from lab.steps import LabError
from lab.toolchain import Tool, linker_flags, module_version, stamp


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.9 linux/amd64", (1, 9)),
        ("go version go1.27rc1 linux/arm64", (1, 27)),
        ("go version devel go1.28-a1b2c3 Tue linux/amd64", (1, 28)),
    ],
)
def test_a_go_version_is_read_as_numbers(text: str, version: tuple[int, int]) -> None:
    assert golang.parse_version(text) == version


def test_go_1_9_is_older_than_1_26() -> None:
    assert golang.parse_version("go version go1.9 linux/amd64") < golang.MINIMUM


def test_a_text_without_a_go_version_is_an_error() -> None:
    with pytest.raises(LabError, match="printed 'gcc 12'"):
        golang.parse_version("gcc 12")


def test_a_modules_version_is_the_required_one_and_not_a_replaced_ones() -> None:
    require = "require (\n\tk8s.io/api v0.0.0 // indirect\n\tk8s.io/kubernetes v1.36.4\n)"
    go_mod = f"module m\n\n{require}\n\nreplace k8s.io/api => k8s.io/api v0.36.4\n"
    assert module_version(go_mod, "k8s.io/kubernetes") == "v1.36.4"
    assert module_version(go_mod, "k8s.io/api") == "v0.0.0"
    assert module_version("module m\nrequire k8s.io/kubernetes v1.36.4\n", "k8s.io/kubernetes") == "v1.36.4"
    with pytest.raises(LabError, match=r"requires no k8s\.io/kube$"):
        module_version(go_mod, "k8s.io/kube")


def test_both_version_packages_are_told_the_version() -> None:
    flags = linker_flags("v1.36.4")
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        assert f"-X {package}.gitVersion=v1.36.4 -X {package}.gitMajor=1 -X {package}.gitMinor=36 " in flags


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    (tmp_path / "go.mod").write_text("module m\n")
    (tmp_path / "go.sum").write_text("sums\n")
    return Tool("t", tmp_path, "example.org/t", "example.org")


def test_a_stamp_is_the_same_for_the_same_inputs(tool: Tool) -> None:
    assert stamp(tool, ["build", "-trimpath"]) == stamp(tool, ["build", "-trimpath"])


def test_a_stamp_changes_with_each_input(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = [stamp(tool, ["build", "-trimpath"])]
    stamps.append(stamp(tool, ["build", "-tags", "x"]))
    stamps.append(stamp(tool, ["build-", "trimpath"]))
    stamps.append(stamp(replace(tool, package="example.org/u"), ["build", "-trimpath"]))
    (tool.module / "go.sum").write_text("other sums\n")
    stamps.append(stamp(tool, ["build", "-trimpath"]))
    (tool.module / "go.mod").write_text("module n\n")
    stamps.append(stamp(tool, ["build", "-trimpath"]))
    monkeypatch.setitem(toolchain.ENVIRONMENT, "CGO_ENABLED", "1")
    stamps.append(stamp(tool, ["build", "-trimpath"]))
    assert len(set(stamps)) == len(stamps)
