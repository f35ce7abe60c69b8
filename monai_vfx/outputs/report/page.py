"""One HTML page that needs no other file, rendered from blocks: tables, figures, facts, prose.

The pages of a case, of a check and of a study all come from :func:`render`, with one template and
one style sheet. A page requests nothing; its content security policy forbids it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

GROUP_SIGN = ": "
"""Columns named ``Group: name`` share the heading ``Group``."""
MIN_LONG_CELL = 30
"""Characters; a text column with a longer cell keeps a minimum width when it wraps."""
_WORD = "[A-Za-z]{3}"


@dataclass(frozen=True)
class Table:
    """A table, identical on the page and in its CSV file.

    Attributes:
        key: file name without ending, and anchor on the page.
        title: caption, such as ``Table 1. Participants``.
        frame: (rows, columns) of strings, exactly as shown.
        source: files, and keys in them, that the numbers come from; empty: not stated.
        notes: paragraphs below the table.
        group: a column whose values become subheadings within the table.
    """

    key: str
    title: str
    frame: pd.DataFrame
    source: str = ""
    notes: tuple[str, ...] = ()
    group: str | None = None
    kind = "table"

    @property
    def file(self) -> str:
        """Path of the CSV beside the page."""
        return f"tables/{self.key}.csv"

    @cached_property
    def columns(self) -> list[str]:
        """The columns that are shown as columns."""
        return [str(name) for name in self.frame.columns if name != self.group]

    def headings(self) -> list[tuple[str, int, list[str]]]:
        """Return (group or empty, width in columns, names) from left to right."""
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
        """Yield (subheading above the row or empty, cells as (text, CSS class))."""
        before = None
        for row in self.frame.to_dict("records"):
            heading = "" if self.group is None or row[self.group] == before else row[self.group]
            before = row[self.group] if self.group is not None else None
            yield str(heading), [(str(row[name]), self.classes[name]) for name in self.columns]

    @cached_property
    def classes(self) -> dict[str, str]:
        """Column → CSS class: ``text`` (flush left), ``text long``, or empty for numbers."""
        found = {}
        for name in self.columns:
            cells = self.frame[name]
            words = name == self.columns[0] or cells.str.contains(_WORD).any()
            long = (cells.str.len() > MIN_LONG_CELL).any()
            found[name] = "text long" if words and long else "text" if words else ""
        return found

    def write(self, folder: Path) -> None:
        """Write ``tables/<key>.csv``."""
        target = folder / self.file
        target.parent.mkdir(parents=True, exist_ok=True)
        self.frame.to_csv(target, index=False, lineterminator="\n", encoding="utf-8")


@dataclass(frozen=True)
class Figure:
    """A figure, identical on the page and in its files.

    Attributes:
        key: file name without ending, and anchor on the page.
        title: caption, such as ``Figure 1. Participant flow``.
        alt: text alternative.
        source: files that it was drawn from; empty: not stated.
        svg: the drawing; None for photographs.
        png: the pixels.
        notes: paragraphs below the figure.
        wide: whether it takes the full width of the page.
    """

    key: str
    title: str
    alt: str
    source: str = ""
    svg: bytes | None = None
    png: bytes | None = None
    notes: tuple[str, ...] = ()
    wide: bool = False
    kind = "figure"

    @property
    def files(self) -> dict[str, bytes]:
        """Path beside the page → content."""
        found = {".svg": self.svg, ".png": self.png}
        return {f"figures/{self.key}{end}": data for end, data in found.items() if data}

    @property
    def file(self) -> str:
        """Paths of the files, in words."""
        return f"figures/{self.key}" + ", ".join(Path(name).suffix for name in self.files)

    @property
    def uri(self) -> str:
        """The drawing if there is one, else the pixels, as a data URI."""
        return data_uri(self.svg, "svg+xml") if self.svg else data_uri(self.png or b"")

    def write(self, folder: Path) -> None:
        """Write ``figures/<key>.svg`` and ``.png``, as far as they exist."""
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


@dataclass(frozen=True)
class Prose:
    """Paragraphs of plain text, or a list of them, under an optional heading."""

    paragraphs: tuple[str, ...]
    title: str = ""
    listed: bool = False
    kind = "prose"


@dataclass(frozen=True)
class Facts:
    """Pairs of (name, text), such as a model card, under an optional heading."""

    pairs: tuple[tuple[str, str], ...]
    title: str = ""
    source: str = ""
    kind = "facts"


@dataclass(frozen=True)
class Verbatim:
    """Preformatted text that is folded away, such as settings."""

    title: str
    text: str
    kind = "verbatim"


@dataclass(frozen=True)
class Part:
    """A piece that only one page has, with a template of its own that reads ``part``."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    kind = "part"


Block = Table | Figure | Prose | Facts | Verbatim | Part


@dataclass(frozen=True)
class Section:
    """A heading with its blocks; ``key`` is its anchor on the page."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Banner:
    """A notice above the sections; ``tone`` is ``plain``, ``warn`` or ``stop``."""

    lead: str
    text: str = ""
    items: tuple[str, ...] = ()
    tone: str = "plain"


RESEARCH_ONLY = Banner(
    "Research software, not a medical device.",
    "Do not use it to diagnose, to treat, or to make decisions about a patient.",
)


def render(
    title: str,
    banners: Sequence[Banner],
    sections: Sequence[Section],
    *,
    kind: str,
    subtitle: str = "",
    footer: str = "",
    contents: bool = False,
    script: bool = False,
) -> str:
    """Return a page as HTML.

    Args:
        title: of the page, and its first heading.
        banners: notices, in order.
        sections: in order; those without a block are left out.
        kind: what kind of page it is, in small letters above the title.
        subtitle: below the title.
        footer: further sentences at the end.
        contents: whether the page has a table of contents.
        script: whether a part of the page brings a script of its own.
    """
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title,
        banners=banners,
        sections=[section for section in sections if section.blocks],
        kind=kind,
        subtitle=subtitle,
        footer=footer,
        contents=contents,
        script=script,
    )


def text_environment(package: str, folder: str = "templates") -> Environment:
    """Return an environment for the templates of a package; a missing value is an error."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _environment() -> Environment:
    return text_environment("monai_vfx.outputs.report")


def data_uri(content: bytes, kind: str = "png") -> str:
    """Return an image as the ``src`` of an ``img``."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
