"""What a study left behind: the files of its folder, read once each and accounted for.

The report of a study takes every number from these files and computes no result anew. Whatever is
read is noted with its SHA-256, so that the report can say where its numbers come from.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

SETS = ("development", "external")
SET_LABELS = {
    "development": "Development set (out-of-fold)",
    "external": "External set",
}
DASH = "–"
"""Shown where a number does not exist."""

SCORE_LABELS = {
    "image_bone": "Image, bone only",
    "image_bone_muscle": "Image, bone + muscle",
    "image_hazard": "Image, yearly hazards",
    **{f"clinical_{m}": f"Clinical {m} (XGBoost)" for m in "ABCD"},
    **{f"logistic_{m}": f"Clinical {m} (logistic)" for m in "ABCD"},
    "imaging_baseline": "Imaging baseline (logistic, mask features)",
    "frax_major": "FRAX major osteoporotic",
    "frax_hip": "FRAX hip",
    **{f"fusion_{m}": f"Image + clinical {m} (in the network)" for m in "ABCD"},
    **{f"late_fusion_{m}": f"Image + clinical {m} (late fusion)" for m in "ABCD"},
    "matched_only": "Matched variables only (negative control)",
}
"""Name of a score in the study's files → what people read, in the order of the tables."""


def label_of(score: str) -> str:
    """Return what people read for a score; an unknown one keeps its own name.

    >>> label_of("clinical_A"), label_of("image_tall")
    ('Clinical A (XGBoost)', 'Image, tall')
    """
    if score in SCORE_LABELS:
        return SCORE_LABELS[score]
    if score.startswith("risk_"):
        return f"Five-year risk ({label_of(score.removeprefix('risk_')).lower()})"
    rest = score.removeprefix("image_")
    return score if rest == score else f"Image, {rest.replace('_', ' ')}"


