import sys
from pathlib import Path

import pytest

from lab import __main__, locks, paths, removal
from lab.steps import LabError


@pytest.fixture
def precious(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of two labs that nobody uses, of something else among the labs, and of the cache around them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(locks, "MACHINE_LOCK", tmp_path / "lock")
    files = [
        paths.labs() / "lab-1" / "x" / "file",
        paths.labs() / "lab-2" / "file",
        paths.labs() / "notes" / "lab-1" / "file",
        paths.cache() / "tool",
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


NO_NAMES = ["", ".", "..", "../labs", "lab-1/../lab-2", "lab-1/../x", "lab-1/x", "lab-1/", "notes", "lab-", "lab-1\n", "lab-3"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_not_the_name_of_a_lab_removes_nothing_and_says_which_labs_there_are(precious: list[Path], name: str) -> None:
    with pytest.raises(LabError, match=r"is not the name of a lab; .*: lab-1, lab-2\. Name one of them, or leave the name out"):
        removal.clean(name)
    assert [file for file in precious if not file.exists()] == []


def test_an_absolute_path_is_no_lab_even_if_it_leads_to_one(precious: list[Path]) -> None:
    for path in ("/", str(paths.labs()), str(paths.labs() / "lab-1")):
        with pytest.raises(LabError, match="is not the name of a lab"):
            removal.clean(path)
    assert [file for file in precious if not file.exists()] == []


def test_the_command_takes_an_empty_name_for_a_name_and_not_for_none(
    precious: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lab", "clean", ""])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("lab: '' is not the name of a lab")
    assert [file for file in precious if not file.exists()] == []


@pytest.mark.parametrize("path", ["", "..", "../labs", "lab-1/x", "lab-1/..", "lab-1/../..", "notes", "notes/lab-1", "../tool"])
def test_a_directory_that_is_no_labs_own_is_not_removed_whoever_asks(precious: list[Path], path: str) -> None:
    with pytest.raises(LabError, match=r"is left alone: only .*/labs/lab-N is a lab's directory"):
        removal.remove(paths.labs() / path)
    assert [file for file in precious if not file.exists()] == []


def test_a_link_by_a_labs_name_is_not_followed(precious: list[Path]) -> None:
    link = paths.labs() / "lab-7"
    link.symlink_to(paths.labs() / "notes")
    with pytest.raises(LabError, match="is left alone"):
        removal.remove(link)
    assert [file for file in precious if not file.exists()] == []


def test_a_named_lab_is_removed_alone(precious: list[Path]) -> None:
    assert removal.clean("lab-2") == [f"lab-2: directory {paths.labs() / 'lab-2'}"]
    assert [file for file in precious if not file.exists()] == [precious[1]]


def test_without_a_name_all_unused_labs_are_removed_and_nothing_else(precious: list[Path]) -> None:
    removal.clean(None)
    assert [file for file in precious if not file.exists()] == precious[:2]


def test_a_cache_behind_a_link_is_cleaned_as_any_other(precious: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    removal.clean("lab-1")
    assert [file for file in precious if not file.exists()] == precious[:1]
