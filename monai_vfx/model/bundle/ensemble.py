"""One prediction of several networks: mean score, absolute risk, a warning of strange cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from monai_vfx.analysis.calibration.model import (
    Calibration,
    ensemble_interval,
    read_calibration,
)
from monai_vfx.analysis.calibration.outliers import OutlierDetector
from monai_vfx.core.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.results import ModelFacts, Prediction

DETECTOR = "outliers.json"
"""Beside weights: how far a case may lie from those that they were trained on."""


def combine(predictions: Sequence[Prediction]) -> Prediction:
    """Return one prediction of several networks, its score the mean of theirs.

    What is said of slices and levels is the first network's; warnings are those of any.

    Args:
        predictions: of one case, by each network, all ``ok``.
    """
    first = predictions[0]
    if len(predictions) == 1 or first.model is None:
        return first
    hashes = tuple(p.model.weights_sha256 for p in predictions if p.model is not None)
    return replace(
        first,
        score=float(np.mean([p.score for p in predictions])),
        simulated_weights=any(p.simulated_weights for p in predictions),
        model=ModelFacts(first.model.bundle, first.model.version, hashes[0], hashes),
        warnings=tuple(dict.fromkeys(w for p in predictions for w in p.warnings)),
    )


def calibrate(
    prediction: Prediction,
    scores: Sequence[float],
    path: str | Path,
    row: pd.DataFrame | None,
) -> Prediction:
    """Add the absolute five-year risk, and with several networks its interval.

    The interval is that of :func:`monai_vfx.analysis.calibration.model.ensemble_interval`: where
    one more
    network of this kind would place the risk.

    Args:
        prediction: of one case.
        scores: of each network.
        path: ``calibration.json``, fitted on such scores.
        row: the patient's row, where the calibration has variables.

    Raises:
        CaseRefused: ``clinical_invalid``, when the row lacks a variable of the calibration.
        SettingError: the calibration breaks its schema.
    """
    calibration = read_calibration(path)
    absent = [v for v in calibration.variables if row is None or v not in row]
    if absent:
        raise CaseRefused("clinical_invalid", f"the calibration takes {', '.join(absent)} as well")
    frame = row if calibration.variables else None
    facts = json.loads(Path(path).read_text(encoding="utf-8"))
    warnings = list(prediction.warnings)
    if facts.get("simulated") and not prediction.simulated_weights:
        text = "the calibration was fitted on simulated patients: not a clinical result"
        warnings.append(CaseWarning("simulated_weights", text))
    risk = float(calibration.risk([cast(float, prediction.score)], frame)[0])
    if np.isnan(risk) and row is not None:
        unknown = [v for v in calibration.variables if row[v].isna().any()]
        text = f"no absolute risk without {', '.join(unknown)}"
        return replace(prediction, warnings=(*warnings, CaseWarning("clinical_missing", text)))
    interval = None
    if len(scores) > 1:
        members = [calibration.risk([score], frame) for score in scores]
        low, high = (float(bound) for bound in ensemble_interval(members)[0])
        interval = (min(low, risk), max(high, risk))
    return replace(
        prediction,
        risk_5y=risk,
        risk_5y_interval=interval,
        calibration={
            "method": calibration.kind,
            "prevalence": _prevalence(calibration),
            "source": f"{Path(path).name} sha256:{sha256_of(path)}",
        },
        warnings=tuple(warnings),
    )


def _prevalence(calibration: Calibration) -> float:
    """Return the share of patients with a fracture in the cohort that the risk refers to."""
    if calibration.population_n and calibration.population_events is not None:
        return calibration.population_events / calibration.population_n
    return calibration.events / calibration.n


def judge_distance(
    prediction: Prediction, weights: Sequence[Path], features: Sequence[Sequence[float]]
) -> Prediction:
    """Warn of a case that most networks find unlike those that they were trained on.

    Args:
        prediction: of one case.
        weights: of each network; one with an ``outliers.json`` beside it has a say.
        features: what each network's head takes for this case.

    Raises:
        SettingError: a detector of other features.
    """
    ratios = []
    for path, vector in zip(weights, features, strict=True):
        document = path.with_name(DETECTOR)
        if document.is_file():
            detector = OutlierDetector.from_json(json.loads(document.read_text(encoding="utf-8")))
            try:
                distance = float(detector.distance([vector])[0])
            except ValueError as error:
                raise SettingError(f"{DETECTOR} beside {path.name}: {error}") from error
            ratios.append(distance / detector.threshold)
    if not ratios or np.mean(np.array(ratios) > 1) <= 0.5:
        return prediction
    text = (
        f"distance {np.mean(ratios):.2f} times the threshold in the networks' features: "
        "the score may mean nothing here"
    )
    warning = CaseWarning("out_of_distribution", text)
    return replace(prediction, warnings=(*prediction.warnings, warning))
