"""A report as one row of ``check.csv`` (``data_schemas/check_table.schema.json``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.files import write_csv
from monai_vfx.core.schemas import schema

COLUMNS: tuple[str, ...] = tuple(schema("check_table")["properties"])
"""Columns of the table, in order."""
FACTS: tuple[str, ...] = tuple(schema("case_facts")["properties"])
"""Those of them that are facts of the case."""


def row_of(record: Json) -> dict[str, Any]:
    """Return one study's row.

    Args:
        record: a line of ``check.jsonl``: ``report`` and ``inputs``.

    Returns:
        Column → plain value; lists stay lists, None is an empty cell.
    """
    report = record["report"]
    refusal, mask = report["refusal"] or {}, report["mask"] or {}
    facts = report["facts"] or {}
    row = {
        "case_id": report["case_id"],
        "status": report["status"],
        **{name: refusal.get(name) for name in ("code", "message", "remedy")},
        "warnings": list(dict.fromkeys(w["code"] for w in report["warnings"])),
        **{name: report[name] for name in ("format", "slices", "levels", "cut_levels")},
        **{name: report[name] for name in ("label_scheme", "body_source")},
        "mask_source": mask.get("source"),
        "mask_confidence": mask.get("confidence"),
        **{name: facts.get(name) for name in FACTS},
        **record["inputs"],
    }
    return {name: row[name] for name in COLUMNS}


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``check.csv``, whole or not at all."""
    write_csv(path, COLUMNS, [{k: cell(v) for k, v in row.items()} for row in rows])


def cell(value: Any) -> str:
    """Return a value as a cell holds it.

    >>> cell(["a", "b"]), cell(None), cell(True), cell(1.5)
    ('a;b', '', '1', '1.5')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)
