from pathlib import Path

import pytest

from lab.record import FILE, Entry, Identity, Link, MountPoint, Netns, Owner, Record, Started, dump, parse
from lab.steps import LabError

ENTRIES: list[Entry] = [
    Owner(Identity(10, "100@boot"), slot=3),
    Link("kf-3"),
    Netns("kubeferry-lab-3-worker-1"),
    MountPoint("/var/lib/kubeferry"),
    Started("etcd", Identity(11, "101@boot")),
]


def test_a_record_gives_back_what_was_added_in_order(tmp_path: Path) -> None:
    record = Record(tmp_path)
    for entry in ENTRIES:
        record.add(entry)
    assert Record(tmp_path).entries() == ENTRIES
    assert Record(tmp_path).owner() == ENTRIES[0]


def test_a_lab_that_died_before_its_first_entry_has_no_owner(tmp_path: Path) -> None:
    assert Record(tmp_path).entries() == []
    assert Record(tmp_path).owner() is None


@pytest.mark.parametrize("kept", [1, 20, len(dump(ENTRIES[1])) - 1])
def test_a_line_torn_by_a_crash_is_left_out_since_its_thing_was_never_made(tmp_path: Path, kept: int) -> None:
    (tmp_path / FILE).write_bytes(dump(ENTRIES[0]) + dump(ENTRIES[1])[:kept])
    assert Record(tmp_path).entries() == [ENTRIES[0]]


@pytest.mark.parametrize(
    "line", [b"not json\n", b'{"kind": "Elephant"}\n', b'{"name": "kf-3"}\n', b'{"kind": "Link", "size": 1}\n', b"[]\n"]
)
def test_a_whole_line_that_is_none_of_ours_is_an_error_and_not_skipped(line: bytes) -> None:
    with pytest.raises(LabError, match="not a line of a lab's record"):
        list(parse(dump(ENTRIES[0]) + line))
