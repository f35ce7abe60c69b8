"""The pre-flight of many studies as one HTML file: what is refused and why, and who they are.

The file needs nothing else; its own few lines of script sort and filter the table, and without
them the table is there all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from monai_vfx.core.arrays import Json
from monai_vfx.core.codes import REFUSALS, WARNINGS, Code
from monai_vfx.core.schemas import schema

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
_MOST_BARS = 12


def write_check_page(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write ``check.html``.

    Args:
        path: of the file.
        rows: of ``check.csv``, as plain values (``data_schemas/check_table.schema.json``).
    """
    refused = [row for row in rows if row["status"] == "refused"]
    opened = [row for row in rows if row["slice_distance_mm"] is not None]
    text = _template().render(
        total=len(rows),
        accepted=len(rows) - len(refused),
        refused=len(refused),
        refusals=_by_code([row["code"] for row in refused], REFUSALS),
        warnings=_by_code([code for row in rows for code in row["warnings"]], WARNINGS),
        facts=[_distribution(name, opened) for name in (*_STEPS, *_COUNTED)],
        opened=len(opened),
        columns=[_heading(name) for name in SHOWN],
        rows=[[_shown(name, row[name]) for name in SHOWN] for row in rows],
        states=[row["status"] for row in rows],
        style=_resource("study.css"),
    )
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def _resource(name: str) -> str:
    return resources.files("monai_vfx.outputs.report").joinpath(name).read_text(encoding="utf-8")


def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_resource("check.html.j2"))


def _by_code(codes: Sequence[str], table: Mapping[str, Code]) -> list[Json]:
    """Return each code with its count and meaning, the most frequent first."""
    return [
        {"code": code, "n": n, "meaning": table[code].remedy}
        for code, n in Counter(codes).most_common()
    ]


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
    kept, rest = counts[:_MOST_BARS], sum(n for _, n in counts[_MOST_BARS:])
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
    while (max(values) // step - min(values) // step) >= _MOST_BARS:
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
