"""From a study's main score to absolute risks, prediction sets, and cases not to be judged."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from monai_vfx.analysis.calibration.conformal import OUTCOMES, ConformalSets, name_set
from monai_vfx.analysis.calibration.model import Calibration
from monai_vfx.analysis.calibration.outliers import MIN_CASES, OutlierDetector
from monai_vfx.analysis.calibration.risk import MATCHED, fit_calibration
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import write_json
from monai_vfx.workflows.study.plan import Plan
from monai_vfx.workflows.study.scores import main_score
from monai_vfx.workflows.study.scores import score_names as scores_of

QUANTILES = (0.99, 0.95, 0.9)
"""Of training patients' distances, where the flag begins: the highest that their number allows."""


def calibrate(
    plan: Plan, predictions: pd.DataFrame, analysed: pd.DataFrame, selected: pd.DataFrame
) -> Json:
    """Fit the correction for sampled controls on the out-of-fold scores.

    Args:
        plan: of the study.
        predictions: development patients, in the order of ``selected``.
        analysed: the whole eligible cohort, of which ``selected`` is the sample.
        selected: the sample.

    Returns:
        The document of the calibration with the ``score`` it is for and whether patients are
        ``simulated``; where the patients do not suffice, ``score`` and ``reason``.
    """
    score = main_score(plan, scores_of(predictions))
    try:
        calibration = fit_calibration(
            predictions[score],
            predictions["fracture"],
            kind="random_controls" if plan.matching.method == "none" else "matched_controls",
            population=analysed,
            selected=selected,
            variables=MATCHED,
        )
    except SettingError as error:
        return {"score": score, "reason": str(error)}
    simulated = bool("simulated" in selected and (selected["simulated"] == 1).any())
    return {**calibration.to_json(), "score": score, "simulated": simulated}


def save_calibration(folder: Path, document: Json) -> Path:
    """Write ``calibration.json``, or ``uncalibrated.json`` with the reason why there is none."""
    name = "uncalibrated" if "reason" in document else "calibration"
    write_json(folder / f"{name}.json", document)
    return folder / f"{name}.json"


def read_calibration(folder: Path) -> tuple[Calibration | None, str]:
    """Return what :func:`save_calibration` left: the calibration, if any, and its score."""
    path = folder / "calibration.json"
    if not path.is_file():
        reason = json.loads((folder / "uncalibrated.json").read_text(encoding="utf-8"))
        return None, reason["score"]
    document = json.loads(path.read_text(encoding="utf-8"))
    return Calibration.from_json(document), document["score"]


def prediction_sets(score: str, home: pd.DataFrame, away: pd.DataFrame) -> Json:
    """Give the external patients the outcomes that their score does not rule out.

    Args:
        score: column of both tables.
        home: development patients with out-of-fold scores.
        away: external patients.

    Returns:
        ``confidence``, ``n`` patients with a score, how many have which set, and by outcome the
        share of patients whose set holds it (``coverage``, null where nobody has it); or the
        ``reason`` why there are none.
    """
    known, judged = home[home[score].notna()], away[away[score].notna()]
    try:
        fitted = ConformalSets.fit(known[score], known["fracture"])
    except SettingError as error:
        return {"score": score, "reason": str(error)}
    held = fitted.sets(judged[score])
    named = pd.Series([name_set(row) for row in held]).value_counts()
    outcome = judged["fracture"].to_numpy()
    return {
        "score": score,
        "confidence": fitted.confidence,
        "n": len(judged),
        "events": int(outcome.sum()),
        "sets": {str(name): int(count) for name, count in sorted(named.items())},
        "coverage": {
            name: None if not (outcome == k).any() else float(held[outcome == k, k].mean())
            for k, name in enumerate(OUTCOMES)
        },
        "fitted": fitted.to_json(),
    }


def outlier_flags(folders: list[Path], part: str) -> tuple[pd.DataFrame, Json]:
    """Say which patients of an evaluation look unlike those that the networks were trained on.

    Each fold's network has features of its own; its detector is fitted on the features of the
    patients it was trained on.

    Args:
        folders: of the folds' trainings, with ``everyone/features.csv`` and ``split.json``.
        part: folder of the evaluation within each.

    Returns:
        Rows by ``case_id``: ``distance`` (mean over folds of distance / threshold), ``outlier``
        (1 where most folds flag the patient) and ``folds`` that judged it; and the facts:
        ``quantile`` and ``training_n``, or the ``reason`` why there are no flags.
    """
    ratios, sizes, quantile = [], [], 0.0
    for folder in folders:
        trained = json.loads((folder / "split.json").read_text(encoding="utf-8"))["train"]
        everyone = _features(folder / "everyone")
        known = everyone[everyone.index.isin(trained)]
        quantile = next((q for q in QUANTILES if len(known) + 1 >= 1 / (1 - q)), 0.0)
        if not quantile or len(known) < MIN_CASES:
            return pd.DataFrame(), {"reason": f"{len(known)} training patients are too few"}
        detector = OutlierDetector.fit(known, quantile=quantile)
        write_json(folder / "outliers.json", detector.to_json())
        judged = _features(folder / part)
        ratios.append(pd.Series(detector.distance(judged) / detector.threshold, judged.index))
        sizes.append(len(known))
    table = pd.concat(ratios, axis=1)
    flags = pd.DataFrame(
        {
            "distance": table.mean(axis=1),
            "outlier": (table.gt(1).sum(axis=1) > table.notna().sum(axis=1) / 2).astype(int),
            "folds": table.notna().sum(axis=1),
        }
    ).rename_axis("case_id")
    return flags, {
        "quantile": quantile,
        "training_n": sizes,
        "n": len(flags),
        "flagged": int(flags["outlier"].sum()),
    }


def _features(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "features.csv", dtype={"case_id": str}).set_index("case_id")
