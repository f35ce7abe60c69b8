"""Two scores of the same patients, compared: AUROC by DeLong, decisions by McNemar's exact test.

Sources: McNemar 1947, in the exact binomial form; Holm 1979 for several comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from monai_vfx.analysis.evaluation.discrimination import (
    DelongTest,
    Floats,
    _quantile,
    check_outcome,
)

Quantity = Literal["accuracy", "sensitivity", "specificity"]
QUANTITIES: tuple[Quantity, ...] = ("accuracy", "sensitivity", "specificity")


@dataclass(frozen=True)
class McnemarTest:
    """Two decisions about the same patients, compared (two-sided, exact).

    Args:
        quantity: which patients count: all, those with or those without a fracture.
        n: these patients.
        only_a: patients whom only the first decision calls rightly.
        only_b: patients whom only the second calls rightly.
        p: in (0, 1]; 1 when the two are never right apart.
    """

    quantity: Quantity
    n: int
    only_a: int
    only_b: int
    p: float


def mcnemar_tests(
    y: npt.ArrayLike, positive_a: npt.ArrayLike, positive_b: npt.ArrayLike
) -> list[McnemarTest]:
    """Compare accuracy, sensitivity and specificity of two decisions.

    Under the null hypothesis each patient whom only one decision calls rightly is a fair coin.

    Args:
        y: (n,), 0 or 1, both present.
        positive_a: (n,), 0 or 1: whether the first decision calls the patient positive.
        positive_b: (n,), likewise, of the same patients in the same order.

    Raises:
        ValueError: on anything ``check_outcome`` rejects, or another value than 0 and 1.

    >>> tests = mcnemar_tests([1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 1, 0])
    >>> [(t.quantity, t.only_a, t.only_b, t.n, t.p) for t in tests][1]
    ('sensitivity', 3, 0, 4, 0.25)
    """
    outcome, calls = check_outcome(y, positive_a=positive_a, positive_b=positive_b)
    for name, called in calls.items():
        if not np.isin(called, (0.0, 1.0)).all():
            raise ValueError(f"{name} must hold 0 and 1 only")
    right_a, right_b = ((calls[name] == 1) == outcome for name in ("positive_a", "positive_b"))
    among = {"accuracy": np.ones_like(outcome), "sensitivity": outcome, "specificity": ~outcome}
    found = []
    for quantity in QUANTITIES:
        who = among[quantity]
        only_a, only_b = (
            int((right_a & ~right_b & who).sum()),
            int((right_b & ~right_a & who).sum()),
        )
        apart = only_a + only_b
        p = float(binomtest(only_a, apart, 0.5).pvalue) if apart else 1.0
        found.append(McnemarTest(quantity, int(who.sum()), only_a, only_b, p))
    return found


def difference_interval(
    test: DelongTest, *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return DeLong's normal interval of the difference of two AUROCs.

    None where the variance estimate is zero although the AUROCs differ: the patients then give no
    measure of the uncertainty. Scores that rank all patients alike have the interval (0, 0).
    """
    if test.variance == 0 and test.difference != 0:
        return None
    half = _quantile(confidence) * float(np.sqrt(test.variance))
    return max(-1.0, test.difference - half), min(1.0, test.difference + half)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values of one family, in the order given.

    Args:
        p: each in [0, 1].

    Raises:
        ValueError: on a value that is no p-value.

    >>> [round(value, 6) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    values: Floats = np.asarray(p, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p must hold values in [0, 1]")
    order = np.argsort(values, kind="stable")
    factors = np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return [float(value) for value in adjusted]
