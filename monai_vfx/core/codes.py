"""The table of codes, ``codes.csv``: every reason to refuse a case or to warn about it.

A *refusal* ends the work on one case (exit status 3, one JSON line); a *warning* travels with the
result. Their codes are part of the public contract: pipelines may branch on them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Code:
    """One row of the table.

    Attributes:
        kind: ``refusal`` or ``warning``.
        rule: what a case must fulfil, in one or two sentences. Braces hold a constant of the
            package, such as ``{io.dicom.stack.TILT_TOLERANCE_DEG}``, which
            :mod:`monai_vfx.workflows.codes_page` replaces by its value.
        remedy: what the user can do; of a warning, what it means.
    """

    kind: str
    rule: str
    remedy: str


with Path(__file__).with_name("codes.csv").open(encoding="utf-8", newline="") as _file:
    CODES = {row.pop("code"): Code(**row) for row in csv.DictReader(_file)}
REFUSALS = {code: row for code, row in CODES.items() if row.kind == "refusal"}
WARNINGS = {code: row for code, row in CODES.items() if row.kind == "warning"}
