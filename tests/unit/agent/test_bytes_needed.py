"""Room that a VM's files will take."""

import os

from builders import UID
from instance_bench import CAPACITY, CONTENT, Bench

from kubeferry.agent.storage.create import MARGIN, bytes_needed, own_files


def test_the_bytes_needed_are_what_the_sources_occupy_and_a_margin(bench: Bench) -> None:
    os.truncate(bench.sources / "data", CAPACITY)
    (bench.sources / "root").write_bytes(b"x" * CAPACITY)
    occupied = sum((bench.sources / name).stat().st_blocks * 512 for name in CONTENT)
    assert CAPACITY <= occupied < 2 * CAPACITY
    assert bytes_needed(bench.domain(), bench.allow, {}) == occupied + MARGIN


def test_whole_files_need_no_more_room_and_parts_give_theirs_back(bench: Bench) -> None:
    bench.directory.mkdir()
    (bench.sources / "root").write_bytes(b"x" * CAPACITY)
    (bench.directory / "kernel").write_bytes(b"kernel")
    (bench.directory / "root.raw.part").write_bytes(b"x" * (CAPACITY // 2))
    (bench.sources / "kernel").unlink()
    found = own_files(bench.instances, UID, ("kernel", "root.raw"))
    missing = sum((bench.sources / name).stat().st_blocks * 512 for name in ("initrd", "root", "data"))
    assert bytes_needed(bench.domain(), bench.allow, found) == MARGIN + missing - found["root.raw.part"].st_blocks * 512


def test_where_everything_is_whole_no_room_is_needed(bench: Bench) -> None:
    bench.create()
    (bench.directory / "root.raw.part").hardlink_to(bench.directory / "root.raw")
    assert bytes_needed(bench.domain(), bench.allow, own_files(bench.instances, UID, bench.created)) == 0
