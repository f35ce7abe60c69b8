"""The verdict on a vertebra and on a patient: fractured, normal, or not assessable.

* A vertebra is *fractured* when any of its ratios lies below its cut, whatever else is missing.
* It is *normal* when all its ratios are there and none lies below its cut.
* Otherwise it is *not assessable*: what was not measured may be the fracture.

A patient likewise, over T12-L4. A crushed neighbour makes a neighbour's ratio larger, never
smaller: it cannot make a fracture, but two crushed neighbours can hide each other's crush.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.morphometry.normals import CUT_SD, NormalValues
from monai_vfx.analysis.morphometry.ratios import RATIOS, ratios_of

Floats = npt.NDArray[np.float64]

FRACTURED, NORMAL, NOT_ASSESSABLE = "fractured", "normal", "not_assessable"
STATUSES = (NORMAL, FRACTURED, NOT_ASSESSABLE)
_OUTCOME = {FRACTURED: 1.0, NORMAL: 0.0}
GRADES = (0, 1, 2, 3)
"""Genant's grades: none, mild, moderate, severe."""
GRADE_LOSS = (0.20, 0.25, 0.40)
"""Loss of height from which a vertebra is mild and moderate, and beyond which it is severe."""


def genant_grade(ratio: float) -> int:
    """Return the grade of the loss that a ratio shows.

    The semiquantitative method is visual; here the loss is 1 - ratio, of the lowest ratio: against
    the posterior height, or for the posterior height against a neighbour's.

    >>> [genant_grade(ratio) for ratio in (0.81, 0.80, 0.75, 0.60, 0.59)]
    [0, 1, 2, 2, 3]
    """
    loss = round(1.0 - ratio, 9)  # 1 - 0.8 is a little less than 0.2
    return int(loss >= GRADE_LOSS[0]) + int(loss >= GRADE_LOSS[1]) + int(loss > GRADE_LOSS[2])


def classify(ratios: pd.DataFrame, normal: NormalValues) -> pd.DataFrame:
    """Give each vertebra its status.

    Args:
        ratios: of :func:`monai_vfx.analysis.morphometry.ratios.add_ratios`.
        normal: what counts as normal.

    Returns:
        The same rows with further columns: ``z_wedge`` … (SD from the mean, NaN with ``genant``),
        ``normal_group`` (whose normal values counted: ``F``, ``M`` or ``all``), ``below`` (ratios
        below their cuts, joined by ``;``), ``missing`` (ratios not assessable, likewise),
        ``grade`` (0-3 from the ratios there are; NaN where it would be 0 with one missing) and
        ``status``.
    """
    frame = ratios.reset_index(drop=True).copy()
    frame["normal_group"] = frame["sex"].map(normal.group) if normal.values else "all"
    keys = list(zip(frame["normal_group"], frame["level"], strict=True))
    below = pd.DataFrame(False, index=frame.index, columns=list(RATIOS))
    missing = below.copy()
    grades = pd.DataFrame(np.nan, index=frame.index, columns=list(RATIOS))
    for name in RATIOS:
        ratio = frame[name].to_numpy(np.float64)
        mean, sd = _reference(normal, keys, name)
        frame[f"z_{name}"] = (ratio - mean) / sd
        grades[name] = [np.nan if np.isnan(r) else genant_grade(r) for r in ratio]
        low = ratio < mean - CUT_SD * sd
        below[name] = grades[name] >= 1 if normal.source == "genant" else low
        expected = np.array([name in ratios_of(level) for level in frame["level"]])
        missing[name] = np.isnan(ratio) & expected
    frame["below"], frame["missing"] = _joined(below), _joined(missing)
    grade = grades.max(axis=1)
    frame["grade"] = grade.where((grade >= 1) | ~missing.any(axis=1))
    frame["status"] = np.where(
        below.any(axis=1), FRACTURED, np.where(missing.any(axis=1), NOT_ASSESSABLE, NORMAL)
    )
    return frame


def _reference(
    normal: NormalValues, keys: list[tuple[str, str]], ratio: str
) -> tuple[Floats, Floats]:
    """Return means and SDs for each row, NaN where there are none."""
    found = [normal.values.get((group, level, ratio)) for group, level in keys]
    mean = np.array([value.mean if value else np.nan for value in found], np.float64)
    sd = np.array([value.sd if value else np.nan for value in found], np.float64)
    return mean, sd


