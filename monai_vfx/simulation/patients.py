"""Simulated patients as a table: risk factors, hidden bone and muscle states, five-year outcome.

The distributions follow the study's Tables 1 and 2 (Kong et al., doi 10.2196/preprints.48535). The
hidden states are z-scores (high is healthy); what they make the CT show drives the stated hazard
(``hazard.py``), so a model that reads the image well can reach a known AUROC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from monai_vfx.simulation.hazard import Signal, fracture_times
from monai_vfx.simulation.people import draw_people, draw_sampled
from monai_vfx.simulation.populations import POPULATIONS, Hospital, Population, check_choices

Column = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]

CENSORED_SHARE = 0.08
"""Share of the patients without fracture whose imaging ends 1 to 5 years after the CT."""
RECORDS_END = np.datetime64("2024-12-31")  # Last day that a simulated hospital knows of
REPEAT_SHARE = 0.03  # Share of a registry's rows that are a second CT of a patient


@dataclass(frozen=True)
class Patient:
    """One simulated patient: what the table says and, below it, the hidden truth."""

    case_id: str  # of the CT
    patient_id: str  # of the patient; the identifier of the first CT
    scan_date: str  # day of the CT, YYYY-MM-DD
    scanner: str  # the machine; machines of one hospital take the same images
    contrast_phase: str  # of every CT `portal_venous`
    age: float  # years, one decimal
    sex: str  # `"F"` or `"M"`
    height_cm: float  # standing height
    weight_kg: float  # weight
    bmi: float
    smoker: int
    drinker: int
    glucocorticoids: int
    secondary_osteoporosis: int
    type2_diabetes: int
    hiv: int
    hepatitis_c: int
    renal_failure: int
    # percent; a simulated stand-in for FRAX, not its formula. `frax_hip` likewise.
    frax_major: float
    frax_hip: float
    fracture: int  # incident vertebral fracture within five years, 0 or 1
    follow_up_years: float  # years to the fracture or, without one, to death or the last imaging
    death: int  # follow-up ended by death without fracture, 0 or 1
    baseline_fracture: int  # 0 or 1; like the next three 1 only in `registry`
    spinal_surgery: int
    image_adequate: int
    traumatic_fracture: int
    five_year_risk: float  # true probability of the fracture in the hospital's whole population
    bone_z: float  # bone state, z-score, high is healthy; `muscle_z` likewise
    muscle_z: float
    trabecular_hu: float  # enhanced trabecular attenuation of L1 in HU
    cortex_mm: float  # thickness of cortical shell and endplates
    texture: float  # SD of the trabecular texture as a share of its attenuation
    erector_scale: float  # cross-section of the erector spinae relative to the build's expectation
    psoas_scale: float  # likewise of the psoas
    fat_fraction: float  # share of the muscle compartment that is fat, 0 to 1
    lean_hu: float  # attenuation of the lean muscle in HU


_FIELDS = tuple(Patient.__dataclass_fields__)
_FIRST_HIDDEN = _FIELDS.index("five_year_risk")
COHORT_COLUMNS = _FIELDS[1:_FIRST_HIDDEN]  # what a hospital would know, beside the case's name
TRUTH_COLUMNS = _FIELDS[_FIRST_HIDDEN:]  # what only the simulation knows
_WHOLE = [name for name, kind in Patient.__annotations__.items() if kind == "int"]


def draw_patients(
    count: int, seed: int, hospital: Hospital = "development", signal: Signal = "paper"
) -> list[Patient]:
    """Draw a hospital's patients.

    ``development`` labels a large population, takes half as many of its cases (608 for the study's
    1,214) and for each a free control of the same sex, near in age and BMI; ``external`` takes
    everyone as they come; so does ``registry``, a hospital before selection in which some rows
    break the eligibility rules and a few patients have a second CT.

    Args:
        count: number of patients (of ``registry``: of CTs), at least 2.
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
    rows: list[Any] = frame.to_dict("records")
    return [Patient(**row) for row in rows]


def draw_population(
    count: int, seed: int, hospital: Hospital = "development", signal: Signal = "paper"
) -> pd.DataFrame:
    """Draw a hospital's whole population, before any sampling, as a table for tests of statistics.

    The arguments are those of :func:`draw_patients`; the unmatched hospitals have its patients.

    Returns:
        (count rows) the columns of :class:`Patient`, the truth among them.

    >>> people = draw_population(5000, seed=1)
    >>> len(people), bool(abs(people["five_year_risk"].mean() - 0.0374) < 1e-4)
    (5000, True)
    """
    return _draw(count, seed, hospital, signal, matched=False)


def _draw(count: int, seed: int, hospital: Hospital, signal: Signal, matched: bool) -> pd.DataFrame:
    """Return the patients as rows; ``matched`` samples where the hospital does."""
    check_choices(hospital, signal)
    if count < 2:
        raise ValueError(f"`count` must be at least 2, got {count}")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}")
    population = POPULATIONS[hospital]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    draw = draw_sampled if matched else draw_people
    chosen = draw(rng, count, population, signal)
    chosen["follow_up_years"] = np.where(
        chosen["fracture"] == 1,
        fracture_times(chosen["five_year_risk"], rng.random(count)),
        rng.uniform(5.0, 9.0, count),
    )
    records = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    numbers, text = _draw_records(records, chosen, population)
    scans = _repeat_rows(count, population)
    numbers = {name: values[scans] for name, values in (chosen | numbers).items()}
    text = {name: values[scans] for name, values in text.items()}
    _shift_repeats(scans, numbers, text)
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
    return frame.astype(dict.fromkeys(_WHOLE, np.int64))[list(_FIELDS)]


