"""A leakage audit: has anything that judges a model been seen by the model?

Nothing is taken on trust. Each check recomputes from the files of a study what they would hold
if all were right, and compares: folds from the table of patients, the standardiser from the rows
that a network trained on, thresholds from the scores that they may be chosen on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.clinical.variables import design_matrix
from monai_vfx.evaluation.thresholds import choose_thresholds
from monai_vfx.results import write_json
from monai_vfx.study.images import fold_scores

TOLERANCE = 1e-6
"""Relative; tables keep at least this many digits."""


@dataclass(frozen=True)
class Check:
    """One rule, whether it holds, and what was compared or found."""

    name: str
    passed: bool
    detail: str


def audit(study: Path) -> list[Check]:
    """Check a study's folder.

    Args:
        study: folder with ``cohort``, ``image``, ``clinical`` and ``predictions``.

    Returns:
        One entry a rule and place; all must have passed.
    """
    selected = _table(study / "cohort" / "development" / "selected.csv")
    checks = [
        groups_in_one_fold(selected, "patient"),
        groups_in_one_fold(selected, "pair"),
    ]
    external = study / "cohort" / "external" / "selected.csv"
    if external.is_file():
        checks.append(hospitals_apart(selected, _table(external)))
    measured = study / "imaging" / "development.csv"
    features = _table(measured) if measured.is_file() else pd.DataFrame()
    for split in sorted(study.glob("image/*/fold_*/split.json")):
        checks += _network(split, selected)
    for fits in sorted(study.glob("clinical/**/fits.json")):
        checks += _clinical(fits, selected, features)
    predictions = study / "predictions"
    if (predictions / "thresholds.csv").is_file():
        checks += _out_of_fold(study)
        checks += _thresholds(study, selected)
    return checks


def write_audit(study: Path) -> tuple[Path, list[Check]]:
    """Check a study's folder and leave ``audit/leakage.json`` in it."""
    checks = audit(study)
    path = study / "audit" / "leakage.json"
    write_json(
        path, {"passed": all(c.passed for c in checks), "checks": [asdict(c) for c in checks]}
    )
    return path, checks


def groups_in_one_fold(selected: pd.DataFrame, column: str) -> Check:
    """All rows that share a patient, or a matched pair, must lie in one fold."""
    name = f"{column}s in one fold"
    if column not in selected or selected[column].isna().all():
        return Check(name, True, f"the table has no {column} column")
    folds = selected.dropna(subset=[column]).groupby(column)["fold"].nunique(dropna=False)
    torn = folds[folds > 1]
    if len(torn):
        return Check(name, False, f"{len(torn)} of {len(folds)} lie in several folds")
    return Check(name, True, f"{len(folds)} groups, none torn")


def hospitals_apart(development: pd.DataFrame, external: pd.DataFrame) -> Check:
    """No image of the external hospital may be one of the development hospital's."""
    shared = set(development["image"]) & set(external["image"])
    return Check(
        "hospitals apart",
        not shared,
        f"{len(shared)} shared images among {len(development)} and {len(external)} patients",
    )


def split_apart(
    split: Mapping[str, Sequence[str]], selected: pd.DataFrame, fold: int, place: str
) -> Check:
    """What a model trained or chose on must share no case, patient or pair with its test fold."""
    name = f"test fold unseen: {place}"
    rows = selected.set_index("case")
    tested = set(rows.index[rows["fold"] == fold])
    seen = {*split["train"], *split["validation"]}
    if seen & tested:
        return Check(name, False, f"{len(seen & tested)} cases of fold {fold} were seen")
    for column in ("patient", "pair"):
        if column in rows:
            known = set(rows.loc[sorted(seen), column].dropna())
            shared = known & set(rows.loc[sorted(tested), column].dropna())
            if shared:
                return Check(name, False, f"{len(shared)} {column}s of fold {fold} were seen")
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


def _network(split: Path, selected: pd.DataFrame) -> list[Check]:
    """Check one training: what it saw, and what its clinical variables are standardised by."""
    place = "/".join(split.parts[-4:-1])
    parts = json.loads(split.read_text(encoding="utf-8"))
    fold = int(split.parent.name.removeprefix("fold_"))
    checks = [split_apart(parts, selected, fold, place)]
    settings = json.loads(split.with_name("model.json").read_text(encoding="utf-8"))["config"]
    clinical = settings.get("clinical")
    if clinical is not None:
        rows = selected[selected["case"].isin(parts["train"])]
        values = design_matrix(rows, clinical["names"])
        values.columns = pd.Index(clinical["names"])
        found = dict(
            zip(
                clinical["names"],
                zip(clinical["mean"], clinical["sd"], strict=True),
                strict=True,
            )
        )
        checks.append(statistics_from(found, values, place))
    return checks


