"""The stated hazard of a vertebral fracture: what raises it, by how much, and the five-year risk.

Nobody analysed fractures in the first year after the CT (the study excludes them), so the yearly
hazard of patient i acts in years one to five, and is constant there (proportional hazards):

    h_i = h_0 exp(eta_i),    five-year risk = 1 - exp(-4 h_i)

eta is the sum of coefficient × (value - centre) / unit over :data:`UNITS`. The image's terms are
what the CT shows, not the hidden states behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

Signal = Literal["paper", "strong", "no_muscle", "none"]
Column = npt.NDArray[np.float64]

FIRST_YEAR, LAST_YEAR = 1.0, 5.0  # Years after the CT between which fractures happen

UNITS: dict[str, tuple[float, float]] = {
    "age": (70.0, 8.0),
    "female": (0.0, 1.0),
    "bmi": (23.6, 3.5),
    "smoker": (0.0, 1.0),
    "drinker": (0.0, 1.0),
    "glucocorticoids": (0.0, 1.0),
    "secondary_osteoporosis": (0.0, 1.0),
    "trabecular_hu": (138.0, 30.0),
    "texture": (0.15, 0.025),
    "cortex_mm": (0.65, 0.10),
    "erector_scale": (1.0, 0.09),
    "fat_fraction": (0.16, 0.055),
}
"""Term → centre and unit: years, kg/m², HU, share of the attenuation, mm, relative area, share."""

BONE_TERMS = ("trabecular_hu", "texture", "cortex_mm")  # Terms that the vertebral bodies show
MUSCLE_TERMS = ("erector_scale", "fat_fraction")  # Terms that the paravertebral muscle shows


@dataclass(frozen=True)
class Hazard:
    """Log hazard ratios, each per unit of :data:`UNITS` (a flag: present against absent).

    The image's terms are described at :class:`~monai_vfx.simulation.patients.Patient`.
    """

    age: float
    female: float
    bmi: float
    smoker: float
    drinker: float
    glucocorticoids: float
    secondary_osteoporosis: float
    trabecular_hu: float
    texture: float
    cortex_mm: float
    erector_scale: float
    fat_fraction: float


def image_terms(bone: float, muscle: float) -> dict[str, float]:
    """Return the image's coefficients for an effect of all bone and all muscle terms together.

    The attenuation carries 0.6 of bone's effect, texture and cortex 0.2 each; area carries 0.45 of
    muscle's, fat 0.55.

    >>> image_terms(1.0, 0.0)["trabecular_hu"], image_terms(0.0, 1.0)["fat_fraction"]
    (-0.6, 0.55)
    """
    return {
        "trabecular_hu": -0.6 * bone,
        "texture": 0.2 * bone,
        "cortex_mm": -0.2 * bone,
        "erector_scale": -0.45 * muscle,
        "fat_fraction": 0.55 * muscle,
    }


def log_hazard(
    columns: Mapping[str, Column], hazard: Hazard, terms: Collection[str] | None = None
) -> Column:
    """Return eta (n,) of columns (n,), or the sum of some of its terms.

    >>> people = {"trabecular_hu": np.array([138.0, 108.0])}
    >>> log_hazard(people, replace(HAZARDS["none"], trabecular_hu=-0.5), ["trabecular_hu"]).tolist()
    [0.0, 0.5]
    """
    coefficients = asdict(hazard)
    names = list(UNITS) if terms is None else list(terms)
    total = np.zeros(len(np.asarray(columns[names[0]])))
    for name in names:
        centre, unit = UNITS[name]
        total = total + coefficients[name] * (columns[name] - centre) / unit
    return total


def five_year_risk(eta: Column, yearly: float) -> Column:
    """Return the probabilities (n,) of a fracture within five years; ``yearly`` is h_0.

    >>> float(round(five_year_risk(np.array([0.0]), 0.01)[0], 4))
    0.0392
    """
    return -np.expm1(-(LAST_YEAR - FIRST_YEAR) * yearly * np.exp(eta))


def yearly_baseline(eta: Column, mean_risk: float) -> float:
    """Return the baseline hazard h_0 per year that gives a population a mean five-year risk."""

    def excess(logarithm: float) -> float:
        return float(five_year_risk(eta, float(np.exp(logarithm))).mean()) - mean_risk

    return float(np.exp(brentq(excess, -25.0, 15.0)))


def fracture_times(risk: Column, unit: Column) -> Column:
    """Return when fractures happen, years after the CT, by inverting the cumulative hazard.

    Risks (n,) are five-year ones above 0, ``unit`` (n,) are uniform draws from [0, 1).

    >>> fracture_times(np.array([0.5, 0.5]), np.array([0.0, 0.5])).round(2).tolist()
    [1.0, 2.66]
    """
    risk = np.minimum(risk, 1 - 1e-12)  # a certain fracture still takes its time
    share = np.log1p(-unit * risk) / np.log1p(-risk)
    return FIRST_YEAR + (LAST_YEAR - FIRST_YEAR) * share


_PAPER = Hazard(
    age=0.20,
    female=0.20,
    bmi=-0.05,
    smoker=0.67,
    drinker=-0.02,
    glucocorticoids=0.66,
    secondary_osteoporosis=0.52,
    **image_terms(bone=0.84, muscle=0.83),
)

HAZARDS: dict[Signal, Hazard] = {
    "paper": _PAPER,
    "strong": replace(_PAPER, **image_terms(bone=1.24, muscle=0.96)),
    "no_muscle": replace(_PAPER, **image_terms(bone=0.84, muscle=0.0)),
    "none": replace(_PAPER, **image_terms(bone=0.0, muscle=0.0)),
}
"""Signal → hazard. ``benchmarks/proof/calibrate.py`` finds the numbers and prints them.

``paper``'s flags reproduce Table 2's shares and its image terms reach the AUROC stated in
``docs/simulation.md``; ``strong`` plants a signal that a quick demonstration finds. In
``no_muscle`` muscle has no effect, in ``none`` nothing that the image shows has one (it still tells
something of age and steroids, which bone and muscle follow).
"""