def _repeat_rows(count: int, population: Population) -> npt.NDArray[np.int64]:
    """Return which patient each of ``count`` CTs shows; the last few may be second CTs.

    >>> _repeat_rows(40, POPULATIONS["registry"]).tolist()[-3:]
    [37, 38, 0]
    >>> _repeat_rows(3, POPULATIONS["external"]).tolist()
    [0, 1, 2]
    """
    repeats = round(REPEAT_SHARE * count) if population.unselected else 0
    people = count - repeats
    return np.concatenate([np.arange(people), np.arange(repeats)]).astype(np.int64)


def _draw_records(
    rng: np.random.Generator, columns: dict[str, Column], population: Population
) -> tuple[dict[str, Column], dict[str, Text]]:
    """Draw the further columns, of numbers and of text (n,), of patients whose outcome is known.

    Only patients without fracture are censored or die early, so that the label stays what the
    true five-year risk means.
    """
    count = len(columns["age"])
    free = columns["fracture"] == 0
    chance, moment, unit = rng.random((3, count))
    dies = expit(-3.4 + 0.5 * (columns["age"] - 70.0) / 8.0)
    death = free & (chance < dies)
    censored = free & ~death & (chance < dies + CENSORED_SHARE)
    years = np.where(death | censored, 1.0 + 4.0 * moment, columns["follow_up_years"])
    first, last = (np.datetime64(day, "D") for day in population.scan_dates)
    earliness = rng.random(count)
    numbers = {"follow_up_years": years, "death": death.astype(np.float64)}
    numbers |= _frax_stand_in(rng, columns) | _exclusions(rng, columns, population, years)
    numbers["death"] *= numbers["follow_up_years"] >= 1.0
    # No follow-up ends after the records do.
    room = (RECORDS_END - first).astype(int) - np.ceil(365.25 * numbers["follow_up_years"])
    days = earliness * (np.minimum(room, (last - first).astype(int)) + 1)
    letter = population.prefix if not population.unselected else "D"
    text = {
        "scan_date": np.datetime_as_string(first + days.astype(int)),
        "scanner": np.where(unit < 0.6, f"simulated {letter}1", f"simulated {letter}2"),
        "contrast_phase": np.full(count, "portal_venous"),
    }
    return numbers, text


def _shift_repeats(
    rows: npt.NDArray[np.int64], numbers: dict[str, Column], text: dict[str, Text]
) -> None:
    """Move each repeated CT, still a copy of the first, to a later day, in place."""
    for row in np.flatnonzero(rows != np.arange(len(rows))):
        person = rows[row]
        gap = min(1.0, 0.3 * float(numbers["follow_up_years"][person]))
        numbers["age"][row] = round(float(numbers["age"][person]) + gap, 1)
        numbers["follow_up_years"][row] -= gap
        day = np.datetime64(str(text["scan_date"][person]), "D") + max(1, round(365.25 * gap))
        text["scan_date"][row] = str(day)


def _frax_stand_in(rng: np.random.Generator, columns: dict[str, Column]) -> dict[str, Column]:
    """Return two percentages that behave somewhat like FRAX's. It is not the FRAX formula."""
    decades = (columns["age"] - 65.0) / 10.0
    factors = (
        0.4 * columns["female"]
        + 0.3 * columns["smoker"]
        + 0.2 * columns["drinker"]
        + 0.5 * columns["glucocorticoids"]
        + 0.35 * columns["secondary_osteoporosis"]
        - 0.15 * (columns["bmi"] - 23.6) / 3.5
    )
    noise = rng.normal(0.0, 0.25, (2, len(decades)))
    major = 100 * expit(-2.9 + 0.35 * decades + factors + noise[0])
    hip = 100 * expit(-4.4 + 0.75 * decades + factors + noise[1])
    return {"frax_major": np.round(major, 1), "frax_hip": np.round(np.minimum(hip, major), 1)}


def _exclusions(
    rng: np.random.Generator, columns: dict[str, Column], population: Population, years: Column
) -> dict[str, Column]:
    """Return what the eligibility rules look at; only unselected patients break them.

    A rule is broken regardless of the outcome, so the eligible have the risk of all.
    """
    count = len(years)
    share, moment = rng.random((5, count)), rng.random(count)
    limits = (0.025, 0.01, 0.025, 0.025, 0.01) if population.unselected else (0.0,) * 5
    baseline, surgery, poor, short, trauma = (
        row < limit for row, limit in zip(share, limits, strict=True)
    )
    return {
        "baseline_fracture": baseline.astype(np.float64),
        "spinal_surgery": surgery.astype(np.float64),
        "image_adequate": 1.0 - poor,
        "traumatic_fracture": (trauma & (columns["fracture"] == 0)).astype(np.float64),
        "follow_up_years": np.where(short, 0.1 + 0.85 * moment, years),
    }
