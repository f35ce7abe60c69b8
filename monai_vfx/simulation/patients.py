"""Simulated patients as a table: risk factors, hidden bone and muscle states, five-year outcome.

The distributions follow the study's Tables 1 and 2 (Kong et al., doi 10.2196/preprints.48535). The
hidden states are z-scores (high is healthy); what they make the CT show drives the stated hazard
(``hazard.py``), so a model that reads the image well can reach a known AUROC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.simulation.hazard import (
    BONE_TERMS,
    HAZARDS,
    MUSCLE_TERMS,
    Signal,
    fracture_times,
    log_hazard,
)
from monai_vfx.simulation.people import draw_matched, draw_people
from monai_vfx.simulation.populations import POPULATIONS, Hospital
from monai_vfx.simulation.records import draw_records, repeat_rows, shift_repeats

Column = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Patient:
    """One simulated patient: what the table says and, below it, the hidden truth.

    Args:
        case_id: of the CT.
        patient_id: of the patient; the identifier of the first CT.
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

    case_id: str
    patient_id: str
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
    *("patient_id", "scan_date", "scanner", "contrast_phase"),
    *("age", "sex", "height_cm", "weight_kg", "bmi", "smoker", "drinker", "glucocorticoids"),
    *("secondary_osteoporosis", "type2_diabetes", "hiv", "hepatitis_c", "renal_failure"),
    *("frax_major", "frax_hip", "fracture", "follow_up_years", "death"),
    *("baseline_fracture", "spinal_surgery", "image_adequate", "traumatic_fracture"),
)
"""Fields of a patient that a hospital would know."""

TRUTH_COLUMNS: tuple[str, ...] = tuple(
    name for name in Patient.__dataclass_fields__ if name not in ("case_id", *COHORT_COLUMNS)
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

    ``development`` labels a large population, takes half as many of its cases (608 for the study's
    1,214) and for each a free control of the same sex, near in age and BMI; ``external`` takes
    everyone as they come; so does ``registry``, a hospital before selection in which some rows
    break the eligibility rules and a few patients have a second CT.

    Args:
        count: number of patients (in a registry: of CTs), at least 2.
        seed: not negative; the same arguments give the same patients.
        hospital: which population and sampling.
        signal: the hazard; ``paper``, ``strong``, ``no_muscle`` or ``none``.

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
        signal: the hazard; ``paper``, ``strong``, ``no_muscle`` or ``none``.

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

    The scores are terms of the stated hazard; no class of model is fitted. For the ceiling of a
    class, with what it can infer from what it sees, see
    :func:`monai_vfx.simulation.attainable.attainable_aurocs`.

    Args:
        patients: at least one with and one without fracture.
        signal: the one they were drawn with.

    Returns:
        ``risk`` (everything that drives the fracture), ``image`` (bone and muscle terms), ``bone``
        and ``muscle`` alone. Terms without effect are 0.5.

    Raises:
        ValueError: when all patients have the same outcome.
    """
    outcome = np.array([p.fracture for p in patients])
    events = int(outcome.sum())
    if not 0 < events < len(outcome):
        raise ValueError(f"patients: {events} of {len(outcome)} have a fracture; both are needed")
    terms = {"image": (*BONE_TERMS, *MUSCLE_TERMS), "bone": BONE_TERMS, "muscle": MUSCLE_TERMS}
    shown = {
        name: np.array([getattr(p, name) for p in patients], dtype=np.float64)
        for name in terms["image"]
    }
    scores = {"risk": np.array([p.five_year_risk for p in patients])}
    scores |= {name: log_hazard(shown, HAZARDS[signal], some) for name, some in terms.items()}
    return {name: auroc(outcome, score).value for name, score in scores.items()}


def _check_choices(count: int, seed: int, hospital: str, signal: str) -> None:
    if count < 2:
        raise ValueError(f"count: {count}; at least 2 patients are needed")
    if seed < 0:
        raise ValueError(f"seed: {seed}; must not be negative")
    if hospital not in POPULATIONS:
        raise ValueError(f"hospital: {hospital!r}; choose one of {sorted(POPULATIONS)}")
    if signal not in HAZARDS:
        raise ValueError(f"signal: {signal!r}; choose one of {sorted(HAZARDS)}")


def _draw(count: int, seed: int, hospital: Hospital, signal: Signal, matched: bool) -> pd.DataFrame:
    """Return the patients as rows; ``matched`` samples where the hospital does."""
    _check_choices(count, seed, hospital, signal)
    population = POPULATIONS[hospital]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    draw = draw_matched if population.looseness and matched else draw_people
    chosen = draw(rng, count, population, signal)
    chosen["follow_up_years"] = np.where(
        chosen["fracture"] == 1,
        fracture_times(chosen["five_year_risk"], rng.random(count)),
        rng.uniform(5.0, 9.0, count),
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
        | {"case_id": names, "patient_id": names[scans]}
        | {"sex": np.where(numbers["female"] == 1, "F", "M")}
    )
    return frame.astype(dict.fromkeys(_WHOLE, np.int64))[list(Patient.__dataclass_fields__)]
