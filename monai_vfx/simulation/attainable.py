"""The AUROC that a class of models can reach in a simulated hospital, by Monte Carlo.

The best score of a model that sees the variables v is P(fracture | v) under the hospital's own
sampling (Neyman and Pearson's lemma: no other function of v has a higher ROC curve). It is
estimated on a large draw by a flexible regression of the outcome on v, and judged on patients that
the regression has not seen, so an estimate can be too low by what the regression fails to learn,
but not too high by over-fitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.clinical.variables import MODELS, column_of
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.simulation.hazard import BONE_TERMS, HAZARDS, MUSCLE_TERMS, Signal, log_hazard
from monai_vfx.simulation.patients import Patient
from monai_vfx.simulation.people import draw_sampled
from monai_vfx.simulation.populations import POPULATIONS, Hospital, check_choices

Floats = npt.NDArray[np.float64]
Method = Literal["splines", "trees"]

_MUSCLE = ("erector_scale", "psoas_scale", "fat_fraction", "lean_hu")
_IMAGE = (*BONE_TERMS, *_MUSCLE)
_CLINICAL = {name: tuple(column_of(v) for v in names) for name, names in MODELS.items()}

CLASSES: dict[str, tuple[str, ...]] = {
    **{f"clinical_{name}": names for name, names in _CLINICAL.items()},
    "image_bone": BONE_TERMS,
    "image_bone_muscle": _IMAGE,
    **{f"image_{name}": (*_IMAGE, *names) for name, names in _CLINICAL.items()},
    "everything": (*_IMAGE, *_CLINICAL["D"], "log_hazard"),
}
"""Class of models → what it sees. ``image_A`` to ``image_D`` see bone, muscle and clinical
variables; ``everything`` sees the true hazard as well. What body size in the image tells of sex,
height and weight is not counted: ``image_B`` holds it, and bounds it from above."""

CHUNK = 5000  # Patients drawn at a time; matched ones come from 17 times as many people


@dataclass(frozen=True)
class Attainable:
    """An attainable AUROC and the standard error of its Monte Carlo estimate."""

    value: float
    standard_error: float


def attainable_aurocs(
    hospital: Hospital,
    signal: Signal = "paper",
    *,
    count: int = 60_000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    method: Method = "splines",
) -> dict[str, Attainable]:
    """Estimate the attainable AUROC of each class of models on a hospital's population.

    Two halves of the draw judge each other (cross-fitting); the value is the mean of both AUROCs
    and the standard error follows from theirs (DeLong).

    Args:
        hospital: the population and its sampling: cases and matched controls, or everyone.
        signal: the hazard.
        count: patients drawn after sampling, at least 1,000. The default takes ten seconds and
            leaves a standard error of about 0.002.
        seed: of the draw, which shares no random number with the patients of any seed.
        classes: names of :data:`CLASSES`; all by default.
        method: ``splines`` (logistic regression on splines and products of numbers) or ``trees``
            (gradient boosting), slower and with a little more loss: to check one by the other.

    Raises:
        ValueError: for a class, count, method, hospital or signal outside these.

    >>> found = attainable_aurocs("external", count=4000, classes=["clinical_A", "image_bone"])
    >>> bool(found["image_bone"].value > found["clinical_A"].value > 0.6)
    True
    """
    names = _checked(hospital, signal, count, classes, method)
    frame = _draw(hospital, signal, count, seed)
    outcome = frame["fracture"].to_numpy()
    half = np.arange(count) < count // 2  # rows are in a random order
    found = {}
    for name in names:
        seen = frame[list(CLASSES[name])]
        parts = []
        for judged in (half, ~half):
            model = _regression(seen, method).fit(seen[~judged], outcome[~judged])
            score = model.predict_proba(seen[judged])[:, 1]
            parts.append(auroc(outcome[judged], score))
        found[name] = Attainable(
            float(np.mean([part.value for part in parts])),
            float(np.sqrt(sum(part.variance for part in parts)) / 2),
        )
    return found


def best_scores(
    patients: pd.DataFrame,
    hospital: Hospital,
    signal: Signal = "paper",
    *,
    count: int = 60_000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    method: Method = "splines",
) -> pd.DataFrame:
    """Score given patients as the best model of each class would.

    The regression is fitted on the same large draw as in :func:`attainable_aurocs`, whose
    settings it takes; the AUROC of these scores is what a perfect model of the class reaches on
    these very patients. They have the columns of :class:`~monai_vfx.simulation.patients.Patient`,
    as from :func:`~monai_vfx.simulation.patients.draw_population`, or ``cohort.csv`` and
    ``truth.csv`` joined on ``case_id``.

    Returns:
        (n, classes) probabilities under the hospital's sampling, on the patients' index.

    Raises:
        ValueError: for a setting outside those, or a missing column.
    """
    names = _checked(hospital, signal, count, classes, method)
    lacking = {"sex", *_IMAGE, *_CLINICAL["D"]} - {"female"} - set(patients.columns)
    if lacking:
        raise ValueError(f"`patients` must have the columns {', '.join(sorted(lacking))}")
    shown = patients.assign(female=(patients["sex"] == "F").astype(np.float64))
    shown["log_hazard"] = log_hazard(_columns(shown), HAZARDS[signal])
    frame = _draw(hospital, signal, count, seed)
    scores = {}
    for name in names:
        seen = list(CLASSES[name])
        model = _regression(frame[seen], method).fit(frame[seen], frame["fracture"])
        scores[name] = model.predict_proba(shown[seen])[:, 1]
    return pd.DataFrame(scores, index=patients.index)


def attainable_record(
    patients: pd.DataFrame, hospital: Hospital, signal: Signal, *, count: int = 60_000
) -> dict[str, dict[str, dict[str, float]]]:
    """Return what ``hospital.json`` says of each class: on the population and on these patients.

    The patients are those of :func:`best_scores`, with ``fracture``; both outcomes must occur.

    Returns:
        Class → ``population`` and ``patients`` → ``value`` and ``standard_error``. The latter's is
        the sampling error of these patients' AUROC (DeLong), not of its computation.
    """
    whole = attainable_aurocs(hospital, signal, count=count)
    scores = best_scores(patients, hospital, signal, count=count)
    record = {}
    for name, population in whole.items():
        here = auroc(patients["fracture"], scores[name])
        record[name] = {
            "population": asdict(population),
            "patients": {"value": here.value, "standard_error": float(np.sqrt(here.variance))},
        }
    return record


def attainable_auroc(patients: list[Patient], signal: Signal) -> dict[str, float]:
    """Return the AUROC that a perfect reader of the truth would reach on these patients.

    The scores are terms of the stated hazard; no class of model is fitted: ``risk`` (everything
    that drives the fracture), ``image`` (bone and muscle terms), ``bone`` and ``muscle`` alone.
    Terms without effect are 0.5.

    Raises:
        ValueError: when all patients have the same outcome.
    """
    outcome = np.array([p.fracture for p in patients])
    events = int(outcome.sum())
    if not 0 < events < len(outcome):
        raise ValueError(
            f"`patients` must hold both outcomes; {events} of {len(outcome)} have a fracture"
        )
    terms = {"image": (*BONE_TERMS, *MUSCLE_TERMS), "bone": BONE_TERMS, "muscle": MUSCLE_TERMS}
    shown = {
        name: np.array([getattr(p, name) for p in patients], dtype=np.float64)
        for name in terms["image"]
    }
    scores = {"risk": np.array([p.five_year_risk for p in patients])}
    scores |= {name: log_hazard(shown, HAZARDS[signal], some) for name, some in terms.items()}
    return {name: auroc(outcome, score).value for name, score in scores.items()}


def _columns(frame: pd.DataFrame) -> dict[str, Floats]:
    numbers = frame.select_dtypes("number")
    return {str(name): values.to_numpy(np.float64) for name, values in numbers.items()}


def _checked(
    hospital: str, signal: str, count: int, classes: Sequence[str] | None, method: str
) -> list[str]:
    check_choices(hospital, signal)
    if count < 1000:
        raise ValueError(f"`count` must be at least 1000 patients, got {count}")
    if method not in ("splines", "trees"):
        raise ValueError(f"`method` must be splines or trees, got {method!r}")
    names = list(CLASSES) if classes is None else list(classes)
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise ValueError(f"`classes` must be among {', '.join(CLASSES)}; got {', '.join(unknown)}")
    return names


def _draw(hospital: Hospital, signal: Signal, count: int, seed: int) -> pd.DataFrame:
    """Draw a hospital's patients as often as it takes, in the hospital's own sampling."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    population = POPULATIONS[hospital]
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    if len(sizes) > 1 and sizes[-1] < CHUNK // 2:  # a small remainder joins its neighbour
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    parts = [pd.DataFrame(draw_sampled(rng, size, population, signal)) for size in sizes]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(log_hazard=log_hazard(_columns(frame), HAZARDS[signal]))


def _regression(seen: pd.DataFrame, method: Method) -> Any:
    """Return an unfitted classifier that is flexible enough for the hazard's shape."""
    if method == "trees":
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=150, max_leaf_nodes=8, early_stopping=False, random_state=0
        )
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

    curved = [str(name) for name in seen.columns if seen[name].nunique() > 2]
    splines = SplineTransformer(n_knots=4, knots="quantile", extrapolation="linear")
    products = PolynomialFeatures(2, include_bias=False, interaction_only=True)
    features = make_column_transformer(
        (splines, curved),
        (make_pipeline(StandardScaler(), products, StandardScaler()), curved),
        remainder=StandardScaler(),
    )
    return make_pipeline(features, LogisticRegression(C=0.01, solver="newton-cholesky"))
