"""How many patients a study of fracture prediction needs, and what it can afford with those it has.

Sources: Riley 2019 and 2020 (minimum sample size of a prediction model with a binary outcome,
three criteria); van Houwelingen and le Cessie 1990 (shrinkage); Riley 2021 (R² of Cox and Snell
from an AUROC); Hanley and McNeil 1982 (precision of an AUROC).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, log

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm

from monai_vfx.analysis.evaluation.estimates import QUANTILE
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

HALF_WIDTH = 0.05
"""Precision of an AUROC that an external set is planned for."""


@dataclass(frozen=True)
class MinimumSize:
    """Riley's minimum for developing a model.

    Args:
        shrinkage: patients so that the expected uniform shrinkage is at least the target.
        optimism: patients so that R² (Nagelkerke's scale) is optimistic by at most 0.05.
        overall_risk: patients so that the overall risk is known to within 0.05.
        n: the largest of the three.
        events: fractures expected among ``n``, rounded up.
        events_per_parameter: ``n`` times the prevalence, by parameter.
    """

    shrinkage: int
    optimism: int
    overall_risk: int
    n: int
    events: int
    events_per_parameter: float


def plan_study(
    parameters: int, prevalence: float, auroc: float, patients: int | None = None
) -> Json:
    """Return how many patients a study needs, and what those at hand allow.

    Args:
        parameters: candidate parameters of the model, at least 1.
        prevalence: share that fractures among the patients to be collected, in (0, 1).
        auroc: to be expected, above 0.5 and below 1.
        patients: at hand, at least 1.

    Returns:
        The settings with R² of Cox and Snell; ``development`` (:func:`minimum_size`); ``external``:
        ``n`` and ``events`` to know the AUROC to within ``half_width``; ``given``: ``events``,
        ``events_per_parameter`` and ``shrinkage`` to expect of the patients at hand, or None.

    Raises:
        SettingError: a value outside its range.

    >>> plan = plan_study(11, 608 / 16279, 0.75, 1214)
    >>> plan["development"]["n"], plan["external"]["n"], round(plan["given"]["events"])
    (3084, 3367, 45)
    """
    try:
        r_squared = cox_snell_r_squared(auroc, prevalence)
        need = minimum_size(parameters, prevalence, r_squared)
        judge = auroc_precision_size(auroc, prevalence, half_width=HALF_WIDTH)
        given: Json | None = None
        if patients is not None:
            events = patients * prevalence
            given = {"n": patients, "events": events}
            given["events_per_parameter"] = events_per_parameter(events, parameters)
            given["shrinkage"] = expected_shrinkage(patients, parameters, r_squared)
    except ValueError as error:
        raise SettingError(str(error)) from error
    external = {"n": judge, "events": ceil(judge * prevalence), "half_width": HALF_WIDTH}
    return {
        "parameters": parameters,
        "prevalence": prevalence,
        "auroc": auroc,
        "r_squared": r_squared,
        "development": asdict(need),
        "external": external,
        "given": given,
    }


def events_per_parameter(events: float, parameters: int) -> float:
    """Return fractures by candidate parameter (all that were tried, not only those kept).

    The paper's development set against its 11 variables of model D:

    >>> round(events_per_parameter(608, 11), 1)
    55.3
    """
    if events < 0 or parameters < 1:
        raise ValueError(
            f"events ({events}) must be 0 or more, parameters ({parameters}) 1 or more"
        )
    return events / parameters


def minimum_size(
    parameters: int, prevalence: float, r_squared: float, *, shrinkage: float = 0.9
) -> MinimumSize:
    """Return the patients needed to develop a model with a binary outcome (Riley 2020).

    With P parameters, prevalence φ, R² of Cox and Snell, target shrinkage S:

    1. n = P / ((S - 1) ln(1 - R² / S)).
    2. The same with S = R² / (R² + 0.05 R²max), R²max = 1 - (φ^φ (1 - φ)^(1 - φ))².
    3. n = (1.96 / 0.05)² φ (1 - φ).

    Args:
        parameters: candidate parameters, at least 1.
        prevalence: share that fractures in the sample to be collected, in (0, 1).
        r_squared: R² of Cox and Snell that can be expected, in (0, S); see
            :func:`cox_snell_r_squared`.
        shrinkage: target S, in (0, 1).

    The example of Riley's pmsampsize: 24 parameters, 17.4 % events, R² 0.288:

    >>> size = minimum_size(24, 0.174, 0.288)
    >>> size.shrinkage, size.optimism, size.overall_risk, size.n, size.events
    (623, 662, 221, 662, 116)
    """
    _check_share("prevalence", prevalence)
    _check_share("shrinkage", shrinkage)
    if parameters < 1:
        raise ValueError(f"parameters ({parameters}) must be at least 1")
    highest = 1 - (prevalence**prevalence * (1 - prevalence) ** (1 - prevalence)) ** 2
    if not 0 < r_squared < min(highest, shrinkage):
        raise ValueError(
            f"r_squared ({r_squared}) must lie between 0 and {min(highest, shrinkage):.4f}, "
            "the most that this prevalence and shrinkage allow"
        )
    first = _size_for_shrinkage(parameters, r_squared, shrinkage)
    second = _size_for_shrinkage(parameters, r_squared, r_squared / (r_squared + 0.05 * highest))
    third = ceil((QUANTILE / 0.05) ** 2 * prevalence * (1 - prevalence))
    n = max(first, second, third)
    return MinimumSize(first, second, third, n, ceil(n * prevalence), n * prevalence / parameters)


def expected_shrinkage(n: int, parameters: int, r_squared: float) -> float:
    """Return the uniform shrinkage to expect when a model is fitted on ``n`` patients.

    It solves criterion 1 of :func:`minimum_size` for S: the apparent likelihood ratio is
    -n ln(1 - R² / S), and S = 1 - P / likelihood ratio (van Houwelingen and le Cessie).

    >>> round(expected_shrinkage(623, 24, 0.288), 3)
    0.9
    """
    _check_share("r_squared", r_squared)
    if n < 1 or parameters < 1:
        raise ValueError(f"n ({n}) and parameters ({parameters}) must be at least 1")

    def excess(factor: float) -> float:
        return (1 - factor) * -n * log(1 - r_squared / factor) - parameters

    # It falls from infinity at S = R² to -P at S = 1, so there is one root.
    return float(brentq(excess, r_squared * (1 + 1e-12), 1.0, xtol=1e-12))


def cox_snell_r_squared(auroc: float, prevalence: float) -> float:
    """Return the R² of Cox and Snell of a calibrated model with this AUROC.

    Takes the linear predictor as normal with one SD in both classes (Riley 2021, there by
    simulation, here by quadrature): its mean difference is √2 Φ⁻¹(AUROC) SDs, and
    R² = 1 - exp(-2 × gain in log likelihood a patient).

    The paper's bone + muscle model in its external set:

    >>> round(cox_snell_r_squared(0.827, 61 / 495), 3)
    0.158
    """
    _check_share("prevalence", prevalence)
    if not 0.5 < auroc < 1:
        raise ValueError(f"auroc ({auroc}) must lie between 0.5 and 1")
    distance = np.sqrt(2) * norm.ppf(auroc)
    x = np.linspace(-12, 12 + distance, 20001)
    risk = expit(logit(prevalence) + distance * x - distance**2 / 2)
    healthy = (1 - prevalence) * norm.pdf(x) * np.log1p(-np.minimum(risk, 1 - 1e-16))
    sick = prevalence * norm.pdf(x - distance) * np.log(np.maximum(risk, 1e-300))
    without = prevalence * log(prevalence) + (1 - prevalence) * log(1 - prevalence)
    return float(-np.expm1(-2 * (np.trapezoid(healthy + sick, x) - without)))


def auroc_precision_size(auroc: float, prevalence: float, *, half_width: float = HALF_WIDTH) -> int:
    """Return the patients needed to know an AUROC to within ± ``half_width``.

    Hanley and McNeil's variance with φ n events and (1 - φ) n others, solved for n (a quadratic).

    The paper's external set of 495 knows its AUROC of 0.827 to within 0.065:

    >>> auroc_precision_size(0.827, 61 / 495, half_width=0.065)
    501
    """
    _check_share("auroc", auroc)
    _check_share("prevalence", prevalence)
    if not 0 < half_width < 0.5:
        raise ValueError(f"half_width ({half_width}) must lie between 0 and 0.5")
    two_events = auroc / (2 - auroc) - auroc**2
    two_others = 2 * auroc**2 / (1 + auroc) - auroc**2
    square = prevalence * (1 - prevalence) * (half_width / QUANTILE) ** 2
    linear = prevalence * two_events + (1 - prevalence) * two_others
    constant = auroc * (1 - auroc) - two_events - two_others
    root = float(np.sqrt(linear**2 + 4 * square * constant))
    return ceil((linear + root) / (2 * square))


def _size_for_shrinkage(parameters: int, r_squared: float, shrinkage: float) -> int:
    return ceil(parameters / ((shrinkage - 1) * log(1 - r_squared / shrinkage)))


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} ({value}) must lie between 0 and 1")
