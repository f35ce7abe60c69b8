"""Simulated cohorts with a known five-year risk, sampled as a case-control study does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from monai_vfx.simulation.patients import draw_population

FEATURES = {
    "image": ("bone_seen", "muscle_seen"),
    "clinical": (*("age", "female", "smoker", "glucocorticoids", "secondary_osteoporosis"), "bmi"),
}


@dataclass
class Study:
    """A cohort with a score for everyone, and who was sampled from it."""

    population: pd.DataFrame
    selected: pd.DataFrame

    @property
    def scores(self) -> np.ndarray:
        return self.selected["score"].to_numpy()

    @property
    def labels(self) -> np.ndarray:
        return self.selected["fracture"].to_numpy()

    def groups(self) -> dict[str, pd.DataFrame]:
        """Age thirds and sexes of the whole cohort."""
        third = pd.qcut(self.population["age"], 3, labels=["young", "middle", "old"])
        return dict(list(self.population.groupby(third, observed=True))) | dict(
            list(self.population.groupby("sex"))
        )


def make_study(seed, sampling, *, score="image", hospital="development", count=30000) -> Study:
    """Draw a cohort, sample cases and controls 1:1, give all a score learned on the sample."""
    population = draw_population(count, seed, hospital)
    rng = np.random.default_rng(1000 + seed)
    population["female"] = (population["sex"] == "F").astype(float)
    for tissue in ("bone", "muscle"):
        noise = rng.normal(0, 0.5, count)
        population[f"{tissue}_seen"] = population[f"{tissue}_z"] + noise
    rows, pairs = (random_controls if sampling == "random" else matched_controls)(population, rng)
    selected = population.iloc[rows].assign(pair_id=[f"p{pair}" for pair in pairs])
    x, names = population[list(FEATURES[score])].to_numpy(float), selected["pair_id"].to_numpy()
    x[:, 0] /= 8 if score == "clinical" else 1
    y = selected["fracture"].to_numpy()
    out_of_fold, everyone = np.zeros(len(rows)), np.zeros(count)
    for train, held_out in GroupKFold(10).split(rows, y, names):
        model = LogisticRegression(C=100.0, max_iter=1000).fit(x[rows[train]], y[train])
        out_of_fold[held_out] = model.predict_proba(x[rows[held_out]])[:, 1]
        everyone += model.predict_proba(x)[:, 1] / 10
    population["score"] = everyone
    return Study(population, selected.assign(score=out_of_fold))


def random_controls(population, rng) -> tuple[np.ndarray, np.ndarray]:
    cases = np.flatnonzero(population["fracture"] == 1)
    controls = rng.choice(np.flatnonzero(population["fracture"] == 0), len(cases), replace=False)
    return np.concatenate([cases, controls]), np.arange(2 * len(cases))


def matched_controls(population, rng) -> tuple[np.ndarray, np.ndarray]:
    """For each case the nearest free control of the same sex in age and BMI."""
    age, bmi = population["age"].to_numpy() / 8, population["bmi"].to_numpy() / 3.5
    sex = population["female"].to_numpy()
    cases = rng.permutation(np.flatnonzero(population["fracture"] == 1))
    free = (population["fracture"] == 0).to_numpy()
    controls = np.zeros_like(cases)
    for n, case in enumerate(cases):
        usable = np.flatnonzero(free & (sex == sex[case]))
        distance = np.abs(age[usable] - age[case]) + np.abs(bmi[usable] - bmi[case])
        controls[n] = usable[np.argmin(distance)]
        free[controls[n]] = False
    return np.concatenate([cases, controls]), np.tile(np.arange(len(cases)), 2)


def slope_and_intercept(truth: np.ndarray, risk: np.ndarray) -> tuple[float, float]:
    """Logistic recalibration of a risk against the true probabilities (Newton's method)."""
    x, b = np.column_stack([np.ones(risk.size), logit(risk)]), np.array([0.0, 1.0])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ b))
        b = b + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (truth - p))
    return float(b[1]), float(b[0])
