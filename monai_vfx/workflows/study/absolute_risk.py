"""From a study's main score to absolute risks, prediction sets, and cases not to be judged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from monai_vfx.analysis.calibration.conformal import OUTCOMES, ConformalSets, name_set
from monai_vfx.analysis.calibration.model import Calibration
from monai_vfx.analysis.calibration.outliers import MIN_CASES, OutlierDetector
from monai_vfx.analysis.calibration.risk import MATCHED, fit_calibration
from monai_vfx.analysis.evaluation.thresholds import FIXED
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.workflows.study.plan import Plan
from monai_vfx.workflows.study.scores import main_score
from monai_vfx.workflows.study.scores import score_names as scores_of

RISK_THRESHOLDS = (0.05, 0.10, 0.20)
"""Five-year risks from which a patient counts as positive, fixed before any patient was seen."""
QUANTILES = (0.99, 0.95, 0.9)
"""Of training patients' distances, where the flag begins: the highest that their number allows."""


def with_fixed_thresholds(chosen: pd.DataFrame, risks: list[str]) -> pd.DataFrame:
    """Return chosen thresholds and, for scores that are absolute risks, those fixed in advance."""
    fixed = [
        {"score": name, "fold": "frozen", "rule": f"risk_{risk:.2f}", "threshold": risk}
        | {"chosen_on": FIXED, "n": 0, "events": 0}
        for name in risks
        for risk in RISK_THRESHOLDS
    ]
    return pd.concat([chosen, pd.DataFrame(fixed)], ignore_index=True)


def calibrate(
    plan: Plan, predictions: pd.DataFrame, analysed: pd.DataFrame, selected: pd.DataFrame
) -> Json:
    """Fit the correction for sampled controls on the out-of-fold scores.

    The predictions are in the order of ``selected``, the sample of all eligible patients, who are
    ``analysed``.

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
        return None, read_json(folder / "uncalibrated.json")["score"]
    document = read_json(path)
    return Calibration.from_json(document), document["score"]


def prediction_sets(score: str, development: pd.DataFrame, external: pd.DataFrame) -> Json:
    """Give the external patients the outcomes that their score does not rule out.

    The sets are fitted on the development patients' out-of-fold scores.

    Returns:
        ``confidence``, ``n`` patients with a score, how many have which set, and by outcome the
        share of patients whose set holds it (``coverage``, null where nobody has it); or the
        ``reason`` why there are none.
    """
    known = development[development[score].notna()]
    judged = external[external[score].notna()]
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
    """Flag the patients of an evaluation who look unlike those that the networks were trained on.

    Each fold's network has features of its own; its detector is fitted on the features of the
    patients it was trained on (``everyone/features.csv`` and ``split.json`` of its folder).

    Returns:
        Rows by ``case_id``: ``distance`` (mean over folds of distance / threshold), ``outlier``
        (1 where most folds flag the patient) and ``folds`` that judged it; and the facts:
        ``quantile`` and ``training_n``, or the ``reason`` why there are no flags.
    """
    ratios, sizes, quantile = [], [], 0.0
    for folder in folders:
        trained = read_json(folder / "split.json")["train"]
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
