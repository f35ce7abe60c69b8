"""Draw a population: correlated risk factors, hidden states, what the CT shows, risk, outcome.

All in columns, name → (n,) numbers. The random numbers are used in the same order whatever the
signal, so that hospitals of different signals hold the same people.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from scipy.special import ndtr, ndtri

from monai_vfx.simulation.hazard import (
    HAZARDS,
    Hazard,
    Signal,
    five_year_risk,
    log_hazard,
    yearly_baseline,
)
from monai_vfx.simulation.populations import (
    AGE_LIMITS,
    APPEARANCES,
    FLAGS,
    HEIGHT_SD,
    LATENT,
    UNEXPLAINED,
    Appearance,
    Looseness,
    Population,
    age_quantiles,
    copula_correlation,
)

Column = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

STUDY_SIZE, STUDY_CASES = 1214, 608  # The development set of the study: 608 cases and 606 controls
PEOPLE_PER_PATIENT = 17
"""People from whom a matched patient is chosen: with 3.74 % a quarter more than are needed."""

_BMI_LIMITS = (16.0, 38.0)
_NEAREST = 24


def draw_people(
    rng: np.random.Generator,
    count: int,
    population: Population,
    signal: Signal,
    hazard: Hazard | None = None,
) -> dict[str, Column]:
    """Draw everyone of a population; ``hazard`` takes the place of the signal's.

    The columns are risk factors, hidden states, shown quantities, ``five_year_risk``, ``fracture``.
    """
    columns = _risk_factors(rng, count, population)
    columns |= _states(rng, columns)
    columns |= _shown(rng, columns, APPEARANCES[signal])
    eta = log_hazard(columns, hazard or HAZARDS[signal])
    risk = five_year_risk(eta, yearly_baseline(eta, population.prevalence))
    columns["five_year_risk"] = risk
    columns["fracture"] = (rng.random(count) < risk).astype(np.float64)
    return columns


def draw_matched(
    rng: np.random.Generator,
    count: int,
    population: Population,
    signal: Signal,
    hazard: Hazard | None = None,
) -> dict[str, Column]:
    """Draw ``count`` cases and matched controls, in a random order; see :func:`draw_people`."""
    pool = draw_people(rng, PEOPLE_PER_PATIENT * count + 2000, population, signal, hazard)
    order = rng.permutation(_matched_sample(rng, pool, count, population.looseness))
    return {name: values[order] for name, values in pool.items()}


def draw_sampled(
    rng: np.random.Generator, count: int, population: Population, signal: Signal
) -> dict[str, Column]:
    """Draw patients as the hospital samples them: matched, or everyone as they come."""
    draw = draw_matched if population.looseness else draw_people
    return draw(rng, count, population, signal)


def _risk_factors(
    rng: np.random.Generator, count: int, population: Population
) -> dict[str, Column]:
    """Draw age, sex, build, habits and diseases from the Gaussian copula."""
    root = np.linalg.cholesky(copula_correlation())
    latent = dict(zip(LATENT, root @ rng.standard_normal((len(LATENT), count)), strict=True))
    female = ndtr(latent["female"]) > 1 - population.female
    ages, share = age_quantiles(*population.age, population.age_limits)
    height = np.where(female, *population.height_cm) + HEIGHT_SD * latent["height_cm"]
    mean, sd = population.bmi
    spread = np.sqrt(np.log1p((sd / mean) ** 2))  # log-normal
    bmi = mean * np.exp(spread * latent["bmi"] - spread**2 / 2)
    height = np.round(height, 1)
    weight = np.round(np.clip(bmi, *_BMI_LIMITS) * (height / 100) ** 2, 1)
    columns: dict[str, Column] = {
        "age": np.round(np.interp(ndtr(latent["age"]), share, ages), 1),
        "female": female.astype(np.float64),
        "height_cm": height,
        "weight_kg": weight,
        "bmi": np.round(weight / (height / 100) ** 2, 1),
    }
    for name in FLAGS:
        women, men = getattr(population, name)
        limit = 1 - np.where(female, women, men)
        columns[name] = (ndtr(latent[name]) > limit).astype(np.float64)
    return columns


def _states(rng: np.random.Generator, columns: dict[str, Column]) -> dict[str, Column]:
    """Draw the hidden z-scores; both fall with age, bone is lower in women and under steroids."""
    decades = (columns["age"] - 70.0) / 8.0
    shared, own_bone, own_muscle = rng.standard_normal((3, len(decades)))
    steroid = columns["glucocorticoids"]
    bone = -0.40 * decades - 0.3 * (columns["female"] - 0.69) - 0.3 * steroid
    muscle = -0.35 * decades - 0.2 * steroid + 0.03 * (columns["bmi"] - 23.6)
    return {
        "bone_z": np.clip(bone + 0.25 * shared + 0.85 * own_bone, -3.0, 3.0),
        "muscle_z": np.clip(muscle + 0.25 * shared + 0.85 * own_muscle, -3.0, 3.0),
    }


def _shown(
    rng: np.random.Generator, columns: dict[str, Column], look: Appearance
) -> dict[str, Column]:
    """Turn z-scores into what the image shows, each with a part that the state does not explain."""
    bone, muscle = columns["bone_z"], columns["muscle_z"]
    own = UNEXPLAINED * rng.standard_normal((7, len(bone)))
    limits = {
        "trabecular_hu": (bone, 45.0, 260.0),
        "cortex_mm": (bone, 0.3, 1.2),
        "texture": (bone, 0.05, 0.30),
        "erector_scale": (muscle, 0.6, 1.4),
        "psoas_scale": (muscle, 0.6, 1.5),
        "fat_fraction": (muscle, 0.02, 0.5),
        "lean_hu": (muscle, 40.0, 75.0),
    }
    shown = {}
    for (name, (state, low, high)), part in zip(limits.items(), own, strict=True):
        mean, change = getattr(look, name)
        shown[name] = np.clip(mean + change * (state + part), low, high)
    return shown


def _matched_sample(
    rng: np.random.Generator, pool: dict[str, Column], count: int, loose: Looseness | None
) -> Rows:
    """Return the rows of the cases and of as many controls, or a few fewer or one more.

    Of ``count`` patients the study's share are cases (608 of 1,214; one half of smaller numbers).
    A control is the nearest free person of the same sex in age and BMI, sought near the case's own
    (:class:`~monai_vfx.simulation.populations.Looseness`).
    """
    if loose is None:
        raise ValueError("population: has no matching; draw everyone")
    cases = np.flatnonzero(pool["fracture"] == 1)[: count * STUDY_CASES // STUDY_SIZE]
    others = np.flatnonzero(pool["fracture"] == 0)

    def place(age: Column, bmi: Column, female: Column) -> Column:
        return np.stack([age / 8.0, bmi / 3.5, 1e3 * female], axis=1)

    at = place(pool["age"][others], pool["bmi"][others], pool["female"][others])
    seeking = cases[: count - len(cases)]
    wanted = place(*_sought(rng, pool, seeking, loose), pool["female"][seeking])
    nearest: Rows = KDTree(at).query(wanted, k=min(_NEAREST, len(others)))[1]  # type: ignore[assignment]
    free = np.ones(len(others), dtype=np.bool_)
    chosen = np.zeros(len(seeking), dtype=np.int64)
    for row, candidates in enumerate(nearest):
        open_ones = candidates[free[candidates]]
        if open_ones.size == 0:  # all near ones are taken: look at everyone who is left
            left = np.flatnonzero(free)
            gaps = ((at[left] - wanted[row]) ** 2).sum(axis=1)
            open_ones = left[[int(np.argmin(gaps))]]
        chosen[row] = open_ones[0]
        free[chosen[row]] = False
    spare = others[np.flatnonzero(free)[: count - len(cases) - len(seeking)]]
    return np.concatenate([cases, others[chosen], spare])


def _sought(
    rng: np.random.Generator, pool: dict[str, Column], cases: Rows, loose: Looseness
) -> tuple[Column, Column]:
    """Return the age and BMI at which each case's control is sought."""
    errors = rng.standard_normal((2, len(cases)))
    ages, share = age_quantiles(*loose.case_age, AGE_LIMITS)
    rank = np.interp(pool["age"][cases], ages, share)
    score = loose.correlation * ndtri(np.clip(rank, 1e-4, 1 - 1e-4))
    score = score + np.sqrt(1 - loose.correlation**2) * errors[0]
    ages, share = age_quantiles(*loose.control_age, AGE_LIMITS)
    return np.interp(ndtr(score), share, ages), pool["bmi"][cases] + loose.bmi_sd * errors[1]
