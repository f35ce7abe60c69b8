"""What a hospital's records add to a simulated patient: dates, follow-up, deaths, FRAX, exclusions.

All of it is drawn from a stream of its own, after the patients: who they are, whether they
fracture and what their CT shows do not depend on it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from monai_vfx.simulation.populations import Population

Column = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]

CENSORED_SHARE = 0.08
"""Share of the patients without fracture whose imaging ends 1 to 5 years after the CT."""
RECORDS_END = np.datetime64("2024-12-31")
"""Last day that a simulated hospital knows of."""
REPEAT_SHARE = 0.03
"""Share of a registry's rows that are a second CT of a patient."""


def repeat_rows(count: int, population: Population) -> npt.NDArray[np.int64]:
    """Return which patient each of ``count`` CTs shows; in a registry the last few come again.

    >>> from monai_vfx.simulation.populations import POPULATIONS
    >>> repeat_rows(40, POPULATIONS["registry"]).tolist()[-3:]
    [37, 38, 0]
    >>> repeat_rows(3, POPULATIONS["external"]).tolist()
    [0, 1, 2]
    """
    repeats = round(REPEAT_SHARE * count) if population.registry else 0
    people = count - repeats
    return np.concatenate([np.arange(people), np.arange(repeats)]).astype(np.int64)


def draw_records(
    rng: np.random.Generator, columns: dict[str, Column], population: Population
) -> tuple[dict[str, Column], dict[str, Text]]:
    """Draw the further columns of patients whose risk factors and outcome are known.

    Only patients without fracture are censored or die early, so that the label stays what the
    true five-year risk means.

    Args:
        rng: source.
        columns: of the patients; ``follow_up_years`` of those without fracture is five or more.
        population: the hospital's.

    Returns:
        Columns of numbers (``follow_up_years`` among them) and of text, (n,) each.
    """
    count = len(columns["age"])
    free = columns["fracture"] == 0
    chance, moment, unit = rng.random((3, count))
    dies = expit(-3.4 + 0.5 * (columns["age"] - 70.0) / 8.0)
    death = free & (chance < dies)
    censored = free & ~death & (chance < dies + CENSORED_SHARE)
    years = np.where(death | censored, 1.0 + 4.0 * moment, columns["follow_up_years"])
    first, last = (np.datetime64(day, "D") for day in population.scan_dates)
    earliness = rng.random(count)
    numbers = {"follow_up_years": years, "death": death.astype(np.float64)}
    numbers |= _frax_stand_in(rng, columns) | _exclusions(rng, columns, population, years)
    numbers["death"] *= numbers["follow_up_years"] >= 1.0
    # No follow-up ends after the records do.
    room = (RECORDS_END - first).astype(int) - np.ceil(365.25 * numbers["follow_up_years"])
    days = earliness * (np.minimum(room, (last - first).astype(int)) + 1)
    letter = population.prefix if not population.registry else "D"
    text = {
        "scan_date": np.datetime_as_string(first + days.astype(int)),
        "scanner": np.where(unit < 0.6, f"simulated {letter}1", f"simulated {letter}2"),
        "contrast_phase": np.full(count, "portal_venous"),
    }
    return numbers, text


def shift_repeats(
    rows: npt.NDArray[np.int64], numbers: dict[str, Column], text: dict[str, Text]
) -> None:
    """Move each repeated CT to a later day, in place: age, date and remaining follow-up.

    Args:
        rows: of :func:`repeat_rows`.
        numbers: columns (n,) in which a repeat is still a copy of the first CT.
        text: likewise.
    """
    for row in np.flatnonzero(rows != np.arange(len(rows))):
        person = rows[row]
        gap = min(1.0, 0.3 * float(numbers["follow_up_years"][person]))
        numbers["age"][row] = round(float(numbers["age"][person]) + gap, 1)
        numbers["follow_up_years"][row] -= gap
        day = np.datetime64(str(text["scan_date"][person]), "D") + max(1, round(365.25 * gap))
        text["scan_date"][row] = str(day)


def _frax_stand_in(rng: np.random.Generator, columns: dict[str, Column]) -> dict[str, Column]:
    """Return two percentages that behave somewhat like FRAX's. It is not the FRAX formula."""
    decades = (columns["age"] - 65.0) / 10.0
    factors = (
        0.4 * columns["female"]
        + 0.3 * columns["smoker"]
        + 0.2 * columns["drinker"]
        + 0.5 * columns["glucocorticoids"]
        + 0.35 * columns["secondary_osteoporosis"]
        - 0.15 * (columns["bmi"] - 23.6) / 3.5
    )
    noise = rng.normal(0.0, 0.25, (2, len(decades)))
    major = 100 * expit(-2.9 + 0.35 * decades + factors + noise[0])
    hip = 100 * expit(-4.4 + 0.75 * decades + factors + noise[1])
    return {"frax_major": np.round(major, 1), "frax_hip": np.round(np.minimum(hip, major), 1)}


def _exclusions(
    rng: np.random.Generator, columns: dict[str, Column], population: Population, years: Column
) -> dict[str, Column]:
    """Return what the eligibility rules look at; only a registry holds patients that break them.

    A rule is broken regardless of the outcome, so the eligible have the risk of all.
    """
    count = len(years)
    share, moment = rng.random((5, count)), rng.random(count)
    limits = (0.025, 0.01, 0.025, 0.025, 0.01) if population.registry else (0.0,) * 5
    baseline, surgery, poor, short, trauma = (
        row < limit for row, limit in zip(share, limits, strict=True)
    )
    return {
        "baseline_fracture": baseline.astype(np.float64),
        "spinal_surgery": surgery.astype(np.float64),
        "image_adequate": 1.0 - poor,
        "traumatic_fracture": (trauma & (columns["fracture"] == 0)).astype(np.float64),
        "follow_up_years": np.where(short, 0.1 + 0.85 * moment, years),
    }