def in_order(scores: Iterable[str]) -> list[str]:
    """Sort scores as the tables show them; unknown ones follow by name."""
    order = {name: n for n, name in enumerate(SCORE_LABELS)}
    return sorted(scores, key=lambda name: (order.get(name, len(order)), name))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, a dash where there is none.

    >>> number(0.73949), number(None), number(-0.0001)
    ('0.739', '–', '0.000')
    """
    if value is None or pd.isna(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def interval(bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """Return an interval in brackets, a dash where there is none.

    >>> interval([0.674, 0.68]), interval([-0.1, 0.2], 1), interval(None)
    ('(0.674–0.680)', '(−0.1 to 0.2)', '–')
    """
    if bounds is None or any(bound is None or pd.isna(bound) for bound in bounds):
        return DASH
    low, high = (number(bound, digits) for bound in bounds)
    between = " to " if "\N{MINUS SIGN}" in low + high else "–"
    return f"({low}{between}{high})"


def estimate(value: float | None, bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """Return a value with its interval.

    >>> estimate(0.677, [0.674, 0.68]), estimate(None, None)
    ('0.677 (0.674–0.680)', '–')
    """
    if value is None:
        return DASH
    return number(value, digits) + ("" if bounds is None else " " + interval(bounds, digits))


def percent(share: float | None) -> str:
    """Return a share in percent.

    >>> percent(0.12323).split(), percent(None)
    (['12.3', '%'], '–')
    """
    return DASH if share is None else f"{number(100 * share, 1)}\N{NO-BREAK SPACE}%"


def p_value(p: float | None) -> str:
    """Return a p-value as journals print it.

    >>> p_value(0.0004), p_value(0.0449), p_value(1.0), p_value(None)
    ('<0.001', '0.045', '1.000', '–')
    """
    if p is None or pd.isna(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def counts(n: int | None, events: int | None) -> str:
    """Return patients and fractures as one cell.

    >>> counts(495, 61)
    '495 (61)'
    """
    return DASH if n is None else f"{n:,} ({number(events, 0)})"


@dataclass
class StudyFolder:
    """The folder that ``vfx study`` wrote.

    Args:
        root: holds ``study.json``.

    Attributes:
        used: path from ``root`` → SHA-256, of every file that was read.
        absent: parts of the report without data → the file or reason.

    Raises:
        SettingError: there is no ``study.json``, or a file is not what its name says.
    """

    root: Path
    used: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.root / "study.json").is_file():
            raise SettingError(f"{self.root} holds no study.json: give the folder of a study")

    def content(self, path: str) -> bytes | None:
        """Return a file's bytes, None where it is not there."""
        target = self.root / path
        if not target.is_file():
            return None
        content = target.read_bytes()
        self.used[path] = hashlib.sha256(content).hexdigest()
        return content

    def json(self, path: str) -> Any:
        """Return a JSON document, None where it is not there."""
        content = self.content(path)
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise SettingError(f"{path} of the study is not JSON: {error}") from error

    def table(self, path: str, *, text: bool = False) -> pd.DataFrame | None:
        """Return a CSV table, None where it is not there or has no rows.

        Args:
            path: from ``root``.
            text: keep every cell as it is written; by default pandas types the columns.
        """
        content = self.content(path)
        if content is None or not content.strip():
            return None
        kind: Any = {"dtype": str, "keep_default_na": False} if text else {}
        try:
            frame = pd.read_csv(io.BytesIO(content), **kind)
        except (ValueError, UnicodeDecodeError) as error:
            raise SettingError(f"{path} of the study is not a table: {error}") from error
        return frame if len(frame) else None

    def miss(self, part: str, reason: str) -> None:
        """Note a part of the report that has no data, and why."""
        self.absent.setdefault(part, reason)

    @cached_property
    def about(self) -> Json:
        """``study.json``."""
        document: Json = self.json("study.json")
        return document

    @property
    def settings(self) -> Json:
        """The settings in force, as ``study.json`` holds them."""
        settings: Json = self.about.get("settings") or {}
        return settings

    @property
    def simulated(self) -> bool:
        """Whether any patient was simulated; taken as so unless the study says otherwise."""
        return bool(self.about.get("simulated", True))

    @property
    def matched(self) -> bool:
        """Whether the controls of the development set were sampled."""
        matching: Json = self.settings.get("matching") or {}
        return bool(matching.get("method", "none") != "none")

    @cached_property
    def evaluations(self) -> dict[str, Json]:
        """Set → ``evaluation.json``, for the sets that have one."""
        found = {name: self.json(f"evaluation/{name}/evaluation.json") for name in SETS}
        return {name: document for name, document in found.items() if document is not None}

    @cached_property
    def scores(self) -> list[str]:
        """All scores of either set, in the order of the tables."""
        return in_order({name for e in self.evaluations.values() for name in e["scores"]})

    @property
    def main(self) -> str:
        """The score that the study is about: its main network's, else the richest model's."""
        wanted = f"image_{(self.settings.get('images') or {}).get('main', 'bone_muscle')}"
        if wanted in self.scores or not self.scores:
            return wanted
        clinical = [name for name in self.scores if name.startswith("clinical_")]
        return (clinical or self.scores)[-1]

    @cached_property
    def made_masks(self) -> dict[str, Json]:
        """Hospital → how many masks were made, and by whom, where its table lacked some."""
        paths = sorted((self.root / "masks").glob("*/cohort.json"))
        return {path.parent.name: self.json(str(path.relative_to(self.root))) for path in paths}

    @cached_property
    def sidecars(self) -> dict[str, Json]:
        """Image model → the sidecar of the weights of its first fold."""
        found = {}
        for path in sorted((self.root / "image").glob("*/fold_0/model.json")):
            name = path.parent.parent.name
            found[name] = self.json(str(path.relative_to(self.root)))
        return found


def comparison(
    evaluation: Json, a: str, b: str, quantity: str = "auroc", rule: str | None = None
) -> Json | None:
    """Return the test of two scores, whichever came first, or None where none was made.

    Args:
        evaluation: of ``evaluation.json``.
        a: a score.
        b: another.
        quantity: ``auroc`` (DeLong), or ``accuracy``, ``sensitivity``, ``specificity`` (McNemar).
        rule: of the threshold, for the latter.
    """
    for entry in evaluation.get("comparisons", ()):
        found = "auroc" if entry["test"] == "delong" else entry["quantity"]
        same_rule = found == "auroc" or rule is None or entry["rule"] == rule
        if {entry["a"], entry["b"]} == {a, b} and found == quantity and same_rule:
            chosen: Json = entry
            return chosen
    return None


def main_rule(entry: Json) -> Json | None:
    """Return the operating point that the paper's tables show: Youden's, else the first."""
    points = entry.get("operating_points") or []
    youden = [point for point in points if point["rule"] == "youden"]
    chosen: Json | None = (youden or points or [None])[0]
    return chosen
