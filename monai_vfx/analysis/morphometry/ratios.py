"""From heights to ratios: one row a vertebra T12-L4, with what is missing and why.

Four ratios (the study's): anterior to posterior height (wedge), middle to posterior
(biconcavity), and the posterior height against the vertebra's lower and upper neighbour (crush).
The study measures T11-L4, so L4 has no lower neighbour by design: for L4 the rule has three
ratios, and the fourth is not counted as missing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from monai_vfx.analysis.morphometry.heights import MEASURED
from monai_vfx.core.anatomy import LEVELS

RATIOS: dict[str, str] = {
    "wedge": "Ha/Hp",
    "biconcavity": "Hm/Hp",
    "crush_below": "Hp(i)/Hp(i+1)",
    "crush_above": "Hp(i)/Hp(i-1)",
}
"""Column → the ratio; i + 1 is the lower neighbour, i - 1 the upper."""
HEIGHTS: tuple[str, ...] = ("anterior_mm", "middle_mm", "posterior_mm")
"""Columns of heights."""


def ratios_of(level: str) -> tuple[str, ...]:
    """Return the ratios that the rule has for a level.

    >>> ratios_of("L4")
    ('wedge', 'biconcavity', 'crush_above')
    """
    return tuple(name for name in RATIOS if not (name == "crush_below" and level == LEVELS[-1]))


def add_ratios(heights: pd.DataFrame) -> pd.DataFrame:
    """Return one row a case and level T12-L4 with its heights and ratios.

    Args:
        heights: of :func:`.readings.read_heights`: ``case_id``, ``level`` (T11 for its posterior
            height), heights in mm, NaN or no row where not measured; optionally ``sex``.

    Returns:
        Cases in the order of their first row, each with five rows, cranial to caudal: ``case_id``,
        ``sex`` (NaN where not known), ``level``, the heights and the four ratios; NaN where one
        of its heights is missing.

    >>> rows = [("a", level, 24.0, 25.0, 30.0) for level in ("T12", "L1")]
    >>> table = add_ratios(pd.DataFrame(rows, columns=["case_id", "level", *HEIGHTS]))
    >>> table.loc[:1, ["wedge", "crush_below", "crush_above"]].to_numpy().tolist()
    [[0.8, 1.0, nan], [0.8, nan, 1.0]]
    """
    cases = list(dict.fromkeys(heights["case_id"]))
    grid = pd.MultiIndex.from_product([cases, MEASURED], names=["case_id", "level"])
    columns = list(HEIGHTS)
    values = heights.set_index(["case_id", "level"])[columns].astype(np.float64).reindex(grid)
    cube = values.to_numpy().reshape(len(cases), len(MEASURED), 3)
    own, posterior = cube[:, 1:], cube[:, :, 2]
    below = np.full(own.shape[:2], np.nan)
    below[:, :-1] = posterior[:, 2:]
    ratios = {
        "wedge": own[:, :, 0] / own[:, :, 2],
        "biconcavity": own[:, :, 1] / own[:, :, 2],
        "crush_below": own[:, :, 2] / below,
        "crush_above": own[:, :, 2] / posterior[:, :-1],
    }
    sexes: pd.Series[str] = (
        heights.groupby("case_id", sort=False)["sex"].first()
        if "sex" in heights
        else pd.Series(np.nan, index=cases, dtype=object)
    )
    frame = pd.DataFrame(
        {
            "case_id": np.repeat(np.array(cases, dtype=object), len(LEVELS)),
            "sex": np.repeat(sexes.reindex(cases).to_numpy(dtype=object), len(LEVELS)),
            "level": np.tile(np.array(LEVELS, dtype=object), len(cases)),
            **{name: own[:, :, place].ravel() for place, name in enumerate(columns)},
            **{name: cells.ravel() for name, cells in ratios.items()},
        }
    )
    frame["sex"] = frame["sex"].where(frame["sex"].notna(), np.nan)
    return frame
