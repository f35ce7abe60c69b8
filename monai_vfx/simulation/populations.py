"""State the settings behind simulated patients: who comes to a hospital, how their state shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import root

from monai_vfx.simulation.hazard import HAZARDS, Signal

Floats = npt.NDArray[np.float64]
Hospital = Literal["development", "external", "registry"]

AGE_LIMITS = (50.0, 80.0)  # Eligible ages in years, as in the study


@dataclass(frozen=True)
class Looseness:
    """How far matched controls differ from their cases.

    The study's controls are 0.9 years younger than the cases and spread less (72.0 ± 7.6 against
    72.9 ± 8.2): perfect matching would not leave that. Within 50-80 years these values alone would
    let age reach an AUROC of 0.59, so half of both differences is taken, which is within sampling
    error of the table. A control is sought at the age that has among the controls the rank of the
    case's among the cases, and the ranks of a pair correlate (Gaussian copula).
    """

    case_age: tuple[float, float]  # mean and SD of the cases, years; see age_quantiles
    control_age: tuple[float, float]  # likewise of their controls
    correlation: float  # of the normal scores of a pair's ages, below 1
    bmi_sd: float  # SD of the difference in BMI, kg/m²


@dataclass(frozen=True)
class Population:
    """The people from whom a hospital's patients are drawn."""

    age: tuple[float, float]  # mean and SD in years; see age_quantiles
    female: float  # share of women
    height_cm: tuple[float, float]  # mean height of women and of men
    bmi: tuple[float, float]  # mean and SD in kg/m²
    smoker: tuple[float, float]  # share among women and among men; the following likewise
    drinker: tuple[float, float]
    glucocorticoids: tuple[float, float]
    secondary_osteoporosis: tuple[float, float]
    prevalence: float  # five-year fracture risk, mean of the population
    prefix: str  # first letter of the cases' names
    scan_dates: tuple[str, str]  # first and last day of the CTs
    # of the matching of controls to cases, one to one; None samples everyone
    looseness: Looseness | None = None
    # whether some rows break the eligibility rules and some patients have two CTs
    unselected: bool = False
    age_limits: tuple[float, float] = AGE_LIMITS  # years; patients are drawn within them
    type2_diabetes: tuple[float, float] = (0.20, 0.26)
    hiv: tuple[float, float] = (0.001, 0.006)
    hepatitis_c: tuple[float, float] = (0.02, 0.02)
    renal_failure: tuple[float, float] = (0.05, 0.08)


POPULATIONS: dict[Hospital, Population] = {
    # Before sampling. benchmarks/proof/calibrate.py finds the numbers with which the sampled cases
    # and controls follow Table 2.
    "development": Population(
        age=(63.6, 10.44),
        female=0.642,
        height_cm=(153.75, 166.15),
        bmi=(24.25, 3.63),
        smoker=(0.0925, 0.496),
        drinker=(0.100, 0.455),
        glucocorticoids=(0.0855, 0.0855),
        secondary_osteoporosis=(0.0675, 0.0675),
        prevalence=0.0374,
        looseness=Looseness((72.7, 8.05), (72.2, 7.75), correlation=0.97, bmi_sd=0.3),
        prefix="D",
        scan_dates=("2010-01-01", "2019-12-31"),
    ),
    "external": Population(
        age=(67.6, 8.6),
        female=0.788,
        height_cm=(152.57, 164.97),
        bmi=(23.9, 3.6),
        smoker=(0.016, 0.2094),
        drinker=(0.022, 0.2437),
        glucocorticoids=(0.115, 0.115),
        secondary_osteoporosis=(0.032, 0.032),
        prevalence=0.123,
        prefix="E",
        scan_dates=("2012-01-01", "2013-12-31"),
    ),
    # The development hospital before any selection, with more fractures than in life so that a
    # couple of hundred CTs hold enough of them; some ages lie outside the eligible ones.
    "registry": Population(
        age=(66.5, 7.9),
        female=0.70,
        height_cm=(153.2, 165.6),
        bmi=(23.6, 3.5),
        smoker=(0.075, 0.44),
        drinker=(0.085, 0.41),
        glucocorticoids=(0.078, 0.078),
        secondary_osteoporosis=(0.074, 0.074),
        prevalence=0.25,
        prefix="R",
        scan_dates=("2010-01-01", "2019-12-31"),
        unselected=True,
        age_limits=(42.0, 90.0),
    ),
}


def check_choices(hospital: str, signal: str) -> None:
    """Raise ValueError for an unknown hospital or signal."""
    for what, value, known in (("hospital", hospital, POPULATIONS), ("signal", signal, HAZARDS)):
        if value not in known:
            raise ValueError(f"`{what}` must be one of {', '.join(known)}, got {value!r}")


HEIGHT_SD = 6.1
"""SD of the height within a sex, cm: with 12.4 cm between the sexes the tables' 7.9 and 8.4."""

