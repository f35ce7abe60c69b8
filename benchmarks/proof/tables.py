"""Print the simulated hospitals' Tables 1 and 2 beside the study's, and test whether they differ.

    python benchmarks/proof/tables.py [--seed S] [--development cohort.csv] [--external cohort.csv]

Every line compares a simulated group with the study's group of the same name: means by Student's t,
shares by chi-square, as the study compares its groups; SDs by a normal test on the logarithm of
their ratio, whose variance is (kurtosis - 1)/4n a group (kurtosis of the simulated group). Holm's
method over all lines keeps the chance of one false alarm at 5 %; the exit status is 1 when a line
stays below 0.05 after it. `strict p` takes the printed value as exact, not as a sample's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from monai_vfx.analysis.cohort.baseline_tables import contingency_test
from monai_vfx.simulation.patients import draw_patients

MEANS: dict[str, dict[str, tuple[float, float]]] = {
    "age": {
        "development": (72.5, 7.9),
        "external": (67.6, 8.6),
        "no fracture": (72.0, 7.6),
        "fracture": (72.9, 8.2),
    },
    "height_cm": {
        "development": (157.0, 8.4),
        "external": (155.2, 7.9),
        "no fracture": (156.9, 8.5),
        "fracture": (157.1, 8.3),
    },
    "weight_kg": {
        "development": (58.2, 9.9),
        "external": (57.6, 9.7),
        "no fracture": (58.29, 9.47),
        "fracture": (58.11, 10.4),
    },
    "bmi": {
        "development": (23.6, 3.5),
        "external": (23.9, 3.6),
        "no fracture": (23.7, 3.4),
        "fracture": (23.5, 3.5),
    },
}
"""Tables 1 and 2: mean and SD."""
COUNTS: dict[str, dict[str, int]] = {
    "female": {"development": 839, "external": 390, "no fracture": 422, "fracture": 417},
    "smoker": {"development": 284, "external": 28, "no fracture": 115, "fracture": 169},
    "drinker": {"development": 236, "external": 34, "no fracture": 113, "fracture": 123},
    "glucocorticoids": {"development": 161, "external": 57, "no fracture": 47, "fracture": 114},
    "secondary_osteoporosis": {
        "development": 122,
        "external": 16,
        "no fracture": 45,
        "fracture": 77,
    },
    "fracture": {"development": 608, "external": 61},
}
"""Tables 1 and 2: patients who have it."""
SIZES = {"development": 1214, "external": 495, "no fracture": 606, "fracture": 608}


def compare(development: pd.DataFrame, external: pd.DataFrame) -> pd.DataFrame:
    """Return one row a line of the tables.

    Args:
        development: patient table with ``fracture``; cases and controls.
        external: likewise, unsampled.

    Returns:
        ``group, line, simulated, study, test, p, strict_p, p_holm``.
    """
    groups = {
        "development": development,
        "external": external,
        "no fracture": development[development["fracture"] == 0],
        "fracture": development[development["fracture"] == 1],
    }
    rows = []
    for name, frame in groups.items():
        shown = frame.assign(female=(frame["sex"] == "F").astype(int))
        rows += [{"group": name, **line} for line in _lines(name, shown)]
    table = pd.DataFrame(rows)
    table["p_holm"] = multipletests(table["p"], method="holm")[1]
    return table


def _lines(group: str, frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    size, n = SIZES[group], len(frame)
    for name, printed in MEANS.items():
        values = frame[name].to_numpy(np.float64)
        mean, sd = printed[group]
        text = f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
        common = {"simulated": text, "study": f"{mean} ± {sd}"}
        p = stats.ttest_ind_from_stats(mean, sd, size, values.mean(), values.std(ddof=1), n).pvalue
        strict = stats.ttest_1samp(values, mean).pvalue
        yield {"line": f"{name}, mean", **common, "test": "t", "p": p, "strict_p": strict}
        ratio = np.log(values.std(ddof=1) / sd)
        spread = (stats.kurtosis(values, fisher=False) - 1) / 4
        p = 2 * stats.norm.sf(abs(ratio) / np.sqrt(spread * (1 / n + 1 / size)))
        strict = 2 * stats.norm.sf(abs(ratio) / np.sqrt(spread / n))
        yield {"line": f"{name}, SD", **common, "test": "SD", "p": p, "strict_p": strict}
    for name, counts in COUNTS.items():
        if group not in counts:
            continue
        has, expected = int(frame[name].sum()), counts[group]
        p = contingency_test([[has, n - has], [expected, size - expected]])[0]
        share = expected / size
        strict = stats.chisquare([has, n - has], [n * share, n * (1 - share)]).pvalue
        yield {
            "line": name,
            "simulated": f"{has} ({100 * has / n:.1f})",
            "study": f"{expected} ({100 * share:.1f})",
            "test": "chi-square",
            "p": p,
            "strict_p": strict,
        }


def simulated(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw both hospitals at the study's sizes."""
    home, away = (
        pd.DataFrame([asdict(person) for person in draw_patients(SIZES[name], seed, name)])
        for name in ("development", "external")
    )
    return home, away


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--development", type=Path, help="cohort.csv in place of a draw")
    parser.add_argument("--external", type=Path, help="likewise")
    given = parser.parse_args()
    drawn = simulated(given.seed)
    paths = (given.development, given.external)
    home, away = (
        frame if path is None else pd.read_csv(path)
        for frame, path in zip(drawn, paths, strict=True)
    )
    table = compare(home, away)
    print(table.round(3).to_string(index=False))
    outside = table[table["p_holm"] < 0.05]
    print(
        f"{len(table)} lines; p < 0.05: {(table['p'] < 0.05).sum()}, strict "
        f"{(table['strict_p'] < 0.05).sum()}; outside after Holm: {len(outside)}"
    )
    return int(len(outside) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
