"""Simulated patients as a table: risk factors, hidden bone and muscle states, five-year outcome.

The marginal distributions follow the study's Tables 1 and 2 (Kong et al., doi
10.2196/preprints.48535). The hidden states are z-scores (high is healthy) that set both what the
phantom shows and the risk, so a model that reads the image well can reach a known AUROC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

from monai_vfx.simulation.populations import (
    APPEARANCES,
    POPULATIONS,
    RISK_MODELS,
    Hospital,
    Population,
    RiskModel,
    Signal,
)
from monai_vfx.simulation.records import draw_records, repeat_rows, shift_repeats

Column = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Patient:
    """One simulated patient: what the table says and, below it, the hidden truth.

    Args:
        case: identifier of the CT.
        patient: identifier of the patient; that of the first CT.
        scan_date: day of the CT, YYYY-MM-DD.
        scanner: the machine; machines of one hospital take the same images.
        contrast_phase: of every CT ``portal_venous``.
        age: years, one decimal.
        sex: ``"F"`` or ``"M"``.
        height_cm: standing height.
        weight_kg: weight.
        fracture: incident vertebral fracture within five years, 0 or 1.
        follow_up_years: years to the fracture or, without one, to death or the last imaging.
        death: follow-up ended by death without fracture, 0 or 1.
        frax_major: percent; a simulated stand-in for FRAX, not its formula. ``frax_hip`` likewise.
        baseline_fracture: 0 or 1; like the other three only in a registry what excludes.
        five_year_risk: true probability of the fracture in the hospital's whole population.
        bone_z: bone state, z-score, high is healthy; ``muscle_z`` likewise.
        trabecular_hu: enhanced trabecular attenuation of L1 in HU.
        cortex_mm: thickness of cortical shell and endplates.
        texture: SD of the trabecular texture as a share of its attenuation.
        erector_scale: cross-section of the erector spinae relative to the build's expectation.
        psoas_scale: likewise of the psoas.
        fat_fraction: share of the muscle compartment that is fat, 0 to 1.
        lean_hu: attenuation of the lean muscle in HU.
    """

    case: str
    patient: str
    scan_date: str
    scanner: str
    contrast_phase: str
    age: float
    sex: str
    height_cm: float
    weight_kg: float
    bmi: float
    smoker: int
    drinker: int
    glucocorticoids: int
    secondary_osteoporosis: int
    type2_diabetes: int
    hiv: int
    hepatitis_c: int
    renal_failure: int
    frax_major: float
    frax_hip: float
    fracture: int
    follow_up_years: float
    death: int
    baseline_fracture: int
    spinal_surgery: int
    image_adequate: int
    traumatic_fracture: int
    five_year_risk: float
    bone_z: float
    muscle_z: float
    trabecular_hu: float
    cortex_mm: float
    texture: float
    erector_scale: float
    psoas_scale: float
    fat_fraction: float
    lean_hu: float


COHORT_COLUMNS: tuple[str, ...] = (
    *("patient", "scan_date", "scanner", "contrast_phase"),
    *("age", "sex", "height_cm", "weight_kg", "bmi", "smoker", "drinker", "glucocorticoids"),
    *("secondary_osteoporosis", "type2_diabetes", "hiv", "hepatitis_c", "renal_failure"),
    *("frax_major", "frax_hip", "fracture", "follow_up_years", "death"),
    *("baseline_fracture", "spinal_surgery", "image_adequate", "traumatic_fracture"),
)
"""Fields of a patient that a hospital would know."""

TRUTH_COLUMNS: tuple[str, ...] = tuple(
    name for name in Patient.__dataclass_fields__ if name not in ("case", *COHORT_COLUMNS)
)
"""Fields of a patient that only the simulation knows."""

_WHOLE: tuple[str, ...] = (
    *("smoker", "drinker", "glucocorticoids", "secondary_osteoporosis", "type2_diabetes", "hiv"),
    *("hepatitis_c", "renal_failure", "fracture", "death", "baseline_fracture"),
    *("spinal_surgery", "image_adequate", "traumatic_fracture"),
)


def draw_patients(
    count: int, seed: int, hospital: Hospital = "development", signal: Signal = "paper"
) -> list[Patient]:
    """Draw a hospital's patients.

    ``development`` labels a large population, takes ``count // 2`` of its cases and for each the
    nearest free control of the same sex in age and BMI, as the study did; ``external`` takes
    everyone as they come; so does ``registry``, a hospital before selection in which some rows
    break the eligibility rules and a few patients have a second CT.

    Args:
        count: number of patients (in a registry: of CTs), at least 2.
        seed: not negative; the same arguments give the same patients.
        hospital: which population and sampling.
        signal: strength of the relation between hidden state and fracture.

    Raises:
        ValueError: for a count, seed, hospital or signal outside these.

    >>> people = draw_patients(6, seed=1)
    >>> sum(p.fracture for p in people), {p.sex for p in people} <= {"F", "M"}
    (3, True)
    """
    frame = _draw(count, seed, hospital, signal, matched=True)
    rows = frame.to_dict("records")
    return [Patient(**{str(name): value for name, value in row.items()}) for row in rows]


def draw_population(
    count: int, seed: int, hospital: Hospital = "development", signal: Signal = "paper"
) -> pd.DataFrame:
    """Draw a hospital's whole population as a table, nobody sampled: for tests of statistics.

    Args:
        count: number of patients, at least 2; thousands take milliseconds.
        seed: not negative. Of the unmatched hospitals these are the patients of
            :func:`draw_patients`.
        hospital: which population.
        signal: strength of the relation between hidden state and fracture.

    Returns:
        (count rows) the columns of :class:`Patient`, the truth among them
        (``five_year_risk``, ``bone_z``, ``muscle_z``, …).

    Raises:
        ValueError: for a count, seed, hospital or signal outside these.

    >>> people = draw_population(5000, seed=1)
    >>> len(people), bool(abs(people["five_year_risk"].mean() - 0.0374) < 1e-4)
    (5000, True)
    """
    return _draw(count, seed, hospital, signal, matched=False)


def attainable_auroc(patients: list[Patient], signal: Signal) -> dict[str, float]:
    """Return the AUROC that a perfect reader of the truth would reach on these patients.

    Args:
        patients: at least one with and one without fracture.
        signal: the strength they were drawn with.

    Returns:
        ``risk`` (everything that drives the fracture), ``image`` (bone and muscle state),
        ``bone`` and ``muscle`` alone.

    Raises:
        ValueError: when all patients have the same outcome.
    """
    model = RISK_MODELS[signal]
    outcome = np.array([p.fracture for p in patients])
    bone = np.array([p.bone_z for p in patients])
    muscle = np.array([p.muscle_z for p in patients])
    events = int(outcome.sum())
    if not 0 < events < len(outcome):
        raise ValueError(f"patients: {events} of {len(outcome)} have a fracture; both are needed")
    scores = {
        "risk": np.array([p.five_year_risk for p in patients]),
        "image": model.bone * bone + model.muscle * muscle,
        "bone": -bone,
        "muscle": -muscle,
    }
    spread = events * (len(outcome) - events)
    return {
        name: float(
            (stats.rankdata(score)[outcome == 1].sum() - events * (events + 1) / 2) / spread
        )
        for name, score in scores.items()
    }


def _check_choices(count: int, seed: int, hospital: str, signal: str) -> None:
    if count < 2:
        raise ValueError(f"count: {count}; at least 2 patients are needed")
    if seed < 0:
        raise ValueError(f"seed: {seed}; must not be negative")
    if hospital not in POPULATIONS:
        raise ValueError(f"hospital: {hospital!r}; choose one of {sorted(POPULATIONS)}")
    if signal not in RISK_MODELS:
        raise ValueError(f"signal: {signal!r}; choose one of {sorted(RISK_MODELS)}")


def _draw(count: int, seed: int, hospital: Hospital, signal: Signal, matched: bool) -> pd.DataFrame:
    """Return the patients as rows; ``matched`` samples where the hospital does."""
    _check_choices(count, seed, hospital, signal)
    population = POPULATIONS[hospital]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    if not (population.matched and matched):
        chosen = _draw_population(rng, count, population, signal)
    else:
        pool = _draw_population(rng, 40 * count + 2000, population, signal)
        rows = _matched_sample(pool, count)
        order = rng.permutation(rows)
        chosen = {name: values[order] for name, values in pool.items()}
    chosen |= _appearance(rng, chosen, signal)
    chosen["follow_up_years"] = np.where(
        chosen["fracture"] == 1, rng.uniform(1.0, 5.0, count), rng.uniform(5.0, 9.0, count)
    )
    records = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    numbers, text = draw_records(records, chosen, population)
    scans = repeat_rows(count, population)
    numbers = {name: values[scans] for name, values in (chosen | numbers).items()}
    text = {name: values[scans] for name, values in text.items()}
    shift_repeats(scans, numbers, text)
    return _frame(population.prefix, scans, numbers, text)


def _frame(
    prefix: str, scans: npt.NDArray[np.int64], numbers: dict[str, Column], text: dict[str, Text]
) -> pd.DataFrame:
    """Return one row a CT with the fields of a patient, in their order."""
    names = np.array([f"{prefix}{row + 1:05d}" for row in range(len(scans))])
    frame = pd.DataFrame(
        {name: np.round(values, 4) for name, values in numbers.items()}
        | text
        | {"case": names, "patient": names[scans]}
        | {"sex": np.where(numbers["female"] == 1, "F", "M")}
    )
    return frame.astype(dict.fromkeys(_WHOLE, np.int64))[list(Patient.__dataclass_fields__)]


def _draw_population(
    rng: np.random.Generator, count: int, population: Population, signal: Signal
) -> dict[str, Column]:
    """Draw people with risk factors, states, true risk and label, as columns."""
    low, high = (
        (limit - population.age_location) / population.age_scale for limit in population.age_limits
    )
    age = stats.truncnorm.rvs(
        low, high, population.age_location, population.age_scale, size=count, random_state=rng
    )
    female = rng.random(count) < population.female
    height = np.where(female, 153.2, 165.6) + rng.normal(0, 6.0, count)
    bmi = np.clip(rng.gamma((23.6 / 3.5) ** 2, 3.5**2 / 23.6, count), 16.0, 38.0)

    def flag(share: float | tuple[float, float]) -> Column:
        women, men = share if isinstance(share, tuple) else (share, share)
        return (rng.random(count) < np.where(female, women, men)).astype(np.float64)

    columns: dict[str, Column] = {
        "age": np.round(age, 1),
        "female": female.astype(np.float64),
        "height_cm": np.round(height, 1),
        "weight_kg": np.round(bmi * (height / 100) ** 2, 1),
        "bmi": np.round(bmi, 1),
        "smoker": flag(population.smoker),
        "drinker": flag(population.drinker),
        "glucocorticoids": flag(population.glucocorticoids),
        "secondary_osteoporosis": flag(population.secondary_osteoporosis),
        "type2_diabetes": flag(population.type2_diabetes),
        "hiv": flag(population.hiv),
        "hepatitis_c": flag(population.hepatitis_c),
        "renal_failure": flag(population.renal_failure),
    }
    columns |= _states(rng, columns)
    log_odds = _log_odds(columns, RISK_MODELS[signal])
    intercept = brentq(lambda b: float(expit(b + log_odds).mean()) - population.prevalence, -20, 20)
    risk = expit(intercept + log_odds)
    columns["five_year_risk"] = risk
    columns["fracture"] = (rng.random(count) < risk).astype(np.float64)
    return columns


def _states(rng: np.random.Generator, columns: dict[str, Column]) -> dict[str, Column]:
    """Draw the hidden z-scores; both fall with age, bone is lower in women and under steroids."""
    count = len(columns["age"])
    decades = (columns["age"] - 70.0) / 8.0
    shared, own_bone, own_muscle = rng.normal(size=(3, count))
    steroid = columns["glucocorticoids"]
    bone = -0.35 * decades - 0.3 * (columns["female"] - 0.69) - 0.3 * steroid
    muscle = -0.35 * decades - 0.2 * steroid + 0.03 * (columns["bmi"] - 23.6)
    return {
        "bone_z": np.clip(bone + 0.25 * shared + 0.88 * own_bone, -3.0, 3.0),
        "muscle_z": np.clip(muscle + 0.25 * shared + 0.88 * own_muscle, -3.0, 3.0),
    }


def _log_odds(columns: dict[str, Column], model: RiskModel) -> Column:
    """Return the linear predictor without its intercept (see ``docs/simulation.md``)."""
    return (
        model.bone * columns["bone_z"]
        + model.muscle * columns["muscle_z"]
        + model.age * (columns["age"] - 70.0) / 8.0
        + model.smoker * columns["smoker"]
        + model.drinker * columns["drinker"]
        + model.glucocorticoids * columns["glucocorticoids"]
        + model.secondary_osteoporosis * columns["secondary_osteoporosis"]
    )


def _matched_sample(pool: dict[str, Column], count: int) -> npt.NDArray[np.int64]:
    """Return the rows of ``count // 2`` cases and of as many (one more if odd) controls."""
    cases = np.flatnonzero(pool["fracture"] == 1)[: count // 2]
    free = pool["fracture"] == 0
    chosen = list(cases)
    for case in cases:
        distance = (
            np.abs(pool["age"] - pool["age"][case]) / 8.0
            + np.abs(pool["bmi"] - pool["bmi"][case]) / 3.5
            + np.where(free & (pool["female"] == pool["female"][case]), 0.0, np.inf)
        )
        control = int(np.argmin(distance))
        free[control] = False
        chosen.append(control)
    spare = np.flatnonzero(free)
    return np.array([*chosen, *spare[: count - len(chosen)]], dtype=np.int64)


def _appearance(
    rng: np.random.Generator, columns: dict[str, Column], signal: Signal
) -> dict[str, Column]:
    """Turn z-scores into what the image shows, with a little that the state does not explain."""
    look = APPEARANCES[signal]
    count = len(columns["age"])

    def shown(rule: tuple[float, float], z: Column, low: float, high: float) -> Column:
        unexplained = 0.15 * rng.normal(size=count)
        return np.clip(rule[0] + rule[1] * (z + unexplained), low, high)

    bone, muscle = columns["bone_z"], columns["muscle_z"]
    return {
        "trabecular_hu": shown(look.trabecular_hu, bone, 45.0, 260.0),
        "cortex_mm": shown(look.cortex_mm, bone, 0.3, 1.2),
        "texture": shown(look.texture, bone, 0.05, 0.30),
        "erector_scale": shown(look.erector_scale, muscle, 0.6, 1.4),
        "psoas_scale": shown(look.psoas_scale, muscle, 0.6, 1.5),
        "fat_fraction": shown(look.fat_fraction, muscle, 0.02, 0.5),
        "lean_hu": shown(look.lean_hu, muscle, 40.0, 75.0),
    }