FLAGS = (
    *("smoker", "drinker", "glucocorticoids", "secondary_osteoporosis", "type2_diabetes"),
    *("hiv", "hepatitis_c", "renal_failure"),
)
LATENT = ("female", "age", "height_cm", "bmi", *FLAGS)
"""Covariates of the Gaussian copula; each keeps its own distribution."""

_PAIRS: dict[tuple[str, str], float] = {
    ("age", "female"): 0.05,
    ("age", "height_cm"): -0.15,
    ("age", "bmi"): -0.08,
    ("age", "smoker"): -0.12,
    ("age", "drinker"): -0.12,
    ("age", "secondary_osteoporosis"): 0.10,
    ("age", "type2_diabetes"): 0.12,
    ("age", "hiv"): -0.10,
    ("age", "renal_failure"): 0.15,
    ("height_cm", "bmi"): -0.17,
    ("bmi", "type2_diabetes"): 0.20,
    ("smoker", "drinker"): 0.35,
    ("smoker", "hepatitis_c"): 0.10,
    ("drinker", "hepatitis_c"): 0.10,
    ("glucocorticoids", "secondary_osteoporosis"): 0.15,
    ("glucocorticoids", "renal_failure"): 0.10,
    ("type2_diabetes", "renal_failure"): 0.25,
}


def copula_correlation() -> Floats:
    """Return the correlation of the copula's normal variables, (12, 12) in :data:`LATENT`'s order.

    Height is that within a sex; smoking and drinking depend on sex by their shares. Height and BMI
    correlate by -0.17 because the tables' SD of weight (9.9 kg) is below the 10.7 kg that their
    independent height and BMI give.
    """
    matrix = np.eye(len(LATENT))
    for (one, other), value in _PAIRS.items():
        i, j = LATENT.index(one), LATENT.index(other)
        matrix[i, j] = matrix[j, i] = value
    return matrix


_GRID = 3001


@lru_cache(maxsize=64)
def age_quantiles(mean: float, sd: float, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return the distribution of ages between limits that has a mean and SD and is least committed.

    Of all densities on an interval with given mean and SD the one of greatest entropy is
    proportional to exp(p x + q x²) (Jaynes 1957; Dowson and Wragg 1973): a truncated normal for
    small SDs, and for the tables' (72.5 ± 7.9 within 50-80) one that rises to the older limit.

    Returns:
        Ages in years and their cumulative distribution, (3001,) each.

    >>> ages, share = age_quantiles(72.5, 7.9, (50.0, 80.0))
    >>> float(round(float(np.interp(0.5, share, ages)), 1))
    75.7
    """
    low, high = limits
    centre, half = (low + high) / 2, (high - low) / 2
    x = np.linspace(-1.0, 1.0, _GRID)
    target = np.array([(mean - centre) / half, (sd / half) ** 2])

    def density(parameters: Floats) -> Floats:
        exponent = parameters[0] * x + parameters[1] * x**2
        weight: Floats = np.exp(exponent - exponent.max())
        weight[[0, -1]] /= 2
        return np.asarray(weight / weight.sum())

    def miss(parameters: Floats) -> Floats:
        weight = density(parameters)
        average = float(weight @ x)
        return np.asarray([average, float(weight @ (x - average) ** 2)] - target)

    found = root(miss, np.array([0.0, 0.0]), tol=1e-10)
    if not found.success:
        raise ValueError(f"age: no distribution with {mean} ± {sd} years within {low}-{high}")
    weight = density(found.x)
    share = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    return centre + half * x, share / share[-1]


@dataclass(frozen=True)
class Appearance:
    """How the hidden z-scores show in the image: mean and change per unit of z."""

    trabecular_hu: tuple[float, float]
    cortex_mm: tuple[float, float]
    texture: tuple[float, float]
    erector_scale: tuple[float, float]
    psoas_scale: tuple[float, float]
    fat_fraction: tuple[float, float]
    lean_hu: tuple[float, float]


_USUAL = Appearance(
    trabecular_hu=(138.0, 30.0),
    cortex_mm=(0.65, 0.10),
    texture=(0.15, -0.025),
    erector_scale=(1.0, 0.09),
    psoas_scale=(1.0, 0.10),
    fat_fraction=(0.16, -0.055),
    lean_hu=(58.0, 3.0),
)

APPEARANCES: dict[Signal, Appearance] = {
    "paper": _USUAL,
    "no_muscle": _USUAL,
    "none": _USUAL,
    "strong": Appearance(
        trabecular_hu=(140.0, 40.0),
        cortex_mm=(0.65, 0.15),
        texture=(0.15, -0.03),
        erector_scale=(1.0, 0.12),
        psoas_scale=(1.0, 0.14),
        fat_fraction=(0.21, -0.10),
        lean_hu=(57.0, 5.0),
    ),
}

UNEXPLAINED = 0.25
"""SD of each shown quantity's own part, in z: what the hidden state does not explain."""
