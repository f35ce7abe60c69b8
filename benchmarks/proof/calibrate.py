"""Find the numbers behind the simulated development hospital and print them.

    python benchmarks/proof/calibrate.py

The population before sampling and the hazard's coefficients are moved, a step a round, until the
sampled cases and controls have the means, SDs and shares of the study's Table 2 and the image
classes their attainable AUROC. What is printed stands in ``monai_vfx/simulation/populations.py``
and ``hazard.py``. Every round draws the same random numbers, so a run repeats.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.simulation.hazard import (
    BONE_TERMS,
    HAZARDS,
    MUSCLE_TERMS,
    Hazard,
    image_terms,
    log_hazard,
)
from monai_vfx.simulation.people import draw_matched, draw_people
from monai_vfx.simulation.populations import (
    AGE_LIMITS,
    POPULATIONS,
    Population,
    age_quantiles,
)

SHARES = {
    "smoker": (0.190, 0.278),
    "drinker": (0.187, 0.202),
    "glucocorticoids": (0.078, 0.188),
    "secondary_osteoporosis": (0.074, 0.127),
}
"""Table 2: share of the controls and of the cases."""
FEMALE, HEIGHT = 0.691, 157.0
BMI = (23.6, 3.48)
"""Table 1 (matched variables and height, which the tables give alike for both groups)."""
AUROC = {"paper": (0.71, 0.77), "strong": (0.815, 0.90)}
"""Signal → attainable from bone, and from bone and muscle."""


@dataclass(frozen=True)
class State:
    """What is looked for."""

    population: Population
    hazard: Hazard
    bone: float
    muscle: float


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def shifted(shares: tuple[float, float], by: float) -> tuple[float, float]:
    """Move the shares of women and men by as much on the logit scale."""
    women, men = (float(1 / (1 + np.exp(-logit(p) - by))) for p in shares)
    return women, men


def sample(state: State, count: int, signal: str = "paper") -> pd.DataFrame:
    """Draw cases and controls; always from the same random numbers."""
    rng = np.random.default_rng(20_240)
    parts = [
        pd.DataFrame(draw_matched(rng, 5000, state.population, signal, state.hazard))
        for _ in range(count // 5000)
    ]
    return pd.concat(parts, ignore_index=True)


def tissue_aurocs(frame: pd.DataFrame, hazard: Hazard) -> tuple[float, float]:
    """Return the AUROC of bone's terms, and of bone's and muscle's."""
    columns = {name: frame[name].to_numpy() for name in (*BONE_TERMS, *MUSCLE_TERMS)}
    terms = (BONE_TERMS, (*BONE_TERMS, *MUSCLE_TERMS))
    scores = (log_hazard(columns, hazard, some) for some in terms)
    bone, both = (auroc(frame["fracture"], score).value for score in scores)
    return bone, both


def with_tissue(state: State, reached: tuple[float, float], wanted: tuple[float, float]) -> State:
    """Move the effects of bone and muscle towards the wanted AUROCs."""
    excess = [(want - 0.5) / (got - 0.5) for want, got in zip(wanted, reached, strict=True)]
    bone = state.bone * excess[0]
    # With independent tissues the squared distances of cases and controls add up.
    share = (wanted[1] - 0.5) ** 2 - (wanted[0] - 0.5) ** 2
    now = max((reached[1] - 0.5) ** 2 - (reached[0] - 0.5) ** 2, 1e-4)
    muscle = state.muscle * float(np.clip(np.sqrt(share / now), 0.8, 1.25))
    hazard = replace(state.hazard, **image_terms(bone, muscle))
    return replace(state, hazard=hazard, bone=bone, muscle=muscle)


