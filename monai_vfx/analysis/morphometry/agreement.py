"""How well two readings of the same vertebrae agree: statuses, grades, heights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.evaluation.agreement import (
    LimitsOfAgreement,
    intraclass_correlation,
    limits_of_agreement,
    weighted_kappa,
)
from monai_vfx.analysis.evaluation.estimates import CONFIDENCE, Estimate
from monai_vfx.analysis.morphometry.ratios import HEIGHTS
from monai_vfx.analysis.morphometry.rules import FRACTURED, GRADES, NORMAL, NOT_ASSESSABLE
from monai_vfx.core.arrays import Json


def reader_agreement(first: pd.DataFrame, second: pd.DataFrame) -> Json:
    """Compare two readings, vertebra by vertebra T12-L4.

    Args:
        first: of :func:`monai_vfx.analysis.morphometry.rules.classify`.
        second: likewise, by another reader or from a mask.

    Returns:
        ``vertebrae`` (in both tables), ``cases``, ``only_first`` and ``only_second`` (cases);
        ``fracture``: kappa of fractured against normal; ``grade``: quadratic weighted kappa of
        grades 0-3, each with n and ``left_out``, the vertebrae that one of the two could not
        assess; for each height the ICC(2,1) and the limits of agreement (first minus second, mm)
        with n. Intervals are 95 % and take vertebrae as independent, although those of a patient
        are not. What has no value is null with a ``note``.
    """
    key = ["case_id", "level"]
    both = first.merge(second, on=key, how="inner", suffixes=("_1", "_2"), validate="one_to_one")
    one, two = set(first["case_id"]), set(second["case_id"])
    document: Json = {
        "vertebrae": len(both),
        "cases": len(one & two),
        "only_first": len(one - two),
        "only_second": len(two - one),
    }
    assessed = both[(both["status_1"] != NOT_ASSESSABLE) & (both["status_2"] != NOT_ASSESSABLE)]
    document["fracture"] = _entry(
        len(both) - len(assessed),
        lambda: weighted_kappa(
            list(assessed["status_1"]),
            list(assessed["status_2"]),
            categories=[NORMAL, FRACTURED],
        ),
    )
    graded = both[both["grade_1"].notna() & both["grade_2"].notna()]
    document["grade"] = _entry(
        len(both) - len(graded),
        lambda: weighted_kappa(
            list(graded["grade_1"].astype(int)),
            list(graded["grade_2"].astype(int)),
            categories=GRADES,
        ),
    )
    document["heights"] = {}
    for name in HEIGHTS:
        pair = both[[f"{name}_1", f"{name}_2"]].dropna().to_numpy()
        left_out = len(both) - len(pair)
        document["heights"][name] = {
            "icc": _entry(left_out, partial(_correlation, pair)),
            "limits_mm": _entry(left_out, partial(limits_of_agreement, pair[:, 0], pair[:, 1])),
        }
    return document


def _correlation(pair: npt.NDArray[np.float64]) -> Estimate:
    if len(pair) and np.ptp(pair.mean(axis=1)) < 1e-9:
        raise ValueError("the vertebrae do not differ in height; a correlation has no value")
    return intraclass_correlation(pair)


def _entry(left_out: int, compute: Callable[[], Estimate | LimitsOfAgreement]) -> Json:
    """Return a coefficient as JSON; null with a note where it has no value."""
    try:
        found = compute()
    except ValueError as error:
        return {"value": None, "note": str(error), "left_out": left_out}
    if isinstance(found, Estimate):
        facts = {"value": found.value, "ci_low": found.low, "ci_high": found.high, "n": found.n}
    else:
        facts = asdict(found)
    plain = {name: _plain(cell) for name, cell in facts.items()}
    return plain | {"confidence": CONFIDENCE, "left_out": left_out}


def _plain(cell: Any) -> Any:
    """Return a number or an interval as JSON has it: null for what is not finite."""
    if isinstance(cell, tuple):
        return [_plain(part) for part in cell]
    return None if isinstance(cell, float) and not isfinite(cell) else cell
