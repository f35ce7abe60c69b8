"""Tables of text: a CSV is read as far as possible, so that one look names everything wrong in it.

A reader of one kind of table calls :func:`read_table`, notes what breaks its own rules, and ends
with :meth:`Table.refuse`.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_vfx.core.cells import Column, Value, check_cell
from monai_vfx.core.errors import CaseRefused, reason

MAX_LISTED_FAULTS = 50
"""A message names at most this many bad cells and counts the rest."""
HIDDEN = "(not shown)"
"""Stands for a value that may identify a patient."""
_OTHER_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'"}
_OTHER_NAMES = {
    **{"case": "case_id", "patient": "patient_id", "pair": "pair_id"},
    **{"height": "height_cm", "weight": "weight_kg", "gender": "sex"},
}
_NOT_UTF8 = "the table is not in UTF-8: save as UTF-8"


@dataclass(frozen=True)
class Fault:
    """Something wrong with a table.

    Args:
        row: as a spreadsheet counts; the header is row 1.
        column: its name; empty where the row or the table as a whole is meant.
        value: what the cell holds.
        rule: what it breaks.
    """

    row: int
    column: str
    value: str
    rule: str

    def __str__(self) -> str:
        place = f"row {self.row}, {self.column}" if self.column else f"row {self.row}"
        # A value with line breaks or thousands of letters must not flood a message.
        shown = self.value if len(self.value) <= 60 else self.value[:57] + "..."
        if self.value == HIDDEN:
            return f"{place}: {HIDDEN}, {self.rule}"
        return f"{place}: {shown!r}, {self.rule}" if self.value else f"{place}: {self.rule}"


class FaultyTable(CaseRefused):
    """A table is refused (``cohort_invalid``); the message names the first faults, counts the rest.

    Args:
        faults: all of them, at least one.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        more = len(faults) - MAX_LISTED_FAULTS
        listed = "; ".join(str(fault) for fault in faults[:MAX_LISTED_FAULTS])
        super().__init__("cohort_invalid", listed + (f" and {more} more" if more > 0 else ""))

    def __reduce__(self) -> tuple[type[FaultyTable], tuple[tuple[Fault, ...]]]:  # type: ignore[override]
        """Survive the way back from a worker process."""
        return type(self), (self.faults,)


def refuse_faults(faults: Sequence[Fault]) -> None:
    """Refuse a table that has faults.

    Raises:
        FaultyTable: when there is a fault.
    """
    if faults:
        raise FaultyTable(faults)


@dataclass
class Table:
    """The cells of a CSV, and what is wrong with it.

    Args:
        header: names of the columns, each once.
        numbers: (n,) row numbers as a spreadsheet counts; blank rows are left out.
        cells: (n) lists of cells as they are in the file, as many as ``header``.
        faults: of the file, the header and the rows' lengths; a reader adds those of its own rules.
    """

    header: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield each row's number and its cells by column, without blanks around them."""
        for number, cells in zip(self.numbers, self.cells, strict=True):
            yield number, {n: c.strip() for n, c in zip(self.header, cells, strict=True)}

    def note(self, row: int, column: str, value: str, rule: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(row, column, value, rule))

    def check_header(self, known: Iterable[str], required: Iterable[str]) -> None:
        """Note columns that are missing and columns that look misspelt.

        Args:
            known: names that mean something here.
            required: those of them that the table must have.
        """
        if not self.header:  # noted already
            return
        names = [*dict.fromkeys((*known, *required))]
        absent = [name for name in names if name not in self.header]
        likely = {_nearest(name, absent): name for name in self.header if name not in names}
        wanted = [name for name in dict.fromkeys(required) if name in absent]
        for name in wanted:
            hint = f": is it {likely[name]!r}?" if name in likely else ""
            self.note(1, name, "", f"the column is missing{hint}")
        for meant, name in likely.items():
            if meant and meant not in wanted:
                self.note(1, name, "", f"is not a known column: is {meant} meant? rename it")

    def check(self, columns: Mapping[str, Column]) -> dict[str, list[Value]]:
        """Check the cells of known columns and note what is wrong.

        Args:
            columns: by name; those that the table lacks are passed over.

        Returns:
            Column of the table → what its cells mean, None where empty or wrong.
        """
        values = {}
        for place, name in enumerate(self.header):
            if name not in columns:
                continue
            cells = [row[place] for row in self.cells]
            known = {cell: check_cell(columns[name], cell) for cell in dict.fromkeys(cells)}
            values[name] = [known[cell][0] for cell in cells]
            if any(rules for _, rules in known.values()):
                for number, cell in zip(self.numbers, cells, strict=True):
                    for rule in known[cell][1]:
                        self.note(number, name, HIDDEN if name == "patient_id" else cell, rule)
        return values

    def sort_faults(self) -> None:
        """Order the faults by row, then by column of the table."""
        place = {name: n for n, name in enumerate(self.header)}
        self.faults.sort(key=lambda fault: (fault.row, place.get(fault.column, -1)))

    def refuse(self) -> None:
        """Refuse the table if it has faults.

        Raises:
            FaultyTable: names them in order.
        """
        self.sort_faults()
        refuse_faults(self.faults)