def _clinical(fits: Path, selected: pd.DataFrame, features: pd.DataFrame) -> list[Check]:
    """Check one cross-fitted model: what its fits and thresholds saw, and their statistics."""
    place = "/".join(fits.parts[-3:-1])
    table = selected.merge(features, on="case", how="left") if len(features) else selected
    checks = []
    for entry in json.loads(fits.read_text(encoding="utf-8"))["fits"]:
        fold = int(entry["fold"])
        parts = {"train": entry["seen"]["fit"], "validation": entry["seen"]["threshold"]}
        checks.append(split_apart(parts, selected, fold, f"{place}/fold_{fold}"))
        model = json.loads((fits.parent / f"model_fold_{fold}.json").read_text(encoding="utf-8"))
        linear = model.get("logistic")
        if linear is not None:
            rows = table[table["case"].isin(entry["seen"]["fit"])]
            values = design_matrix(rows, model["variables"]).fillna(linear["fill"])
            found = {
                term["column"]: (term["mean"], term["scale"])
                for term in linear["terms"]
                if not term["missing"]
            }
            checks.append(statistics_from(found, values, f"{place}/fold_{fold}"))
    return checks


def _out_of_fold(study: Path) -> Iterator[Check]:
    """A network's score of a development patient must be that of the fold's own network."""
    home = _table(study / "predictions" / "development.csv").set_index("case")
    for folder in sorted(study.glob("image/*/fold_*")):
        score, column = _score_of(folder.parent.name)
        if score not in home:
            continue
        fold = int(folder.name.removeprefix("fold_"))
        right = fold_scores(folder, "test", column)
        found = home.loc[home["fold"] == fold, score].dropna()
        same = len(found) == len(right) and bool(
            np.allclose(found, right.reindex(found.index), rtol=TOLERANCE, atol=1e-12)
        )
        name = f"out-of-fold scores: {folder.parent.name}/{folder.name}"
        yield Check(name, same, f"{len(found)} patients, {len(right)} scored by the fold's network")


def _score_of(model: str) -> tuple[str, str]:
    """Return a network's column in the predictions, and in its own evaluations."""
    if model == "hazard":
        return "image_hazard", "risk_year_5"
    return (model if model.startswith("fusion_") else f"image_{model}"), "score"


def _thresholds(study: Path, selected: pd.DataFrame) -> Iterator[Check]:
    """Recompute every threshold from the scores that it may be chosen on."""
    folder = study / "predictions"
    table = pd.read_csv(folder / "thresholds.csv", dtype={"fold": str})
    home = pd.read_csv(folder / "development.csv", dtype={"case": str}).set_index("case")
    outcome = selected.set_index("case")["fracture"]
    for row in table.to_dict("records"):
        score, fold = str(row["score"]), str(row["fold"])
        allowed: pd.Series[float] | None
        if fold == "frozen":
            allowed = home[score].dropna()
        elif row["chosen_on"] == "other folds":
            allowed = home.loc[home["fold"] != int(fold), score].dropna()
        else:
            allowed = _inner_scores(study, score, int(fold))
        if allowed is None:
            continue  # fitted with the scores of fits.json, whose cases are checked there
        yield threshold_from(
            str(row["rule"]),
            float(row["threshold"]),
            outcome.loc[allowed.index].tolist(),
            allowed.tolist(),
            f"{score}/{fold}",
        )


def _inner_scores(study: Path, score: str, fold: int) -> pd.Series[float] | None:
    """Return the scores of patients outside a fold by the model that is tested on it."""
    inner = study / "clinical" / score / "inner.csv"
    if inner.is_file():
        rows = pd.read_csv(inner, dtype={"case": str})
        return rows[rows["fold"] == fold].set_index("case")["score"]
    model = score.removeprefix("image_")
    folder = study / "image" / model / f"fold_{fold}"
    if not folder.is_dir():
        return None
    return fold_scores(folder, "validation", _score_of(model)[1])


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"case": str, "patient": str, "pair": str})
