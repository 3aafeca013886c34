import os
from pathlib import Path

import pytest
from builders import UID, domain

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.space import allocated, free_bytes, instances_file_system, occupied_bytes
from kubeferry.api import reasons
from kubeferry.api.task import DiskResult


def test_the_file_system_tells_its_size_and_room(tmp_path: Path) -> None:
    told = instances_file_system(tmp_path)
    assert told.path == str(tmp_path)
    assert 0 < told.free <= told.total
    assert told.total == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


def test_what_is_kept_for_root_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {"f_bsize": 65536, "f_frsize": 4096, "f_blocks": 100, "f_bfree": 30, "f_bavail": 25}
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((*room.values(), 9, 8, 8, 0, 255)))
    assert free_bytes(tmp_path) == 25 * 4096


def test_two_paths_of_one_file_system_have_its_id_and_another_has_another(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    ids = [instances_file_system(path).filesystem_id for path in (tmp_path, tmp_path / "sub", Path("/proc"))]
    assert ids[0] == ids[1] != ids[2]


def test_a_disk_occupies_its_blocks_not_its_size(tmp_path: Path) -> None:
    (tmp_path / UID).mkdir()
    image = tmp_path / UID / "root.raw"
    image.write_bytes(b"x" * 65536)
    os.truncate(image, 1 << 30)
    (told,) = allocated(tmp_path, domain())
    assert told == DiskResult(name="root", allocated=image.stat().st_blocks * 512)
    assert 65536 <= told.allocated < 1 << 20


def test_a_link_in_place_of_a_disk_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / UID).mkdir()
    (tmp_path / "large").write_bytes(b"x" * 65536)
    (tmp_path / UID / "root.raw").symlink_to(tmp_path / "large")
    assert allocated(tmp_path, domain())[0].allocated < 65536


def test_a_missing_disk_is_told_not_counted_as_empty(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as refused:
        allocated(tmp_path, domain())
    assert refused.value.reason == reasons.STORAGE_ERROR


def test_a_missing_instances_path_has_no_room_to_tell(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        free_bytes(tmp_path / "missing")


def test_a_vm_occupies_what_its_files_and_parts_do_each_counted_once(tmp_path: Path) -> None:
    directory = tmp_path / UID
    directory.mkdir()
    for name, size in {"root.raw": 65536, "data.raw.part": 131072, "console.log": 262144}.items():
        (directory / name).write_bytes(b"x" * size)
    os.link(directory / "root.raw", directory / "root.raw.part")  # while it gets its final name
    blocks = sum((directory / name).stat().st_blocks for name in ("root.raw", "data.raw.part"))
    assert occupied_bytes(tmp_path, UID, ("root.raw", "data.raw", "not-made-yet")) == blocks * 512


def test_a_vm_that_has_created_nothing_occupies_nothing(tmp_path: Path) -> None:
    assert occupied_bytes(tmp_path, UID, ()) == 0


def test_what_a_vm_occupies_can_not_be_told_without_its_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        occupied_bytes(tmp_path, UID, ("root.raw",))
