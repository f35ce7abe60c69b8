"""The rules of the leakage audit: each compares what was found with what must hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.engines import ENGINES
from monai_vfx.analysis.clinical.models import ClinicalModel
from monai_vfx.analysis.clinical.variables import design_matrix, outcomes
from monai_vfx.analysis.evaluation.thresholds import choose_thresholds

TOLERANCE = 1e-6
"""Relative; tables keep at least this many digits."""
LOG_ODDS_TOLERANCE = 1e-4
"""Absolute; between fits of the same rows on different machines."""
SAMPLE_BYTES = 1 << 20
"""Of the middle of an image, which tell images of one size apart."""


@dataclass(frozen=True)
class Check:
    """One rule, whether it holds, and what was compared or found."""

    name: str
    passed: bool
    detail: str


def groups_in_one_fold(selected: pd.DataFrame, column: str) -> Check:
    """All rows that share a patient, or a matched pair, must lie in one fold."""
    name = f"{column.removesuffix('_id')}s in one fold"
    if column not in selected or selected[column].isna().all():
        return Check(name, True, f"the table has no {column} column")
    folds = selected.dropna(subset=[column]).groupby(column)["fold"].nunique(dropna=False)
    torn = folds[folds > 1]
    if len(torn):
        return Check(name, False, f"{len(torn)} of {len(folds)} lie in several folds")
    return Check(name, True, f"{len(folds)} groups, none torn")


def hospitals_apart(development: pd.DataFrame, external: pd.DataFrame) -> Check:
    """No image of the external hospital may be one of the development hospital's, or a copy."""
    name = "hospitals apart"
    if "image" not in development or "image" not in external:
        return Check(name, True, "the tables have no images to compare")
    ours, theirs = (set(frame["image"].dropna()) for frame in (development, external))
    shared = (ours & theirs) | _copies(ours, theirs)
    return Check(
        name,
        not shared,
        f"{len(shared)} shared images among {len(development)} and {len(external)} patients",
    )


def _copies(ours: Iterable[str], theirs: Iterable[str]) -> set[str]:
    """Return the images of ``theirs`` whose content is that of one of ``ours``."""
    sizes = {image: _sizes(image) for image in {*ours, *theirs}}
    alike = {sizes[image] for image in ours} & {sizes[image] for image in theirs} - {()}
    known = {_digest(image) for image in ours if sizes[image] in alike}
    return {image for image in theirs if sizes[image] in alike and _digest(image) in known}


def _sizes(image: str) -> tuple[int, ...]:
    """Return the sizes of an image's files in bytes, empty where the image is not here."""
    return tuple(sorted(path.stat().st_size for path in _files(image)))


def _digest(image: str) -> tuple[str, ...]:
    """Return what tells an image's content from others': a part of each of its files."""
    found = []
    for path in _files(image):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - SAMPLE_BYTES) // 2)
            found.append(hashlib.sha256(file.read(SAMPLE_BYTES)).hexdigest())
    return tuple(sorted(found))


def _files(image: str) -> list[Path]:
    path = Path(image)
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file())
    return [path] if path.is_file() else []


def split_apart(
    split: Mapping[str, Sequence[str]], selected: pd.DataFrame, fold: int, place: str
) -> Check:
    """What a model trained or chose on must share no case, patient or pair with its test fold."""
    name = f"test fold unseen: {place}"
    rows = selected.set_index("case_id")
    tested = set(rows.index[rows["fold"] == fold])
    seen = {*split["train"], *split["validation"]}
    if seen & tested:
        return Check(name, False, f"{len(seen & tested)} cases of fold {fold} were seen")
    if seen - set(rows.index):
        return Check(name, False, f"{len(seen - set(rows.index))} cases seen were not selected")
    for column in ("patient_id", "pair_id"):
        if column in rows:
            known = set(rows.loc[sorted(seen), column].dropna())
            shared = known & set(rows.loc[sorted(tested), column].dropna())
            if shared:
                groups = column.removesuffix("_id")
                return Check(name, False, f"{len(shared)} {groups}s of fold {fold} were seen")
    return Check(name, True, f"{len(seen)} cases seen, {len(tested)} tested")


def statistics_from(
    found: Mapping[str, tuple[float, float]], values: pd.DataFrame, place: str
) -> Check:
    """Centre and scale in a model must be those of the training rows and no others.

    Args:
        found: variable → (mean, SD with divisor n; 1 where it does not vary or is not scaled).
        values: the training rows as the model takes them; a column a variable.
        place: names the model.
    """
    name = f"standardised by training rows: {place}"
    for variable, (mean, sd) in found.items():
        column = values[variable].dropna()
        if not np.isclose(mean, column.mean(), rtol=TOLERANCE, atol=TOLERANCE):
            return Check(name, False, f"mean of {variable} {mean:.6g}, not {column.mean():.6g}")
        spread = column.std(ddof=0)
        if sd != 1 and not np.isclose(sd, spread, rtol=TOLERANCE, atol=TOLERANCE):
            return Check(name, False, f"SD of {variable} {sd:.6g}, not {spread:.6g}")
    return Check(name, True, f"{len(found)} variables of {len(values)} patients")


def threshold_from(
    rule: str, threshold: float, labels: Sequence[int], scores: Sequence[float], place: str
) -> Check:
    """A threshold must be what its rule gives on the patients that it may be chosen on."""
    right = choose_thresholds(labels, scores, (rule,))[0].threshold
    return Check(
        f"threshold not from the test set: {place}",
        bool(np.isclose(threshold, right, rtol=TOLERANCE, atol=1e-12)),
        f"{rule}: {threshold:.6g}, recomputed {right:.6g} from {len(labels)} patients",
    )


def fitted_on(model: ClinicalModel, rows: pd.DataFrame, place: str) -> Check:
    """A clinical model must be what its settings and seed give on the training rows."""
    name = f"fitted on training rows: {place}"
    rows = rows[design_matrix(rows, model.variables).notna().any(axis=1)]
    x, y = design_matrix(rows, model.variables), outcomes(rows)
    again = ENGINES[model.kind].fit(x, y, model.hyperparameters, model.seed)
    far = float(np.abs(again.margin(x) - model.engine.margin(x)).max())
    detail = f"log odds of {len(rows)} patients differ by {far:.2g} at most from a new fit's"
    return Check(name, far < LOG_ODDS_TOLERANCE, detail)


def same_scores(
    development: pd.DataFrame, score: str, fold: int, right: pd.Series[float], place: str
) -> Check:
    """A fold's scores in the predictions must be those (by case) that its own model gives."""
    name = f"out-of-fold scores: {place}"
    if score not in development:
        return Check(name, False, "the predictions lack the score")
    found = development.loc[development["fold"] == fold, score].dropna()
    same = set(found.index) == set(right.index) and bool(
        np.allclose(found, right.reindex(found.index), rtol=TOLERANCE, atol=1e-12)
    )
    detail = f"{len(found)} patients, {len(right)} scored by the fold's model"
    return Check(name, same, detail)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of a study, every number as it was written."""
    text = {"case_id": str, "patient_id": str, "pair_id": str}
    return pd.read_csv(path, dtype=text, float_precision="round_trip")
