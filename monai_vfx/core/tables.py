"""A CSV as its cells: read forgivingly, so that one look names all that is wrong with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_vfx.core.errors import CaseRefused, reason

LISTED_FAULTS = 50
"""At most this many bad cells are named in one message; the rest are counted."""
HIDDEN = "(not shown)"
"""Stands for a value that may identify a patient."""
_OTHER_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'"}
_NOT_UTF8 = "the table is not in UTF-8: save as UTF-8"


@dataclass(frozen=True)
class Fault:
    """Something wrong with a table.

    Args:
        row: counted as a spreadsheet does; the header is row 1.
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


@dataclass
class Sheet:
    """The cells of a CSV.

    Args:
        header: names of the columns, each once.
        numbers: (n,) row numbers as a spreadsheet counts; blank rows are left out.
        cells: (n) lists of cells as they are, as many as ``header``.
        faults: of the file, the header and the rows' lengths.
    """

    header: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read_sheet(path: Path) -> Sheet:
    """Read a CSV as far as it can be read; what is wrong with it stands in ``faults``.

    A wrong encoding or delimiter is noted and reading goes on, so that bad cells are named too.
    """
    sheet = Sheet()
    text = _text(path, sheet.faults)
    if not text.strip():
        if not sheet.faults:
            sheet.faults.append(Fault(1, "", "", "the table is empty"))
        return sheet
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, sheet)))
    except csv.Error as error:
        sheet.faults.append(Fault(1, "", "", f"the table is no CSV ({error})"))
        return sheet
    keep = _header(records[0], sheet)
    width = len(records[0])
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) < width or any(cell.strip() for cell in record[width:]):
            rule = f"{len(record)} cells, the header has {width}"
            sheet.faults.append(Fault(number, "", "", rule))
            continue
        sheet.numbers.append(number)
        sheet.cells.append([record[n] for n in keep])
    if len(records) == 1 or not (sheet.cells or sheet.faults):
        sheet.faults.append(Fault(1, "", "", "the table has no rows"))
    return sheet


def write_sheet(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write cells as a CSV, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(path)


class FaultyTable(CaseRefused):
    """A table is refused (``cohort_invalid``); the message names the first faults, counts the rest.

    Args:
        faults: all of them, at least one.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        more = f" and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        listed = "; ".join(str(fault) for fault in faults[:LISTED_FAULTS])
        super().__init__("cohort_invalid", listed + more)

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


def path_exists(path: Path) -> bool:
    """Return whether a path exists; one too long or in a closed folder does not."""
    try:
        return path.exists()
    except OSError:
        return False


def _text(path: Path, faults: list[Fault]) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        faults.append(Fault(1, "", "", f"the table cannot be read ({reason(error)})"))
        return ""
    if b"\0" in content:  # UTF-16, with or without its mark; or no text at all
        faults.append(Fault(1, "", "", _NOT_UTF8))
        return ""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        faults.append(Fault(row, "", "", _NOT_UTF8))
        return content.decode("utf-8-sig", errors="replace")


def _delimiter(text: str, sheet: Sheet) -> str:
    """Return the sign that separates the header's cells; anything but a comma is a fault."""
    first = text.lstrip("\r\n").split("\n", 1)[0]
    sign = max(_OTHER_DELIMITERS, key=first.count)
    if first.count(sign) <= first.count(","):
        return ","
    rule = f"the table is separated by {_OTHER_DELIMITERS[sign]}, the rule is a comma"
    sheet.faults.append(Fault(1, "", "", rule))
    return sign


def _header(record: list[str], sheet: Sheet) -> list[int]:
    """Note odd names; return the places of the columns to keep."""
    names = ["".join(c for c in cell if c.isprintable()).strip() for cell in record]
    for place, (name, cell) in enumerate(zip(names, record, strict=True), start=1):
        if not cell.isprintable():
            rule = "the column's name holds a character that cannot be printed: remove it"
            sheet.faults.append(Fault(1, name, "", rule))
        if not name and len(record) > 1:
            sheet.faults.append(Fault(1, "", "", f"column {place} has no name"))
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        sheet.faults.append(Fault(1, "", "", f"columns are there twice: {', '.join(twice)}"))
    keep = [n for n, name in enumerate(names) if name and names.index(name) == n]
    sheet.header = [names[n] for n in keep]
    return keep
