"""What the pages of a study's report are made of: tables, figures, paragraphs, sections."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

GROUP_SIGN = ": "
"""Columns named ``Group: name`` stand under one heading ``Group``."""
LONG = 30
"""Characters; a column of words with longer cells keeps some width when it wraps."""
_WORD = "[A-Za-z]{3}"


@dataclass(frozen=True)
class Table:
    """A table, the same on the page and as CSV.

    Args:
        key: its file name without ending, and its anchor on the page.
        title: caption, such as ``Table 1. Participants``.
        frame: (rows, columns) of strings, exactly as shown.
        source: files, and keys in them, that the numbers come from.
        notes: what a reader must know, below the table.
        group: a column whose values become headings within the table.
    """

    key: str
    title: str
    frame: pd.DataFrame
    source: str
    notes: tuple[str, ...] = ()
    group: str | None = None
    kind = "table"

    @cached_property
    def columns(self) -> list[str]:
        """The columns that are shown as such."""
        return [str(name) for name in self.frame.columns if name != self.group]

    def headings(self) -> list[tuple[str, int, list[str]]]:
        """Return (group, width, names): one heading over ``width`` columns, or none (empty)."""
        found: list[tuple[str, int, list[str]]] = []
        for column in self.columns:
            group, sign, name = column.partition(GROUP_SIGN)
            if not sign:
                found.append(("", 1, [column]))
            elif found and found[-1][0] == group:
                _, width, names = found.pop()
                found.append((group, width + 1, [*names, name]))
            else:
                found.append((group, 1, [name]))
        return found

    def rows(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield (heading that begins here or empty, cells as (text, class of its column))."""
        before = None
        for row in self.frame.to_dict("records"):
            heading = "" if self.group is None or row[self.group] == before else row[self.group]
            before = row[self.group] if self.group is not None else None
            yield str(heading), [(str(row[name]), self.classes[name]) for name in self.columns]

    @cached_property
    def classes(self) -> dict[str, str]:
        """Column → ``text`` if it holds words (flush left), ``text long`` if many, else empty."""
        found = {}
        for name in self.columns:
            cells = self.frame[name]
            words = name == self.columns[0] or cells.str.contains(_WORD).any()
            long = (cells.str.len() > LONG).any()
            found[name] = "text long" if words and long else "text" if words else ""
        return found

    def to_csv(self) -> bytes:
        """Return the table as CSV, UTF-8."""
        return self.frame.to_csv(index=False, lineterminator="\n").encode("utf-8")


@dataclass(frozen=True)
class Picture:
    """A figure, the same on the page and as files.

    Args:
        key: its file name without ending, and its anchor.
        title: caption, such as ``Figure 1. Participant flow``.
        alt: what it shows, for those who do not see it.
        source: files that it was drawn from.
        svg: its drawing, None for photographs.
        png: its pixels.
        notes: below the figure.
        wide: takes the full width of the page.
    """

    key: str
    title: str
    alt: str
    source: str
    svg: bytes | None
    png: bytes | None
    notes: tuple[str, ...] = ()
    wide: bool = False
    kind = "picture"

    @property
    def uri(self) -> str:
        """What an ``img`` holds: the drawing if there is one, else the pixels."""
        content, kind = (self.svg, "svg+xml") if self.svg else (self.png or b"", "png")
        return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")

    def write(self, folder: Path) -> None:
        """Write the files that there are."""
        for content, ending in ((self.svg, ".svg"), (self.png, ".png")):
            if content:
                (folder / (self.key + ending)).write_bytes(content)


@dataclass(frozen=True)
class Prose:
    """Paragraphs.

    Args:
        paragraphs: plain text each.
        title: a small heading, or empty.
        listed: show them as a list.
    """

    paragraphs: tuple[str, ...]
    title: str = ""
    listed: bool = False
    kind = "prose"


@dataclass(frozen=True)
class Facts:
    """Names with values, such as a model card.

    Args:
        pairs: (name, text).
        title: a small heading, or empty.
        source: file they come from, or empty.
    """

    pairs: tuple[tuple[str, str], ...]
    title: str = ""
    source: str = ""
    kind = "facts"


@dataclass(frozen=True)
class Verbatim:
    """A text as it is, such as a file of settings."""

    title: str
    text: str
    kind = "verbatim"


Block = Table | Picture | Prose | Facts | Verbatim


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        key: anchor on the page; other parts refer to it.
        title: heading.
        blocks: in order; a section without any is not shown.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
