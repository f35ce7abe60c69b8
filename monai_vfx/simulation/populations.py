"""The settings behind simulated patients: who they are, what raises their risk, how it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Hospital = Literal["development", "external", "registry"]
Signal = Literal["paper", "strong"]

AGE_LIMITS = (50.0, 80.0)
"""Eligible ages in years, as in the study."""


@dataclass(frozen=True)
class Population:
    """The people from whom a hospital's patients are drawn.

    Args:
        age_location: location of the normal distribution truncated to :data:`AGE_LIMITS`, years.
        age_scale: its scale, years.
        female: share of women.
        smoker: share among women and among men; ``drinker`` likewise.
        glucocorticoids: share; the following likewise.
        prevalence: five-year fracture risk, mean of the population.
        matched: sample cases and matched controls one to one (development) or everyone.
        prefix: first letter of the cases' names.
        scan_dates: first and last day of the CTs.
        registry: whether some rows break the eligibility rules and some patients come twice.
        age_limits: years; patients are drawn within them.
    """

    age_location: float
    age_scale: float
    female: float
    smoker: tuple[float, float]
    drinker: tuple[float, float]
    glucocorticoids: float
    secondary_osteoporosis: float
    prevalence: float
    matched: bool
    prefix: str
    scan_dates: tuple[str, str]
    registry: bool = False
    age_limits: tuple[float, float] = AGE_LIMITS
    type2_diabetes: float = 0.22
    hiv: float = 0.003
    hepatitis_c: float = 0.02
    renal_failure: float = 0.06


POPULATIONS: dict[Hospital, Population] = {
    "development": Population(
        age_location=75.0,
        age_scale=16.0,
        female=0.70,
        smoker=(0.075, 0.44),
        drinker=(0.085, 0.41),
        glucocorticoids=0.078,
        secondary_osteoporosis=0.074,
        prevalence=0.0374,
        matched=True,
        prefix="D",
        scan_dates=("2010-01-01", "2019-12-31"),
    ),
    "external": Population(
        age_location=79.0,
        age_scale=21.0,
        female=0.788,
        smoker=(0.015, 0.21),
        drinker=(0.02, 0.25),
        glucocorticoids=0.115,
        secondary_osteoporosis=0.032,
        prevalence=0.123,
        matched=False,
        prefix="E",
        scan_dates=("2012-01-01", "2013-12-31"),
    ),
    # The development hospital before any selection, with more fractures than in life so that a
    # couple of hundred CTs hold enough of them; some ages lie outside the eligible ones.
    "registry": Population(
        age_location=66.5,
        age_scale=8.0,
        female=0.70,
        smoker=(0.075, 0.44),
        drinker=(0.085, 0.41),
        glucocorticoids=0.078,
        secondary_osteoporosis=0.074,
        prevalence=0.25,
        matched=False,
        prefix="R",
        scan_dates=("2010-01-01", "2019-12-31"),
        registry=True,
        age_limits=(42.0, 90.0),
    ),
}


@dataclass(frozen=True)
class RiskModel:
    """Coefficients of the log odds of a fracture within five years.

    The binary coefficients are near the log odds ratios of the study's Table 2 (steroids act on
    bone and muscle as well). Bone and muscle act per unit of their z-score, age per 8 years
    above 70.
    """

    bone: float
    muscle: float
    age: float = 0.2
    smoker: float = 0.60
    drinker: float = 0.10
    glucocorticoids: float = 0.75
    secondary_osteoporosis: float = 0.65


RISK_MODELS: dict[Signal, RiskModel] = {
    "paper": RiskModel(bone=-0.73, muscle=-0.82),
    "strong": RiskModel(bone=-1.65, muscle=-1.70),
}
"""Signal strength → risk model; the attainable AUROC of each is in ``docs/simulation.md``."""


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


APPEARANCES: dict[Signal, Appearance] = {
    "paper": Appearance(
        trabecular_hu=(138.0, 30.0),
        cortex_mm=(0.65, 0.10),
        texture=(0.15, -0.025),
        erector_scale=(1.0, 0.09),
        psoas_scale=(1.0, 0.10),
        fat_fraction=(0.16, -0.055),
        lean_hu=(58.0, 3.0),
    ),
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
