import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeferry.agent.storage.allow import HOST_PATHS, open_allowed
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons

Link = Callable[[str, str], str]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The allow-listed directory, with an image; beside it a secret."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "root.img").write_text("image")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "images"


def read(path: Path | str, *allowed: Path | str) -> str:
    with open(open_allowed(str(path), [str(directory) for directory in allowed], HOST_PATHS)) as file:
        return file.read()


def refusal(path: Path | str, *allowed: Path | str) -> StorageError:
    with pytest.raises(StorageError) as refused:
        read(path, *allowed)
    return refused.value


def test_a_file_below_any_of_the_directories_is_opened(images: Path) -> None:
    assert read(images / "root.img", "/nowhere", images) == "image"


def test_a_file_deep_below_is_opened(images: Path) -> None:
    (images / "a" / "b").mkdir(parents=True)
    (images / "a" / "b" / "root.img").write_text("deep")
    assert read(images / "a" / "b" / "root.img", images) == "deep"


def test_links_are_followed_on_both_sides_before_they_are_compared(images: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(images)
    (images / "latest.img").symlink_to("root.img")
    assert read(tmp_path / "alias" / "latest.img", images) == "image"
    assert read(images / "root.img", tmp_path / "alias") == "image"


@pytest.mark.parametrize("allowed", [(), ("",), (".",), ("relative",)], ids=["empty list", "empty entry", "dot", "relative entry"])
def test_nothing_is_allowed_by(allowed: tuple[str, ...], images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    assert refusal(images / "root.img", *allowed).reason == reasons.PATH_NOT_ALLOWED


def test_an_empty_list_says_which_key_to_fill(images: Path) -> None:
    assert "allow.hostPaths of the agent's configuration is empty" in str(refusal(images / "root.img"))


@pytest.mark.parametrize(
    "path",
    [
        "{tmp}/secret",
        "{tmp}/missing",
        "{tmp}/images/../secret",
        "{tmp}/images/../images/root.img",
        "{tmp}/images/link-out",
        "{tmp}/images/dir-out/secret",
        "{tmp}/images/dangling-out",
        "{tmp}/images-too/root.img",
        "{tmp}/images",
        "images/root.img",
    ],
)
def test_a_path_that_leads_elsewhere_is_not_allowed_and_does_not_tell_what_lies_there(
    path: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (images / "link-out").symlink_to(tmp_path / "secret")
    (images / "dir-out").symlink_to(tmp_path)
    (images / "dangling-out").symlink_to(tmp_path / "missing")
    (tmp_path / "images-too").mkdir()
    (tmp_path / "images-too" / "root.img").write_text("not this one")
    named = path.format(tmp=tmp_path)
    error = refusal(named, images)
    assert error.reason == reasons.PATH_NOT_ALLOWED
    assert str(error) == (
        f"{named} is not allowed: it must be absolute, without '..', and lead below one of {images} "
        "(allow.hostPaths of the agent's configuration); put the file there, or have the operator of the node extend the list"
    )


def directory(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


def nothing(_path: Path) -> None:
    return


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "No such file"),
        (directory, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (loop, "Too many levels of symbolic links"),
    ],
    ids=["missing", "directory", "pipe that nobody writes to", "link to itself"],
)
def test_what_is_no_regular_file_is_unusable(make: Callable[[Path], None], says: str, images: Path) -> None:
    make(images / "odd")
    error = refusal(images / "odd", images)
    assert (error.reason, error.retryable) == (reasons.SOURCE_UNUSABLE, False)
    assert says in str(error)


@pytest.mark.parametrize(("swapped", "says"), [("file", "Too many levels of symbolic links"), ("directory", "was replaced")])
def test_a_link_put_in_between_the_look_and_the_open_reads_nothing(
    swapped: str, says: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "sub").mkdir()
    (images / "sub" / "secret").write_text("harmless")
    resolve = os.path.realpath

    def raced(path: str) -> str:
        real = resolve(path)
        if path.endswith("secret"):
            (images / "sub" / "secret").unlink()
            if swapped == "file":
                (images / "sub" / "secret").symlink_to(tmp_path / "secret")
            else:
                (images / "sub").rmdir()
                (images / "sub").symlink_to(tmp_path)
        return real

    monkeypatch.setattr(os.path, "realpath", raced)
    before = os.listdir("/proc/self/fd")
    error = refusal(images / "sub" / "secret", images)
    assert error.reason == reasons.SOURCE_UNUSABLE
    assert says in str(error)
    assert os.listdir("/proc/self/fd") == before
