"""The table that ``vfx check`` writes, used as a gate: which rows of a cohort it accepts.

``check.csv`` holds for each case whether it was accepted, and its warnings. It counts only while
image and mask are the ones that were checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_vfx.core.arrays import Json
from monai_vfx.core.codes import REFUSALS, WARNINGS
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_csv
from monai_vfx.core.hashing import content_hash, file_state, sha256_of
from monai_vfx.core.tables import read_table

GATED_TABLE = "cohort.csv"
"""Name of a table without the rows that the gate left out."""
_NEEDED = (
    *("case_id", "status", "code", "message", "remedy", "warnings"),
    *("image_state", "image_sha256", "mask_state", "mask_sha256"),
)
_MAX_LISTED = 10


@dataclass(frozen=True)
class Gate:
    """The rows of a ``check.csv`` by case, and codes of warnings that leave a case out as well."""

    rows: dict[str, dict[str, str]]
    sha256: str
    exclude_warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """Why the gate left out a case: in words for a flow, and as a refusal."""

    reason: str
    refusal: CaseRefused


def read_gate(path: str | Path, exclude_warnings: Sequence[str] = ()) -> Gate:
    """Read a ``check.csv``; the codes are of warnings that leave a case out.

    Raises:
        CaseRefused: ``gate_stale``, when it is no such table.
        SettingError: a code that is no warning's.
    """
    unknown = [code for code in exclude_warnings if code not in WARNINGS]
    if unknown:
        raise SettingError(
            f"exclude_warning ({', '.join(unknown)}) must be a warning's code: "
            f"{', '.join(sorted(WARNINGS))}"
        )
    table = read_table(path)
    table.check_header((), _NEEDED)
    if table.faults:
        raise CaseRefused("gate_stale", f"the gate is not a check.csv: {table.faults[0]}")
    rows = {row["case_id"]: row for _, row in table.rows()}
    if any(row["status"] == "refused" and row["code"] not in REFUSALS for row in rows.values()):
        raise CaseRefused("gate_stale", "the gate holds codes that this version does not know")
    return Gate(rows, sha256_of(path), tuple(exclude_warnings))


def judge(gate: Gate, cases: Iterable[tuple[str, str, str]]) -> dict[str, LeftOut]:
    """Return which cases the gate leaves out of (case, path of the image, path of the mask or "").

    Raises:
        CaseRefused: ``gate_stale``, naming the rows that the gate does not hold or whose image or
            mask is not the one that was checked.
    """
    left_out: dict[str, LeftOut] = {}
    absent: list[str] = []
    changed: list[str] = []
    for case, image, mask in cases:
        row = gate.rows.get(case)
        if row is None:
            absent.append(case)
        elif not (_same(image, row, "image") and _same(mask, row, "mask")):
            changed.append(case)
        elif (verdict := _verdict(row, gate.exclude_warnings)) is not None:
            left_out[case] = verdict
    found = []
    for names, what in (
        (absent, "are not in the check's table"),
        (changed, "have another image or mask than was checked"),
    ):
        if names:
            more = " …" if len(names) > _MAX_LISTED else ""
            listed = ", ".join(names[:_MAX_LISTED])
            found.append(f"{len(names)} of the rows {what}: {listed}{more}")
    if found:
        raise CaseRefused("gate_stale", "; ".join(found))
    return left_out


def apply_gate(
    table: str | Path, gate: Gate, folder: str | Path
) -> tuple[Path, dict[str, LeftOut]]:
    """Return a table without the rows that the gate leaves out, and who is left out.

    The shorter table is ``cohort.csv`` in ``folder``; where all rows pass, it is the given one.
    """
    table = Path(table)
    found = read_table(table)
    rows = [row for _, row in found.rows()]
    for row in rows:
        for name in ("image", "mask"):
            if row.get(name):
                row[name] = str((table.parent / row[name]).resolve())
    left_out = judge(gate, ((row["case_id"], row["image"], row.get("mask", "")) for row in rows))
    if not left_out:
        return table, {}
    kept = [row for row in rows if row["case_id"] not in left_out]
    gated = Path(folder) / GATED_TABLE
    write_csv(gated, found.header, kept)
    return gated, left_out


def gate_facts(gate: Gate, left_out: dict[str, LeftOut]) -> Json:
    """Return what a record says of a gate: how many it left out, and why."""
    counts = Counter(found.reason for found in left_out.values())
    return {
        "exclude_warnings": list(gate.exclude_warnings),
        "left_out": len(left_out),
        "reasons": dict(sorted(counts.items())),
    }


def _verdict(row: dict[str, str], exclude: Sequence[str]) -> LeftOut | None:
    if row["status"] == "refused":
        refusal = CaseRefused(row["code"], row["message"], row["remedy"])
        return LeftOut(f"The check refuses: {row['code']}", refusal)
    warned = set(row["warnings"].split(";"))
    code = next((code for code in exclude if code in warned), None)
    if code is None:
        return None
    text = f"the check warned of {code} ({WARNINGS[code].remedy})"
    return LeftOut(f"The check warns: {code}", CaseRefused("gate_excluded", text))


def _same(path: str, row: dict[str, str], what: str) -> bool:
    """Whether a file is the one that was checked: by size and time, else by its content."""
    state, digest = row[f"{what}_state"], row[f"{what}_sha256"]
    if not path:
        return not state
    if what == "image" and not state:  # the check refused the case before it came to the image
        return row["status"] == "refused"
    place = Path(path)
    try:
        return file_state(place) == state or (bool(digest) and content_hash(place) == digest)
    except OSError:
        return False