def population_age(state: State) -> tuple[float, float]:
    """Return mean and SD of the age of a population whose cases have the matching's.

    The density of the cases is the population's times the mean risk at an age, whose logarithm is
    close to a parabola.
    """
    loose = state.population.looseness
    if loose is None:
        raise ValueError("population: has no matching")
    rng = np.random.default_rng(20_241)
    people = draw_people(rng, 100_000, state.population, "paper", state.hazard)
    ages, share = age_quantiles(*loose.case_age, AGE_LIMITS)
    bins = np.round(people["age"])
    years = np.arange(51, 80)
    risk = [people["five_year_risk"][bins == year].mean() for year in years]
    parabola = np.polyfit(years - 65.0, np.log(risk), 2)
    density = np.gradient(share) * np.exp(-np.polyval(parabola, ages - 65.0))
    density /= density.sum()
    mean = float(density @ ages)
    return mean, float(np.sqrt(density @ (ages - mean) ** 2))


def next_state(state: State, frame: pd.DataFrame, gain: float) -> State:
    """Move everything a share of the way towards Tables 1 and 2."""
    cases, controls = frame[frame["fracture"] == 1], frame[frame["fracture"] == 0]
    people, hazard = state.population, state.hazard
    by = float(gain * (HEIGHT - frame["height_cm"].mean()))
    missing = logit(FEMALE) - logit(frame["female"].mean())
    female = shifted((people.female, 0.5), gain * missing)[0]
    bmi = (
        people.bmi[0] + gain * float(BMI[0] - frame["bmi"].mean()),
        people.bmi[1] * float(BMI[1] / frame["bmi"].std()) ** gain,
    )
    changes: dict[str, tuple[float, float]] = {}
    effects: dict[str, float] = {}
    for name, (low, high) in SHARES.items():
        below, above = controls[name].mean(), cases[name].mean()
        changes[name] = shifted(getattr(people, name), gain * (logit(low) - logit(below)))
        missing = (logit(high) - logit(low)) - (logit(above) - logit(below))
        effects[name] = getattr(hazard, name) + gain * missing
    people = replace(
        people,
        age=population_age(state),
        female=female,
        bmi=bmi,
        height_cm=(people.height_cm[0] + by, people.height_cm[1] + by),
        **changes,
    )
    return replace(state, population=people, hazard=replace(hazard, **effects))


def calibrate(rounds: int = 14, count: int = 30_000) -> State:
    """Return the population and hazard that the tables ask for, signal ``paper``."""
    hazard = HAZARDS["paper"]
    bone = hazard.texture / image_terms(1.0, 0.0)["texture"]
    muscle = hazard.fat_fraction / image_terms(0.0, 1.0)["fat_fraction"]
    state = State(POPULATIONS["development"], hazard, bone, muscle)
    for number in range(rounds):
        frame = sample(state, count)
        state = with_tissue(state, tissue_aurocs(frame, state.hazard), AUROC["paper"])
        state = next_state(state, frame, min(0.9, 3.0 / (number + 1)))  # later rounds average
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return state


def calibrate_strong(state: State, rounds: int = 5, count: int = 15_000) -> State:
    """Return the same hazard with the tissues' effects of signal ``strong``."""
    state = replace(state, bone=1.25, muscle=1.1)
    state = replace(state, hazard=replace(state.hazard, **image_terms(state.bone, state.muscle)))
    for _ in range(rounds):
        frame = sample(state, count, "strong")
        state = with_tissue(state, tissue_aurocs(frame, state.hazard), AUROC["strong"])
    return state


def main() -> None:
    paper = calibrate()
    strong = calibrate_strong(paper)
    print(paper.population)
    print(paper.hazard)
    print(f"paper: bone={paper.bone:.3f}, muscle={paper.muscle:.3f}")
    print(f"strong: bone={strong.bone:.3f}, muscle={strong.muscle:.3f}")
    frame = sample(paper, 40_000)
    names = ["age", "female", "height_cm", "weight_kg", "bmi", *SHARES]
    print(frame.groupby("fracture")[names].agg(["mean", "std"]).T.round(3).to_string())
    print("AUROC of bone, of bone and muscle:", *np.round(tissue_aurocs(frame, paper.hazard), 3))


if __name__ == "__main__":
    main()
