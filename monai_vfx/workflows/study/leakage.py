"""A leakage audit: has anything that judges a model been seen by the model?

Each check recomputes from the files of a study what they must hold, and compares: folds from the
table of patients, the standardiser from the rows that a network trained on, clinical models by
fitting them again on the rows that they may see, thresholds from the scores that they may be chosen
on. What a network trained on is taken from its ``split.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.fusion import Fusion, fit_fusion
from monai_vfx.analysis.clinical.models import ClinicalModel, load_clinical
from monai_vfx.analysis.clinical.variables import design_matrix
from monai_vfx.core.files import read_json, write_json
from monai_vfx.workflows.study.images import fold_scores
from monai_vfx.workflows.study.leakage_rules import (
    LOG_ODDS_TOLERANCE,
    TOLERANCE,
    Check,
    fitted_on,
    groups_in_one_fold,
    hospitals_apart,
    read_table,
    same_scores,
    split_apart,
    statistics_from,
    threshold_from,
)


def audit(study: Path) -> list[Check]:
    """Check a study's folder: one entry a rule and place, all of which must have passed."""
    selected = read_table(study / "cohort" / "development" / "selected.csv")
    checks = [groups_in_one_fold(selected, column) for column in ("patient_id", "pair_id")]
    external = study / "cohort" / "external" / "selected.csv"
    if external.is_file():
        checks.append(hospitals_apart(selected, read_table(external)))
    measured = study / "imaging" / "development.csv"
    features = read_table(measured) if measured.is_file() else pd.DataFrame()
    for split in sorted(study.glob("image/*/fold_*/split.json")):
        checks += _network(split, selected)
    for fits in sorted(study.glob("clinical/**/fits.json")):
        checks += _clinical(fits, selected, features)
    for file in sorted(study.glob("clinical/late_fusion_*/model_fold_*.json")):
        checks += _late_fusion(study, file, selected)
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


def _network(split: Path, selected: pd.DataFrame) -> list[Check]:
    """Check one training: what it saw, and what its clinical variables are standardised by."""
    place = "/".join(split.parts[-4:-1])
    parts = read_json(split)
    fold = int(split.parent.name.removeprefix("fold_"))
    checks = [split_apart(parts, selected, fold, place)]
    clinical = read_json(split.with_name("model.json"))["config"].get("clinical")
    if clinical is not None:
        names = clinical["names"]
        rows = selected[selected["case_id"].isin(parts["train"])]
        values = design_matrix(rows, names).set_axis(names, axis=1)
        statistics = zip(clinical["mean"], clinical["sd"], strict=True)
        found = dict(zip(names, statistics, strict=True))
        checks.append(statistics_from(found, values, place))
    return checks


def _clinical(fits: Path, selected: pd.DataFrame, features: pd.DataFrame) -> list[Check]:
    """Check one cross-fitted model: what its fits and thresholds saw, and what came of it."""
    table = selected.merge(features, on="case_id", how="left") if len(features) else selected
    checks = []
    for entry in read_json(fits)["fits"]:
        fold = int(entry["fold"])
        place = f"{'/'.join(fits.parts[-3:-1])}/fold_{fold}"
        parts = {"train": entry["seen"]["fit"], "validation": entry["seen"]["threshold"]}
        checks.append(split_apart(parts, selected, fold, place))
        file = fits.parent / f"model_fold_{fold}.json"
        if (fits.parent / "inner.csv").is_file():  # a late fusion takes scores, not the table
            rows = table[table["case_id"].isin(entry["seen"]["fit"])]
            model = load_clinical(file)
            if model.kind == "logistic":
                checks.append(_statistics(model, rows, place))
            checks.append(fitted_on(model, rows, place))
    return checks


def _statistics(model: ClinicalModel, rows: pd.DataFrame, place: str) -> Check:
    """Check a logistic model's imputation, centres and scales."""
    linear = model.engine.to_json()
    values = design_matrix(rows, model.variables).dropna(how="all")
    for variable, fill in linear["fill"].items():
        median = values[variable].median()
        if not np.isclose(fill, median, rtol=TOLERANCE, atol=TOLERANCE):
            name = f"standardised by training rows: {place}"
            return Check(name, False, f"fill of {variable} {fill:.6g}, not {median:.6g}")
    gaps = values.isna().astype(float).add_prefix("no ")
    found = {
        f"no {term['column']}" if term["missing"] else term["column"]: (term["mean"], term["scale"])
        for term in linear["terms"]
    }
    return statistics_from(found, values.fillna(linear["fill"]).join(gaps), place)


def _out_of_fold(study: Path) -> Iterator[Check]:
    """A score of a development patient must be that of the fold's own model."""
    development = read_table(study / "predictions" / "development.csv").set_index("case_id")
    yield from _clinical_out_of_fold(study, development)
    for folder in sorted(study.glob("image/*/fold_*")):
        score, column = _score_of(folder.parent.name)
        if score not in development:
            continue
        fold = int(folder.name.removeprefix("fold_"))
        right = fold_scores(folder, "test", column)
        yield same_scores(development, score, fold, right, f"{folder.parent.name}/{folder.name}")


