"""The table, without images, of a simulated hospital with the study's flow of patients.

The counts at every step are those of the study's Figure 1 (Kong et al., doi
10.2196/preprints.48535); ages, build and risk factors follow its Tables 1 and 2. Nothing here is
a real person.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.simulation.hazard import HAZARDS
from monai_vfx.simulation.patients import RECORDS_END
from monai_vfx.simulation.populations import FLAGS, POPULATIONS

SCANS = 32_435
OUT_OF_AGE = 2_643
SHORT_FOLLOW_UP = 8_029
BASELINE = 3_258
ANALYSED = SCANS - OUT_OF_AGE - SHORT_FOLLOW_UP - BASELINE
CASES = 693
POOR_IMAGES_CASES = 85
POOR_IMAGES_NON_CASES = 2_141

_SCANNERS = ("Brilliance 64", "Ingenuity", "iCT 256")

Floats = npt.NDArray[np.float64]


def draw_study_flow(seed: int = 0, repeated_scans: int = 0) -> pd.DataFrame:
    """Draw a hospital's table whose flow has exactly the study's counts.

    Some rows break several rules of eligibility; the order of the rules decides where they count.
    Non-cases are followed between one and ten years. The outcome's relation to age and risk
    factors is that of the simulated hospitals, without bone and muscle.

    Args:
        seed: not negative; the same arguments give the same table.
        repeated_scans: further, later CTs of its patients, on top of the counts; 0 to 10,000.

    Returns:
        32,435 + ``repeated_scans`` rows in a random order, with all columns of the patient table
        but pair, fold, image and mask. A hundredth of smoker, drinker and of the non-cases' bmi is
        empty.

    >>> table = draw_study_flow(seed=1)
    >>> len(table), int(table["image_adequate"].sum()) < len(table)
    (32435, True)
    """
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}")
    if not 0 <= repeated_scans <= 10_000:
        raise ValueError(f"`repeated_scans` must be 0 to 10,000, got {repeated_scans}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    people = _people(rng)
    _add_outcome(rng, people)
    _break_rules(rng, people)
    frame = pd.DataFrame(people).iloc[rng.permutation(SCANS)].reset_index(drop=True)
    frame.insert(0, "case_id", [f"R{n + 1:06d}" for n in range(SCANS)])
    frame.insert(1, "patient_id", [f"Q{n + 1:06d}" for n in rng.permutation(SCANS)])
    if repeated_scans:
        frame = _with_later_scans(rng, frame, repeated_scans)
    frame["scan_date"] = frame["scan_date"].dt.strftime("%Y-%m-%d")
    for name in ("bmi", "smoker", "drinker"):
        empty = rng.random(len(frame)) < 0.01
        frame.loc[empty & ((name != "bmi") | (frame["fracture"] == 0)), name] = np.nan
    for name in FLAGS:
        frame[name] = frame[name].astype("Int64")
    return frame


def _people(rng: np.random.Generator) -> dict[str, npt.NDArray[np.generic]]:
    """Draw everybody as if eligible: build, risk factors, date and kind of the CT."""
    population = POPULATIONS["development"]
    age = np.round(np.clip(rng.normal(66.0, 8.5, SCANS), 50.0, 80.0), 1)
    edge = (age == 50.0) | (age == 80.0)
    age[edge] = np.round(rng.uniform(50.0, 80.0, int(edge.sum())), 1)
    female = rng.random(SCANS) < 0.62
    height = np.round(np.where(female, 153.8, 166.6) + rng.normal(0, 6.0, SCANS), 1)
    bmi = np.clip(rng.gamma((23.6 / 3.5) ** 2, 3.5**2 / 23.6, SCANS), 16.0, 38.0)
    weight = np.round(bmi * (height / 100) ** 2, 1)
    days = rng.integers(0, 3652, SCANS)
    people: dict[str, npt.NDArray[np.generic]] = {
        "simulated": np.ones(SCANS, dtype=np.int64),
        "scan_date": np.datetime64("2010-01-01") + days,
        "scanner": rng.choice(_SCANNERS, SCANS, p=(0.6, 0.25, 0.15)).astype(object),
        "contrast_phase": np.full(SCANS, "portal_venous", dtype=object),
        "age": age,
        "sex": np.where(female, "F", "M").astype(object),
        "height_cm": height,
        "weight_kg": weight,
        "bmi": np.round(weight / (height / 100) ** 2, 1),
    }
    for name in FLAGS:
        women, men = getattr(population, name)
        people[name] = (rng.random(SCANS) < np.where(female, women, men)).astype(np.float64)
    return people


def _add_outcome(rng: np.random.Generator, people: dict[str, npt.NDArray[np.generic]]) -> None:
    """Draw who breaks a vertebra, and how long everybody is followed; the first rows are analysed.

    The cases are a weighted draw without replacement (the greatest keys of Efraimidis and Spirakis
    2006): exactly as many as the study had.
    """
    model = HAZARDS["paper"]
    age = people["age"].astype(np.float64)
    log_odds = 0.5 * (age - 70.0) / 8.0
    for name in ("smoker", "drinker", "glucocorticoids", "secondary_osteoporosis"):
        log_odds = log_odds + getattr(model, name) * people[name].astype(np.float64)
    log_odds = log_odds + 0.3 * (people["sex"] == "F")
    keys = log_odds + rng.gumbel(size=SCANS)
    fracture = np.zeros(SCANS, dtype=np.int64)
    fracture[np.argsort(-keys[:ANALYSED], kind="stable")[:CASES]] = 1
    rest = slice(ANALYSED, SCANS)
    fracture[rest] = keys[rest] > np.quantile(keys[rest], 1 - CASES / ANALYSED)
    dates = people["scan_date"].astype("datetime64[D]")
    possible = (RECORDS_END - dates).astype(np.float64) / 365.25
    free = rng.uniform(1.0, np.minimum(10.0, possible))
    years = np.where(fracture == 1, rng.uniform(1.0, np.minimum(5.0, possible)), free)
    people["fracture"] = fracture
    people["follow_up_years"] = np.floor(np.maximum(years, 1.0) * 100) / 100
    people["death"] = ((fracture == 0) & (rng.random(SCANS) < 0.06)).astype(np.int64)
    for name in ("baseline_fracture", "spinal_surgery", "traumatic_fracture"):
        people[name] = np.zeros(SCANS, dtype=np.int64)
    people["image_adequate"] = np.ones(SCANS, dtype=np.int64)


def _break_rules(rng: np.random.Generator, people: dict[str, npt.NDArray[np.generic]]) -> None:
    """Give each excluded row its reason, and some of them further ones that do not count."""
    age, years = people["age"], people["follow_up_years"]
    first_short, first_age = ANALYSED + BASELINE, ANALYSED + BASELINE + SHORT_FOLLOW_UP
    young = rng.random(OUT_OF_AGE) < 0.55
    age[first_age:] = np.round(
        np.where(young, rng.uniform(18.0, 49.9, OUT_OF_AGE), rng.uniform(80.1, 95.0, OUT_OF_AGE)), 1
    )
    short = np.arange(first_short, first_age)
    also_short = first_age + np.flatnonzero(rng.random(OUT_OF_AGE) < 0.25)
    short = np.concatenate([short, also_short])
    years[short] = np.round(rng.uniform(0.0, 0.99, len(short)), 2)
    baseline = np.arange(ANALYSED, first_short)
    also_baseline = first_short + np.flatnonzero(rng.random(SCANS - first_short) < 0.1)
    for rows in (baseline, also_baseline):
        surgery = rng.random(len(rows)) < 0.35
        people["spinal_surgery"][rows[surgery]] = 1
        people["baseline_fracture"][rows[~surgery | (rng.random(len(rows)) < 0.1)]] = 1
    fracture = people["fracture"]
    cases = np.flatnonzero(fracture[:ANALYSED] == 1)
    non_cases = np.flatnonzero(fracture[:ANALYSED] == 0)
    outside = ANALYSED + np.flatnonzero(rng.random(SCANS - ANALYSED) < 0.12)
    for rows in (
        rng.choice(cases, POOR_IMAGES_CASES, replace=False),
        rng.choice(non_cases, POOR_IMAGES_NON_CASES, replace=False),
        outside,
    ):
        people["image_adequate"][rows] = 0
    people["traumatic_fracture"][rng.choice(non_cases, 40, replace=False)] = 1


def _with_later_scans(rng: np.random.Generator, frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Append later CTs of patients who were followed for at least half a year."""
    eligible = np.flatnonzero(frame["follow_up_years"].to_numpy() >= 0.5)
    later = frame.iloc[np.sort(rng.choice(eligible, count, replace=False))].reset_index(drop=True)
    years = np.floor(later["follow_up_years"] * rng.uniform(0.2, 0.9, count) * 100) / 100
    later["scan_date"] += pd.to_timedelta(np.round(years * 365.25), unit="D")
    later["age"] = np.round(later["age"] + years, 1)
    later["follow_up_years"] = np.round(later["follow_up_years"] - years, 2)
    later["case_id"] = [f"R{SCANS + n + 1:06d}" for n in range(count)]
    whole = pd.concat([frame, later], ignore_index=True)
    return whole.iloc[rng.permutation(len(whole))].reset_index(drop=True)
