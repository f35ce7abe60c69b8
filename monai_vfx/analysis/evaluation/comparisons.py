"""Comparisons of two scores of the same patients: AUROCs by DeLong, decisions by McNemar.

Sources: McNemar 1947, in the exact binomial form; Holm 1979 for several comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from monai_vfx.analysis.evaluation.discrimination import DelongTest
from monai_vfx.analysis.evaluation.estimates import (
    QUANTILE,
    check_calls,
    check_outcome,
)
from monai_vfx.core.arrays import Json


@dataclass(frozen=True)
class McnemarTest:
    """Two decisions about the same patients, compared (two-sided, exact).

    Args:
        quantity: ``accuracy`` (all patients count), ``sensitivity`` (those with a fracture) or
            ``specificity`` (those without).
        n: these patients.
        only_a: patients whom only the first decision calls rightly.
        only_b: patients whom only the second calls rightly.
        p: in (0, 1]; 1 when the two are never right apart.
    """

    quantity: str
    n: int
    only_a: int
    only_b: int
    p: float


def mcnemar_tests(
    y: npt.ArrayLike, positive_a: npt.ArrayLike, positive_b: npt.ArrayLike
) -> list[McnemarTest]:
    """Compare accuracy, sensitivity and specificity of two decisions.

    Under the null hypothesis each patient whom only one decision calls rightly is a fair coin.

    >>> tests = mcnemar_tests([1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 1, 0])
    >>> [(t.quantity, t.only_a, t.only_b, t.n, t.p) for t in tests][1]
    ('sensitivity', 3, 0, 4, 0.25)
    """
    outcome, calls = check_outcome(y, positive_a=positive_a, positive_b=positive_b)
    right_a, right_b = (called == outcome for called in check_calls(**calls))
    among = {"accuracy": np.ones_like(outcome), "sensitivity": outcome, "specificity": ~outcome}
    found = []
    for quantity, who in among.items():
        only_a = int((right_a & ~right_b & who).sum())
        only_b = int((right_b & ~right_a & who).sum())
        apart = only_a + only_b
        p = float(binomtest(only_a, apart, 0.5).pvalue) if apart else 1.0
        found.append(McnemarTest(quantity, int(who.sum()), only_a, only_b, p))
    return found


def difference_interval(test: DelongTest) -> tuple[float, float] | None:
    """Return DeLong's normal interval of the difference of two AUROCs.

    None where the variance estimate is zero although the AUROCs differ: the patients then give no
    measure of the uncertainty. Scores that rank all patients alike have the interval (0, 0).
    """
    if test.variance == 0 and test.difference != 0:
        return None
    half = QUANTILE * float(np.sqrt(test.variance))
    return max(-1.0, test.difference - half), min(1.0, test.difference + half)


def add_holm(tests: list[Json]) -> list[Json]:
    """Add ``p_holm`` to each test: its ``p`` corrected by Holm within its ``family``."""
    from statsmodels.stats.multitest import multipletests  # a second to import

    for family in dict.fromkeys(test["family"] for test in tests):
        members = [test for test in tests if test["family"] == family]
        corrected = multipletests([test["p"] for test in members], method="holm")[1]
        for test, p in zip(members, corrected, strict=True):
            test["p_holm"] = float(p)
    return tests