def read_table(path: str | Path) -> Table:
    """Read a CSV as far as it can be read; what is wrong with it is in ``faults``.

    A wrong encoding or delimiter is noted and the rest is read, so that bad cells are named too.
    """
    table = Table()
    text = _text(Path(path), table)
    if not text.strip():
        if not table.faults:
            table.note(1, "", "", "the table is empty")
        return table
    records: list[list[str]] = []
    try:
        lines = io.StringIO(text, newline="")
        # Strict: a quote that is never closed must not swallow the rows after it.
        for record in csv.reader(lines, delimiter=_delimiter(text, table), strict=True):
            records.append(record)
    except csv.Error as error:
        table.note(len(records) + 1, "", "", f"the table is not a CSV ({error})")
        return table
    keep = _read_header(records[0], table)
    width = len(records[0])
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) < width or any(cell.strip() for cell in record[width:]):
            table.note(number, "", "", f"{len(record)} cells, the header has {width}")
            continue
        table.numbers.append(number)
        table.cells.append([record[n] for n in keep])
    if len(records) == 1 or not (table.cells or table.faults):
        table.note(1, "", "", "the table has no rows")
    return table


def _nearest(name: str, absent: Sequence[str]) -> str | None:
    """Return the known column that a name is likely meant to be.

    >>> _nearest("Age", ["age"]), _nearest("wieght_kg", ["weight_kg"]), _nearest("site", ["sex"])
    ('age', 'weight_kg', None)
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    plain = _OTHER_NAMES.get(plain, plain)
    if plain in absent:
        return plain
    if plain[-1:].isdigit():  # image2 or age_65 is a column of its own
        return None
    return next(iter(difflib.get_close_matches(plain, absent, n=1, cutoff=0.85)), None)


def path_exists(path: Path) -> bool:
    """Return whether a path exists; one too long or in a closed folder does not."""
    try:
        return path.exists()
    except OSError:
        return False


def _text(path: Path, table: Table) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:  # its own text would repeat the path, which may name a patient
        table.note(1, "", "", f"the table cannot be read ({reason(error)})")
        return ""
    if b"\0" in content:  # UTF-16, with or without its mark; or no text at all
        table.note(1, "", "", _NOT_UTF8)
        return ""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        table.note(content[: error.start].count(b"\n") + 1, "", "", _NOT_UTF8)
        return content.decode("utf-8-sig", errors="replace")


def _delimiter(text: str, table: Table) -> str:
    """Return the character that separates the header's cells; anything but a comma is a fault."""
    first = text.lstrip("\r\n").split("\n", 1)[0]
    sign = max(_OTHER_DELIMITERS, key=first.count)
    if first.count(sign) <= first.count(","):
        return ","
    table.note(1, "", "", f"the table is separated by {_OTHER_DELIMITERS[sign]}, not by commas")
    return sign


def _read_header(record: list[str], table: Table) -> list[int]:
    """Note odd names; return the places of the columns to keep."""
    names = ["".join(c for c in cell if c.isprintable()).strip() for cell in record]
    for place, (name, cell) in enumerate(zip(names, record, strict=True), start=1):
        if not cell.isprintable():
            rule = "the column's name holds a character that cannot be printed: remove it"
            table.note(1, name, "", rule)
        if not name and len(record) > 1:
            table.note(1, "", "", f"column {place} has no name")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        table.note(1, "", "", f"columns occur twice: {', '.join(twice)}")
    keep = [n for n, name in enumerate(names) if name and names.index(name) == n]
    table.header = [names[n] for n in keep]
    return keep
