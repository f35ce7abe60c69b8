"""The folder of a study, whose files hold every number of its report.

Each file that is read is recorded with its SHA-256, so that the report can list its sources.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.hashing import digest_of
from monai_vfx.workflows.study.report.cells import SETS, in_order


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
        self.used[path] = digest_of(content)
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
