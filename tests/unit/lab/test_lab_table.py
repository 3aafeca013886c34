from lab.table import Table

FIRST = """\
NAME         VM      PHASE     SOURCE   TARGET   COPIED   AGE
web-0-move   web-0                                        0s
"""
PREPARING = """\
NAME         VM      PHASE       SOURCE     TARGET     COPIED   AGE
web-0-move   web-0   Preparing   worker-1   worker-2            1s
"""
LATER = PREPARING.replace("1s", "2s")
AWAITING = """\
NAME         VM      PHASE              SOURCE     TARGET     COPIED     AGE
web-0-move   web-0   AwaitingDecision   worker-1   worker-2   12345678   9s
"""
WIDTHS = {"PHASE": 16, "SOURCE": 8, "TARGET": 8, "COPIED": 9}


def test_a_row_is_shown_under_one_header_whenever_it_changes_in_columns_that_keep_their_places() -> None:
    table = Table(WIDTHS)
    shown = [line for printed in (FIRST, PREPARING, AWAITING) for line in table.changes(printed)]
    assert shown == [
        "NAME         VM      PHASE              SOURCE     TARGET     COPIED      AGE",
        "web-0-move   web-0                                                        0s",
        "web-0-move   web-0   Preparing          worker-1   worker-2               1s",
        "web-0-move   web-0   AwaitingDecision   worker-1   worker-2   12345678    9s",
    ]


def test_age_alone_is_no_change() -> None:
    table = Table(WIDTHS)
    assert len(table.changes(PREPARING)) == 2
    assert table.changes(LATER) == []


def test_a_cell_is_known_by_its_head_also_if_cells_before_it_are_empty() -> None:
    table = Table(WIDTHS)
    table.changes(FIRST)
    assert table.cells == {"NAME": "web-0-move", "VM": "web-0", "PHASE": "", "SOURCE": "", "TARGET": "", "COPIED": "", "AGE": "0s"}
    table.changes(PREPARING)
    assert (table.cells["TARGET"], table.cells["COPIED"], table.cells["AGE"]) == ("worker-2", "", "1s")
