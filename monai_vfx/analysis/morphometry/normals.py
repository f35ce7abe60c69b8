"""Normal values of the ratios: fitted on people without fracture, or a preset.

A vertebra is fractured when a ratio lies below the mean of its level minus 3 SD. Means and SDs
are fitted by level, ratio and, where both sexes are many enough, by sex. People without a known
fracture still hold some: values far off are trimmed again and again until none is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.morphometry.ratios import RATIOS, ratios_of
from monai_vfx.core.anatomy import LEVELS
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json
from monai_vfx.core.schemas import violations

CUT_SD = 3.0
"""A ratio this many SD below its level's mean is a fracture."""
TRIM_SD = 3.0
"""Values further from the mean than this many SD are trimmed."""
MIN_N = 30
"""Normal values need as many vertebrae a level and ratio (and sex) after trimming."""
VERSION = "1"
"""Of the file of normal values."""

Key = tuple[str, str, str]
"""Sex (``F``, ``M`` or ``all``), level, ratio."""


@dataclass(frozen=True)
class Normal:
    """Mean and SD of a ratio at a level.

    Attributes:
        mean: of the ratio.
        sd: of the ratio, n - 1 in the denominator.
        n: vertebrae left after trimming; None for a preset.
        trimmed: vertebrae trimmed; None for a preset.
    """

    mean: float
    sd: float
    n: int | None = None
    trimmed: int | None = None

    @property
    def cut(self) -> float:
        """The ratio below which a vertebra is fractured."""
        return self.mean - CUT_SD * self.sd


@dataclass(frozen=True)
class NormalValues:
    """What is normal, and therefore what is fractured.

    Attributes:
        source: ``fitted``, ``paper`` or ``genant``. With ``genant`` there are no values: a
            vertebra is fractured from grade 1 on.
        values: (sex, level, ratio) → mean and SD; ``all`` is always there, ``F`` and ``M`` where
            the sex has enough vertebrae.
        patients: whom they were fitted on; None for a preset.
        simulated: whether they were fitted on simulated patients.
    """

    source: str
    values: Mapping[Key, Normal] = field(default_factory=dict)
    patients: int | None = None
    simulated: bool = False

    def group(self, sex: object) -> str:
        """Return whose values count for a patient: those of the sex if there are any."""
        return str(sex) if (sex, LEVELS[0], "wedge") in self.values else "all"

    def to_json(self) -> Json:
        """Return the document (``data_schemas/normal_values.schema.json``)."""
        rows = [
            {"sex": sex, "level": level, "ratio": ratio, **vars(normal), "cut": normal.cut}
            for (sex, level, ratio), normal in self.values.items()
        ]
        return {
            "version": VERSION,
            "source": self.source,
            "rule": f"ratio < mean - {CUT_SD:g} SD",
            "trim_sd": TRIM_SD,
            "minimum_n": MIN_N,
            "patients": self.patients,
            "simulated": self.simulated,
            "values": rows,
        }


PAPER = NormalValues(
    "paper",
    {("all", level, ratio): Normal(0.91, 0.08) for level in LEVELS for ratio in ratios_of(level)},
)
"""The study's single 0.91 ± 0.08: one cut of 0.67 for every level and ratio."""
GENANT = NormalValues("genant")
"""Genant's grades instead of normal values (Genant et al. 1993)."""


def trim(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the values without outliers.

    The first pass leaves out what is further than 3 robust SD (1.4826 times the median absolute
    deviation) from the median, so that many fractures cannot hide each other; each further pass
    what is further than 3 SD from the mean of the rest, until nothing is.

    >>> trim([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 0.3]).tolist()
    [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]
    """
    kept = np.asarray(values, np.float64)
    if kept.size == 0:
        return kept
    off = np.abs(kept - np.median(kept))
    robust = 1.4826 * float(np.median(off))
    if robust > 0:  # it is 0 where more than half of the values are equal
        kept = kept[off <= TRIM_SD * robust]
    while kept.size > 1:
        inside = np.abs(kept - kept.mean()) <= TRIM_SD * kept.std(ddof=1) + 1e-12
        if inside.all():
            break
        kept = kept[inside]
    return kept


def fit_normals(ratios: pd.DataFrame, simulated: bool = False) -> NormalValues:
    """Fit normal values on people without fracture.

    Fit them on the training part of a fold only: they are part of the outcome's definition.

    Args:
        ratios: of :func:`monai_vfx.analysis.morphometry.ratios.add_ratios`, of participants without
            fracture; what is missing is left out, ratio by ratio.
        simulated: whether they are simulated patients.
    """
    values: dict[Key, Normal] = {}
    for sex, rows in (("all", ratios), *((s, ratios[ratios["sex"] == s]) for s in ("F", "M"))):
        fitted = {
            (sex, level, ratio): _normal(rows.loc[rows["level"] == level, ratio])
            for level in LEVELS
            for ratio in ratios_of(level)
        }
        few = [(key, normal.n or 0) for key, normal in fitted.items() if not _enough(normal)]
        if not few:
            values |= fitted
        elif sex == "all":
            listed = ", ".join(f"{level} {RATIOS[name]}: {n}" for (_, level, name), n in few)
            raise SettingError(
                f"normal values need {MIN_N} participants without fracture at each level, "
                f"who differ from each other; there are {listed}"
            )
    return NormalValues("fitted", values, int(ratios["case_id"].nunique()), simulated)


def _enough(normal: Normal) -> bool:
    return (normal.n or 0) >= MIN_N and normal.sd > 0


def _normal(cells: pd.Series[float]) -> Normal:
    known = cells.dropna().to_numpy(np.float64)
    kept = trim(known)
    sd = float(kept.std(ddof=1)) if kept.size > 1 else 0.0
    mean = float(kept.mean()) if kept.size else float("nan")
    return Normal(mean, sd, int(kept.size), int(known.size - kept.size))


def load_normals(choice: str | Path) -> NormalValues:
    """Return a preset by name, or the normal values of a file.

    Raises:
        SettingError: no such preset or file, or the file breaks its schema or lacks a level.
    """
    presets = {preset.source: preset for preset in (PAPER, GENANT)}
    if str(choice) in presets:
        return presets[str(choice)]
    try:
        document = read_json(choice)
    except (OSError, ValueError) as error:
        raise SettingError(
            "normal must be paper, genant or a JSON file of normal values; what was given can "
            f"not be read ({type(error).__name__})"
        ) from error
    broken = violations(document, "normal_values")
    if broken:
        raise SettingError("the file of normal values breaks its schema: " + "; ".join(broken[:5]))
    fields = ("mean", "sd", "n", "trimmed")
    values = {
        (row["sex"], row["level"], row["ratio"]): Normal(*(row[name] for name in fields))
        for row in document["values"]
    }
    sexes = {sex for sex, _, _ in values} | {"all"}
    wanted = [(s, lv, r) for s in sorted(sexes) for lv in LEVELS for r in ratios_of(lv)]
    lacking = [" ".join(key) for key in wanted if key not in values]
    if lacking and document["source"] != "genant":
        raise SettingError(f"the file of normal values lacks {', '.join(lacking[:5])}")
    return NormalValues(document["source"], values, document["patients"], document["simulated"])