def _clinical_out_of_fold(study: Path, development: pd.DataFrame) -> Iterator[Check]:
    """Score each fold anew by its clinical models."""
    table = read_table(study / "cohort" / "development" / "selected.csv")
    measured = study / "imaging" / "development.csv"
    if measured.is_file():
        table = table.merge(read_table(measured), on="case_id", how="left")
    for inner in sorted(study.glob("clinical/*/inner.csv")):
        score = inner.parent.name
        for file in sorted(inner.parent.glob("model_fold_*.json")):
            fold = int(file.stem.removeprefix("model_fold_"))
            rows = table[table["fold"] == fold]
            right = pd.Series(load_clinical(file).predict(rows), rows["case_id"]).dropna()
            yield same_scores(development, score, fold, right, f"{score}/fold_{fold}")


def _late_fusion(study: Path, file: Path, selected: pd.DataFrame) -> Iterator[Check]:
    """Fit one fold's late fusion once more, and score the fold by it."""
    score, fold = file.parent.name, int(file.stem.removeprefix("model_fold_"))
    name = f"fitted on training rows: clinical/{score}/fold_{fold}"
    fitted = _fusion_again(study, score, fold, selected)
    if fitted is None:
        yield Check(name, False, "the scores that it may be fitted on are missing")
        return
    fusion, _ = fitted
    found, right = read_json(file), fusion.to_json()
    pairs = [(found["intercept"], right["intercept"])]
    pairs += [
        (a["coefficient"], b["coefficient"])
        for a, b in zip(found["terms"], right["terms"], strict=False)
    ]
    far = max(abs(a - b) for a, b in pairs)
    same = found["n"] == right["n"] and len(pairs) == 1 + len(right["terms"])
    yield Check(
        name,
        same and far < LOG_ODDS_TOLERANCE,
        f"coefficients of {right['n']} patients differ by {far:.2g} at most from a new fit's",
    )
    development = read_table(study / "predictions" / "development.csv").set_index("case_id")
    rows = development[development["fold"] == fold]
    scores = fusion.predict(
        rows[f"image_{_main(study)}"], rows[score.replace("late_fusion", "clinical")]
    )
    own = pd.Series(scores, rows.index).dropna()
    yield same_scores(development, score, fold, own, f"{score}/fold_{fold}")


def _fusion_again(
    study: Path, score: str, fold: int, selected: pd.DataFrame
) -> tuple[Fusion, pd.Series[float]] | None:
    """Return a fold's late fusion fitted anew, and its scores of the patients it rests on.

    None where there are no patients of both outcomes with both scores.
    """
    main = _main(study)
    if main is None:
        return None
    image = fold_scores(study / "image" / main / f"fold_{fold}", "validation")
    clinical = _inner_scores(study, score.replace("late_fusion", "clinical"), fold, selected)
    joined = pd.concat({"image": image, "clinical": clinical}, axis=1, join="inner").dropna()
    outcome = selected.set_index("case_id")["fracture"].loc[joined.index]
    if outcome.nunique() < 2:
        return None
    fusion = fit_fusion(joined["image"], joined["clinical"], outcome)
    scores = fusion.predict(joined["image"], joined["clinical"])
    return fusion, pd.Series(scores, joined.index)


def _main(study: Path) -> str | None:
    """Return the network that late fusions take, as the study's settings name it."""
    settings = study / "steps" / "settings.json"
    if not settings.is_file():
        return None
    main: str = read_json(settings)["images"]["main"]
    return main


def _score_of(model: str) -> tuple[str, str]:
    """Return a network's column in the predictions, and in its own evaluations."""
    if model == "hazard":
        return "image_hazard", "risk_year_5"
    return (model if model.startswith("fusion_") else f"image_{model}"), "score"


def _thresholds(study: Path, selected: pd.DataFrame) -> Iterator[Check]:
    """Recompute every threshold from the scores that it may be chosen on."""
    folder = study / "predictions"
    table = pd.read_csv(folder / "thresholds.csv", dtype={"fold": str})
    development = read_table(folder / "development.csv").set_index("case_id")
    rows = selected.set_index("case_id")
    outcome, fold_of = rows["fracture"], rows["fold"]
    for row in table.to_dict("records"):
        score, fold = str(row["score"]), str(row["fold"])
        name = f"threshold not from the test set: {score}/{fold}"
        allowed: pd.Series[float] | None
        if fold == "frozen":
            allowed = development[score].dropna()
        elif row["chosen_on"] == "other folds":
            allowed = development.loc[development["fold"] != int(fold), score].dropna()
        else:
            allowed = _inner_scores(study, score, int(fold), selected)
        if allowed is None:
            yield Check(name, False, "the scores that it could come from are missing")
            continue
        inside = 0 if fold == "frozen" else int((fold_of.loc[allowed.index] == int(fold)).sum())
        if inside:
            yield Check(name, False, f"the scores it comes from hold {inside} cases of the fold")
            continue
        yield threshold_from(
            str(row["rule"]),
            float(row["threshold"]),
            outcome.loc[allowed.index].tolist(),
            allowed.tolist(),
            f"{score}/{fold}",
        )


def _inner_scores(
    study: Path, score: str, fold: int, selected: pd.DataFrame
) -> pd.Series[float] | None:
    """Return the scores of patients outside a fold by the model that is tested on it."""
    if score.startswith("late_fusion_"):
        fitted = _fusion_again(study, score, fold, selected)
        return None if fitted is None else fitted[1]
    inner = study / "clinical" / score / "inner.csv"
    if inner.is_file():
        rows = read_table(inner)
        return rows[rows["fold"] == fold].set_index("case_id")["score"]
    model = score.removeprefix("image_")
    folder = study / "image" / model / f"fold_{fold}"
    if not folder.is_dir():
        return None
    return fold_scores(folder, "validation", _score_of(model)[1])
