"""A row of `kubectl get` as it changes: printed below one header, in columns that keep their places."""

import re
from collections.abc import Mapping


class Table:
    """The table of one object.

    Args:
        widths: of columns, by their heads, that will hold longer values than they do at first, in characters.

    Attributes:
        cells: the row as seen last, by the heads of the columns.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._widths = widths
        self._shown: dict[str, str] | None = None
        self.cells: dict[str, str] = {}

    def changes(self, printed: str) -> list[str]:
        """The lines to show after kubectl printed this: none if nothing but the age has changed; with the header at first."""
        head, row = printed.splitlines()
        # A value is where its head is, and may be empty.
        spans = [(found.group().strip(), found.start(), found.end()) for found in re.finditer(r"\S+\s*", head)]
        self.cells = {name: row[start : None if end == len(head) else end].strip() for name, start, end in spans}
        seen = {name: value for name, value in self.cells.items() if name != "AGE"}
        if seen == self._shown:
            return []
        header = [] if self._shown else [self._line({name: name for name in self.cells}, spans)]
        self._shown = seen
        return [*header, self._line(self.cells, spans)]

    def _line(self, values: Mapping[str, str], spans: list[tuple[str, int, int]]) -> str:
        widths = {name: max(self._widths.get(name, 0) + 3, end - start) for name, start, end in spans}
        return "".join(value.ljust(widths[name]) for name, value in values.items()).rstrip()
