"""The page of a check of many CTs: what is refused and why, and the distribution of their facts.

A short script in the page sorts and filters the table of cases; the table is complete without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_vfx.core.arrays import Json
from monai_vfx.core.codes import REFUSALS, WARNINGS, Code
from monai_vfx.core.files import write_text
from monai_vfx.core.schemas import schema
from monai_vfx.outputs.report.page import (
    RESEARCH_ONLY,
    Block,
    Part,
    Prose,
    Section,
    Table,
    render,
)

Row = Mapping[str, Any]

SHOWN: tuple[str, ...] = (
    *("case_id", "status", "code", "warnings", "age_years", "sex", "contrast_phase"),
    *("slice_distance_mm", "kernel", "kvp", "model", "noise_sd_hu", "l1_trabecular_hu"),
    *("fracture_status", "lowest_ratio", "dense_kind", "levels", "mask_source", "mask_confidence"),
)
"""Columns of the page's table; ``check.csv`` holds them all."""
NOT_KNOWN = "not known"
_STEPS = {"age_years": 10.0, "slice_distance_mm": 1.0, "noise_sd_hu": 5.0, "l1_trabecular_hu": 50.0}
_COUNTED: tuple[str, ...] = (
    *("contrast_phase", "kernel_class", "kvp", "manufacturer", "sex", "fracture_status"),
    "dense_kind",
)
_MAX_BARS = 12


def write_check_page(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write ``check.html``.

    Args:
        path: of the file.
        rows: of ``check.csv``, as plain values (``data_schemas/check_table.schema.json``).
    """
    refused = [row for row in rows if row["status"] == "refused"]
    opened = [row for row in rows if row["slice_distance_mm"] is not None]
    refusals = Counter(row["code"] for row in refused)
    warnings = Counter(code for row in rows for code in row["warnings"])
    known = (
        f"{len(opened)} of {len(rows)} CTs could be opened. Values that a header does not state, "
        "or that could not be measured, are shown as not known and are never filled in."
    )
    cases = {
        "codes": [*refusals, *warnings],
        "columns": [_heading(name) for name in SHOWN],
        "rows": [[_shown(name, row[name]) for name in SHOWN] for row in rows],
        "states": [row["status"] for row in rows],
    }
    files = "check.csv holds all facts of every case, check.jsonl the full reports with messages."
    sections = (
        Section("refused", "Refused", (_by_code(refusals, REFUSALS, "What to do"),)),
        Section("warnings", "Warnings", (_by_code(warnings, WARNINGS, "Meaning"),)),
        Section(
            "facts",
            "Patients and CTs",
            (
                Prose((known,)),
                Part(
                    "distributions.html.j2",
                    {"facts": [_distribution(name, opened) for name in (*_STEPS, *_COUNTED)]},
                ),
            ),
        ),
        Section("cases", "Cases", (Part("case_list.html.j2", cases), Prose((files,)))),
    )
    text = render(
        f"{len(rows)} CT{'s' * (len(rows) != 1)} checked: {len(rows) - len(refused)} accepted, "
        f"{len(refused)} refused",
        (RESEARCH_ONLY,),
        sections,
        kind="Check",
        subtitle="Which CTs are accepted, which are refused and why, and what they are. The page "
        "shows no patient's name and no free text from a header.",
        footer="Codes: docs/inputs.md; facts: docs/checking.md.",
        script=True,
    )
    write_text(Path(path), text)
    return Path(path)


def _by_code(codes: Counter[str], table: Mapping[str, Code], heading: str) -> Block:
    """Return a table of the codes with count and remedy, the most frequent first."""
    rows = [
        {"Code": code, "CTs": str(n), heading: table[code].remedy}
        for code, n in codes.most_common()
    ]
    if not rows:
        return Prose(("None.",))
    return Table(f"codes-{heading.split()[0].lower()}", "By code", pd.DataFrame(rows))


def _column(name: str) -> Json:
    found: Json = schema("check_table")["properties"][name]
    return found


def _heading(name: str) -> Json:
    column = _column(name)
    unit = column.get("x-unit")
    numeric = "number" in column.get("type", ())
    return {"name": name, "title": column["title"], "unit": unit, "numeric": numeric}


def _distribution(name: str, rows: Sequence[Row]) -> Json:
    """Return the bars of one fact: label, count and share of the largest."""
    values = [row[name] for row in rows]
    known = [value for value in values if value is not None]
    step = _STEPS.get(name)
    bars = _counted(known) if step is None else _binned(known, step)
    if len(values) > len(known):
        bars.append((NOT_KNOWN, len(values) - len(known)))
    largest = max((n for _, n in bars), default=1)
    column = _column(name)
    unit = f", {column['x-unit']}" if "x-unit" in column else ""
    return {
        "title": column["title"] + unit,
        "bars": [
            {"label": label, "n": n, "width": 100 * n / largest, "absent": label == NOT_KNOWN}
            for label, n in bars
        ],
    }


def _counted(values: Sequence[Any]) -> list[tuple[str, int]]:
    """Return the most frequent values; numbers in their order, the rest summed up.

    >>> _counted([120.0, 100.0, 120.0]), _counted(["F", "M", "F"])
    ([('100', 1), ('120', 2)], [('F', 2), ('M', 1)])
    """
    counts = Counter(values).most_common()
    kept, rest = counts[:_MAX_BARS], sum(n for _, n in counts[_MAX_BARS:])
    if kept and not isinstance(kept[0][0], str):
        kept = sorted(kept)
    spoken: Callable[[Any], str] = lambda v: v.replace("_", " ") if isinstance(v, str) else f"{v:g}"  # noqa: E731 - one line
    bars = [(spoken(value), n) for value, n in kept]
    return [*bars, ("others", rest)] if rest else bars


def _binned(values: Sequence[float], step: float) -> list[tuple[str, int]]:
    """Count numbers in equal bins from the lowest to the highest, wider ones where there are many.

    >>> _binned([3.0, 5.0, 5.2], 1.0)
    [('3 to 4', 1), ('4 to 5', 0), ('5 to 6', 2)]
    """
    if not values:
        return []
    while (max(values) // step - min(values) // step) >= _MAX_BARS:
        step *= 2
    bins = Counter(int(value // step) for value in values)
    return [
        (f"{n * step:g} to {(n + 1) * step:g}", bins[n]) for n in range(min(bins), max(bins) + 1)
    ]


def _shown(name: str, value: Any) -> Json:
    """Return a cell's text, and what it is sorted by."""
    if value is None or value == []:
        return {"text": "", "key": ""}
    if isinstance(value, list):
        spread = f"{value[0]}–{value[-1]}" if name == "levels" else "; ".join(value)
        return {"text": spread, "key": spread}
    if isinstance(value, float):
        return {"text": f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}", "key": value}
    return {
        "text": str(value).replace("_", " ") if name not in ("case_id", "code") else value,
        "key": value,
    }
