"""Calibration: offsets and weights by hand, refits, intervals by bootstrap, documents, refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from statsmodels.api import GLM, families

from calibration_cases import make_study
from monai_vfx.analysis.calibration.assessment import group_risks, sampled_summary
from monai_vfx.analysis.calibration.model import (
    Calibration,
    mean_risk_interval,
    read_calibration,
)
from monai_vfx.analysis.calibration.risk import MATCHED, fit_calibration, refit
from monai_vfx.analysis.calibration.sampling import sampling_weights
from monai_vfx.analysis.calibration.terms import Term, choose_terms, read_variable
from monai_vfx.analysis.evaluation.calibration_curve import calibration_summary
from monai_vfx.analysis.logistic import fit_logistic
from monai_vfx.core.errors import SettingError


def cohort(cases: int, others: int) -> pd.DataFrame:
    """A cohort without variables, cases first."""
    return pd.DataFrame(
        {
            "case_id": [f"c{n}" for n in range(cases + others)],
            "fracture": np.r_[np.ones(cases, int), np.zeros(others, int)],
        }
    )


def scores_for(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    return expit(np.random.default_rng(seed).normal(0.8 * labels, 1.0))


def unpenalised(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    model = LogisticRegression(C=1e10, tol=1e-10, max_iter=5000).fit(x, y, sample_weight=weight)
    return np.r_[model.intercept_, model.coef_[0]]


@pytest.fixture(scope="module")
def paper():
    """The counts of the study: 608 of 16,279, then 608 cases and 606 controls."""
    whole = cohort(608, 16279 - 608)
    selected = whole.iloc[: 608 + 606]
    labels = selected["fracture"].to_numpy()
    return whole, selected, labels, scores_for(labels)


@pytest.fixture(scope="module")
def study():
    return make_study(3, "matched", count=15000)


@pytest.fixture(scope="module")
def fitted(study):
    return fit_calibration(
        study.scores,
        study.labels,
        kind="matched_controls",
        population=study.population,
        selected=study.selected,
    )


# ---------------------------------------------------------------- offset


def test_random_controls_are_the_sample_fit_plus_a_constant(paper):
    whole, selected, labels, scores = paper
    found = fit_calibration(
        scores,
        labels,
        kind="random_controls",
        population=whole,
        selected=selected,
        variables=(),
    )
    constant = logit(608 / 16279) - logit(608 / 1214)
    assert constant == pytest.approx(-3.25, abs=0.005)
    assert found.offset == pytest.approx((constant,) * 3)
    plain = unpenalised(logit(scores)[:, None], labels)
    assert found.coefficients == pytest.approx((plain[0] + constant, plain[1]), abs=1e-5)
    assert found.risk([0.3, np.nan])[0] == pytest.approx(
        expit(plain[0] + constant + plain[1] * logit(0.3)), abs=1e-6
    )
    assert np.isnan(found.risk([np.nan])[0])
    assert (found.n, found.events, found.population_n, found.population_events) == (
        *(1214, 608),
        *(16279, 608),
    )


def test_a_control_of_the_study_stands_for_25_9_patients(paper):
    whole, selected, labels, _ = paper
    weights = sampling_weights(whole, selected, variables=())
    assert weights[labels == 1] == pytest.approx(1.0)
    assert weights[labels == 0] == pytest.approx(15671 / 606)
    assert round(15671 / 606, 1) == 25.9  # as printed in the methods


def test_offset_of_a_matched_variable_by_hand():
    # Women: 60 of 600 fracture; men: 20 of 1000. Matched 1:1, so half of each sex are cases.
    whole = pd.concat([cohort(60, 540), cohort(20, 980)], ignore_index=True)
    whole["case_id"] = [f"c{n}" for n in range(len(whole))]
    whole["sex"] = ["F"] * 600 + ["M"] * 1000
    selected = whole.iloc[[*range(120), *range(600, 640)]]
    labels = selected["fracture"].to_numpy()
    found = fit_calibration(
        scores_for(labels),
        labels,
        kind="matched_controls",
        population=whole,
        selected=selected,
        variables=("sex",),
    )
    women, men = logit(0.1), logit(0.02)
    assert found.offset == pytest.approx((men, (3 * women + men) / 4, women))
    # A score that says the same of everyone leaves each sex its own incidence.
    flat = fit_calibration(
        expit(np.random.default_rng(1).normal(0, 1, labels.size)),
        labels,
        kind="matched_controls",
        population=whole,
        selected=selected,
        variables=("sex",),
    )
    sexes = pd.DataFrame({"sex": ["F", "M"]})
    assert flat.risk([0.5, 0.5], sexes) == pytest.approx([0.1, 0.02], rel=0.15)


def test_weighting_is_the_weighted_regression(study):
    found = fit_calibration(
        study.scores,
        study.labels,
        kind="weighting",
        population=study.population,
        selected=study.selected,
    )
    weight = sampling_weights(study.population, study.selected, MATCHED)
    assert (weight * (study.labels == 0)).sum() == pytest.approx(
        (study.population["fracture"] == 0).sum(), rel=0.02
    )
    terms = [term.columns(study.selected) for term in found.terms]
    x = np.column_stack([logit(study.scores), *terms])
    assert found.coefficients == pytest.approx(unpenalised(x, study.labels, weight), abs=1e-3)


# ---------------------------------------------------------------- intervals


def test_mean_risk_interval_is_the_delta_method():
    known = Calibration("refit", (), (-2.0, 1.0), ((0.04, 0.0), (0.0, 0.0)), 100, 20)
    scores = expit([0.0, 1.0])
    risks = expit([-2.0, -1.0])
    found = mean_risk_interval(known, scores)
    mean = risks.mean()
    half = 1.959964 * 0.2 * (risks * (1 - risks)).mean() / (mean * (1 - mean))
    assert (found.value, found.n) == (pytest.approx(mean), 2)
    assert (found.low, found.high) == pytest.approx(
        tuple(expit([logit(mean) - half, logit(mean) + half])), abs=1e-7
    )
    weighted = mean_risk_interval(known, scores, weights=[3.0, 1.0])
    assert weighted.value == pytest.approx((3 * risks[0] + risks[1]) / 4)
    assert known.risk_interval([0.5])[0] == pytest.approx(
        expit([-2 - 1.959964 * 0.2, -2 + 1.959964 * 0.2]), abs=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["matched_controls", "random_controls"])
def test_stated_spread_is_that_of_new_cohorts(kind):
    """Draw cohort and sample anew from the hospital: the error has the stated SD."""
    means, stated = [], []
    for seed in range(100, 180):
        study = make_study(seed, kind.split("_")[0], count=6000, hospital="external")
        found = fit_calibration(
            study.scores,
            study.labels,
            kind=kind,
            population=study.population,
            selected=study.selected,
        )
        old = study.groups()["old"]
        risk = mean_risk_interval(found, old["score"], old)
        means.append(logit(risk.value) - logit(old["five_year_risk"].mean()))
        stated.append((logit(risk.high) - logit(risk.low)) / (2 * 1.96))
    assert np.mean(stated) == pytest.approx(np.std(means, ddof=1), rel=0.2)
    assert abs(np.mean(means)) < 0.3 * np.mean(stated)


# ---------------------------------------------------------------- refit


def site(n: int, events: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.r_[np.ones(events, int), np.zeros(n - events, int)]
    return scores_for(labels, seed), labels


@pytest.mark.parametrize(
    ("events", "what"), [(49, "intercept"), (50, "intercept and slope"), (10, "intercept")]
)
def test_refit_chooses_by_the_smaller_class_and_meets_the_observed_share(events, what):
    scores, labels = site(500, events)
    found = refit(None, scores, labels)
    assert (found.kind, found.refitted, found.n, found.events) == ("refit", what, 500, events)
    assert found.risk(scores).mean() == pytest.approx(events / 500, abs=1e-7)
    summary = calibration_summary(labels, found.risk(scores))
    assert summary["intercept"] == pytest.approx(0.0, abs=1e-6)
    if events == 50:
        assert summary["slope"] == pytest.approx(1.0, abs=1e-6)
        plain = unpenalised(logit(scores)[:, None], labels)
        assert found.coefficients == pytest.approx(plain, abs=1e-4)
    else:
        assert found.coefficients[1] == 1.0


def test_refit_keeps_the_terms_and_needs_their_columns(study, fitted):
    people = study.population.iloc[:3000]
    new = refit(fitted, people["score"], people["fracture"], people)
    assert new.variables == ("age", "sex", "bmi")
    before, after = (c.risk(people["score"], people) for c in (fitted, new))
    slope = new.coefficients[1] / fitted.coefficients[1]
    assert np.ptp(logit(after) - slope * logit(before)) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(SettingError, match="age, sex, bmi beside"):
        refit(fitted, people["score"], people["fracture"])


def test_refit_interval_is_that_of_the_observed_share():
    _, labels = site(400, 40)
    found = mean_risk_interval(refit(None, np.full(400, 0.5), labels), np.full(400, 0.5))
    # All scores alike: the intercept's Wald interval, logit 0.1 ± 1.96 / sqrt(400 · 0.1 · 0.9).
    half = 1.959964 / np.sqrt(400 * 0.1 * 0.9)
    assert (found.low, found.high) == pytest.approx(
        tuple(expit([logit(0.1) - half, logit(0.1) + half])), abs=1e-6
    )


# ---------------------------------------------------------------- assessment


def test_sampled_summary_gives_the_cohort_its_share_back(paper):
    whole, selected, labels, scores = paper
    found = fit_calibration(
        scores,
        labels,
        kind="weighting",
        population=whole.assign(x=np.arange(len(whole)) % 7),
        selected=selected.assign(x=np.arange(len(selected)) % 7),
        variables=("x",),
    )
    weights = np.where(labels == 1, 1.0, 15671 / 606)
    frame = selected.assign(x=np.arange(len(selected)) % 7)
    summary = sampled_summary(labels, found.risk(scores, frame), weights)
    assert summary["observed"] == pytest.approx(608 / 16279)
    assert summary["mean_predicted"] == pytest.approx(608 / 16279, rel=0.02)
    assert summary["slope"] == pytest.approx(1.0, abs=0.02)
    assert summary["slope_ci"][0] < 1 < summary["slope_ci"][1]
    assert sum(row["n"] for row in summary["bins"]) == 1214
    assert all(row["ci"][0] <= row["observed"] <= row["ci"][1] for row in summary["bins"])


def test_groups_set_the_risk_beside_the_cohorts_incidence(study, fitted):
    patients = study.selected.rename(columns={"fracture": "label"})
    patients["weight"] = sampling_weights(study.population, study.selected, MATCHED)
    rows = group_risks(fitted, patients, study.population)
    assert [row["value"] for row in rows] == [
        *("all", "youngest third", "middle third", "oldest third", "F", "M")
    ]
    assert sum(row["n"] for row in rows[1:4]) == rows[0]["n"] == len(patients)
    assert sum(row["observed"]["n"] for row in rows[4:]) == len(study.population)
    for row in rows:
        assert row["ci"][0] < row["observed"]["value"] < row["ci"][1]


# ---------------------------------------------------------------- terms and fits


def test_spline_is_straight_outside_its_knots_and_bends_between():
    term = Term("age", 70.0, 8.0, (60.0, 70.0, 78.0))
    ages = np.array([40.0, 45.0, 50.0, 60.0, 85.0, 90.0, 95.0])
    line, bend = term.columns(pd.DataFrame({"age": ages})).T
    assert line == pytest.approx((ages - 70) / 8)
    assert bend[:4] == pytest.approx(np.zeros(4))
    assert np.diff(bend[4:], 2) == pytest.approx([0.0], abs=1e-9)
    # Between the first two knots a cubic: ((x - 60) / 8)³ / (18 / 8)².
    assert term.columns(pd.DataFrame({"age": [66.0]}))[0, 1] == pytest.approx(
        0.75**3 / (18 / 8) ** 2
    )


def test_splines_need_events_and_many_values():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.uniform(50, 80, 500), "steroid": rng.integers(0, 2, 500)})
    frame["sex"] = rng.choice(["F", "M"], 500)
    few, many = (choose_terms(frame, ("age", "sex", "steroid"), n) for n in (119, 120))
    assert [term.knots for term in few] == [None] * 3
    assert many[0].knots == pytest.approx(tuple(frame["age"].quantile([0.1, 0.5, 0.9])))
    assert [term.knots for term in many[1:]] == [None, None]


def test_standard_errors_are_those_of_statsmodels():
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    y, weight = (rng.random(300) < expit(x @ [-1, 0.5, 1])).astype(float), rng.uniform(0.5, 9, 300)
    model = GLM(y, x, families.Binomial(), var_weights=weight, offset=x[:, 1])
    ours = fit_logistic(x, y, weight=weight, offset=x[:, 1])
    assert ours.coefficients == pytest.approx(model.fit(tol=1e-12).params, abs=1e-9)
    assert ours.errors() == pytest.approx(model.fit(tol=1e-12).bse, abs=1e-9)
    robust = model.fit(tol=1e-12, cov_type="HC0").bse
    assert ours.errors(robust=True) == pytest.approx(robust, abs=1e-9)


def test_what_has_no_solution_is_refused():
    x = np.column_stack([np.ones(40), np.arange(40.0)])
    with pytest.raises(SettingError, match=r"no .*solution"):
        fit_logistic(x, (np.arange(40) >= 20).astype(float))
    with pytest.raises(SettingError, match="not uniquely determined"):
        fit_logistic(np.ones((40, 2)), (np.arange(40) % 2).astype(float))


# ---------------------------------------------------------------- documents


def test_a_calibration_survives_its_document(tmp_path, study, fitted):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(fitted.to_json() | {"score": "image_bone", "simulated": True}))
    again = read_calibration(path)
    assert again == fitted
    np.testing.assert_array_equal(
        again.risk(study.scores, study.selected), fitted.risk(study.scores, study.selected)
    )


def test_documents_that_break_the_schema_are_refused(tmp_path, fitted):
    for change in ({"kind": "magic"}, {"coefficients": [1.0]}, {"n": -1}):
        with pytest.raises(SettingError, match=f"schema.*{next(iter(change))}"):
            Calibration.from_json(fitted.to_json() | change)
    path = tmp_path / "calibration.json"
    path.write_text("{")
    with pytest.raises(SettingError, match="cannot be read"):
        read_calibration(path)


# ---------------------------------------------------------------- what is missing or wrong


def test_missing_scores_and_variables_are_counted(study):
    scores = study.scores.copy()
    scores[:5] = np.nan
    population = study.population.copy()
    gone = study.selected["case_id"].iloc[10]
    population.loc[population["case_id"] == gone, "bmi"] = np.nan
    selected = study.selected.copy()
    selected.loc[selected["case_id"] == gone, "bmi"] = np.nan
    found = fit_calibration(
        scores, study.labels, kind="matched_controls", population=population, selected=selected
    )
    assert (found.missing, found.n) == (6, len(scores) - 6)
    assert found.population_n == len(population) - 1
    assert np.isnan(found.risk(scores, selected)).sum() == 6


def call(study, **changes):
    settings = {
        "scores": study.scores,
        "labels": study.labels,
        "kind": "matched_controls",
        "population": study.population,
        "selected": study.selected,
    }
    settings |= changes
    return fit_calibration(settings.pop("scores"), settings.pop("labels"), **settings)


def test_wrong_use_is_named(study):
    few = np.r_[0:9, len(study.labels) - 50 : len(study.labels)]
    wrong = [
        ({"kind": "magic"}, "kind 'magic'"),
        ({"kind": "refit"}, "kind 'refit'"),
        ({"variables": ()}, "needs the variables"),
        ({"variables": ("height",)}, "no column height"),
        ({"population": study.population.drop(columns="case_id")}, "no column case"),
        ({"population": study.population.iloc[5000:]}, "are not in the population"),
        ({"population": pd.concat([study.population] * 2)}, "names a case twice"),
        ({"labels": 1 - study.labels}, "disagree about who"),
        (
            {
                "scores": study.scores[few],
                "labels": study.labels[few],
                "selected": study.selected.iloc[few],
            },
            "9 fractures of 59",
        ),
    ]
    for changes, message in wrong:
        with pytest.raises(SettingError, match=message):
            call(study, **changes)
    with pytest.raises(ValueError, match="divide by 100"):
        call(study, scores=study.scores * 100)
    with pytest.raises(ValueError, match="scores has 3 values"):
        call(study, scores=study.scores[:3])


def test_risk_names_the_columns_it_needs(study, fitted):
    with pytest.raises(SettingError, match="needs the columns age, sex, bmi"):
        fitted.risk([0.5])
    with pytest.raises(SettingError, match="no column 'bmi'"):
        fitted.risk([0.5], pd.DataFrame({"age": [70.0], "sex": ["F"]}))
    with pytest.raises(SettingError, match="sex holds 'x'"):
        read_variable(pd.DataFrame({"sex": ["F", "x"]}), "sex")
    with pytest.raises(ValueError, match="2 rows but there are 1"):
        fitted.risk([0.5], study.selected.iloc[:2])