def _joined(flags: pd.DataFrame) -> list[str]:
    names = list(flags.columns)
    return [
        ";".join(name for name, flag in zip(names, row, strict=True) if flag)
        for row in flags.to_numpy()
    ]


def patient_statuses(vertebrae: pd.DataFrame) -> pd.DataFrame:
    """Sum up the vertebrae of each patient.

    Args:
        vertebrae: of :func:`classify`.

    Returns:
        One row a case: ``case_id``, ``sex``, ``status``, ``fracture`` (1, 0, NaN where not
        assessable), ``fractured_levels`` and ``not_assessable_levels`` (joined by ``;``) and
        ``worst_grade``.
    """
    rows = []
    names = ("level", "status", "sex", "grade")
    for case, body in _by_case(vertebrae, names):
        of_status: dict[str, list[str]] = {status: [] for status in STATUSES}
        for level, status, _, _ in body:
            of_status[status].append(level)
        status = overall([row[1] for row in body])
        grades = [row[3] for row in body if not np.isnan(row[3])]
        rows.append(
            {
                "case_id": case,
                "sex": body[0][2],
                "status": status,
                "fracture": _OUTCOME.get(status, np.nan),
                "fractured_levels": ";".join(of_status[FRACTURED]),
                "not_assessable_levels": ";".join(of_status[NOT_ASSESSABLE]),
                "worst_grade": max(grades, default=np.nan),
            }
        )
    return pd.DataFrame(rows)


def _by_case(frame: pd.DataFrame, names: tuple[str, ...]) -> list[tuple[str, list[Any]]]:
    """Return each case with its rows as tuples, in order: thousands of groups take no time."""
    found: dict[str, list[Any]] = {}
    cells = zip(*(frame[name].tolist() for name in names), strict=True)
    for case, row in zip(frame["case_id"].tolist(), cells, strict=True):
        found.setdefault(case, []).append(row)
    return list(found.items())


def overall(statuses: list[str]) -> str:
    """Return what several vertebrae make together.

    >>> overall(["normal", "not_assessable"]), overall(["fractured", "not_assessable"])
    ('not_assessable', 'fractured')
    """
    if FRACTURED in statuses:
        return FRACTURED
    return NOT_ASSESSABLE if NOT_ASSESSABLE in statuses else NORMAL


def incident_fractures(
    baseline: pd.DataFrame, follow_up: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the new fractures between two readings.

    Level by level: a fracture at follow-up of a vertebra that was normal at baseline is *new*; a
    vertebra that is normal at follow-up has *none*; one fractured at baseline is *prevalent* and
    cannot fracture anew; anything else is *not_assessable*. A patient with a new fracture has the
    outcome 1, one with only *none* and *prevalent* 0; otherwise it is not known.

    Args:
        baseline: of :func:`classify`, the first reading.
        follow_up: likewise, the second; its cases are judged. One without a baseline is not
            assessable unless all is normal.

    Returns:
        Vertebrae of ``follow_up`` with ``baseline_status`` and ``incident``; one row a case with
        ``case_id``, ``baseline_fracture``, ``incident_fracture`` (1, 0, NaN) and ``new_levels``.
    """
    key = ["case_id", "level"]
    before = baseline[[*key, "status"]].rename(columns={"status": "baseline_status"})
    frame = follow_up.merge(before, on=key, how="left", sort=False, validate="one_to_one")
    first = frame["baseline_status"].fillna(NOT_ASSESSABLE)
    frame["baseline_status"] = first
    now = frame["status"]
    frame["incident"] = np.select(
        [first == FRACTURED, now == NORMAL, (now == FRACTURED) & (first == NORMAL)],
        ["prevalent", "none", "new"],
        NOT_ASSESSABLE,
    )
    rows = []
    for case, body in _by_case(frame, ("level", "incident", "baseline_status")):
        kinds = {row[1] for row in body}
        known = 1.0 if "new" in kinds else np.nan if NOT_ASSESSABLE in kinds else 0.0
        rows.append(
            {
                "case_id": case,
                "baseline_fracture": _OUTCOME.get(overall([row[2] for row in body]), np.nan),
                "incident_fracture": known,
                "new_levels": ";".join(row[0] for row in body if row[1] == "new"),
            }
        )
    return frame, pd.DataFrame(rows)
