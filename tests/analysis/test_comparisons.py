from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.linear_model import LinearRegression
from statsmodels.stats.contingency_tables import mcnemar

from monai_vfx.analysis.evaluation.adjusted import adjusted_auroc
from monai_vfx.analysis.evaluation.bootstrap import draw_counts
from monai_vfx.analysis.evaluation.comparisons import add_holm, difference_interval, mcnemar_tests
from monai_vfx.analysis.evaluation.discrimination import auroc, delong_test
from monai_vfx.analysis.evaluation.subgroups import split_groups, subgroup_rows


def test_mcnemar_equals_statsmodels_in_each_group():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    a, b = (rng.random((2, 80)) < np.where(y == 1, 0.7, 0.3)).astype(int)
    for test in mcnemar_tests(y, a, b):
        who = {"accuracy": y >= 0, "sensitivity": y == 1, "specificity": y == 0}[test.quantity]
        right_a, right_b = (a == y)[who], (b == y)[who]
        table = [
            [int(((right_a == i) & (right_b == j)).sum()) for j in (True, False)]
            for i in (True, False)
        ]
        assert (test.only_a, test.only_b, test.n) == (table[0][1], table[1][0], who.sum())
        assert test.p == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_mcnemar_by_hand():
    # Six cases: only the first decision is right about five, only the second about one:
    # p = 2 (1 + 6) / 2^6.
    y = [1] * 6 + [0]
    sensitivity = mcnemar_tests(y, [1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0])[1]
    assert (sensitivity.only_a, sensitivity.only_b) == (5, 1)
    assert sensitivity.p == pytest.approx(14 / 64)


def test_mcnemar_of_equal_decisions():
    assert [test.p for test in mcnemar_tests([0, 1, 1], [0, 1, 0], [0, 1, 0])] == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="positive_b must hold 0 and 1 only"):
        mcnemar_tests([0, 1], [0, 1], [0, 0.5])


def holm(p):
    """Holm 1979 step by step: the k-th smallest of m times m - k + 1, never falling, at most 1."""
    adjusted, highest = dict.fromkeys(range(len(p)), 0.0), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
        highest = max(highest, min(1.0, p[place] * (len(p) - rank)))
        adjusted[place] = highest
    return list(adjusted.values())


def test_holm_is_applied_within_each_family():
    rng = np.random.default_rng(0)
    families = [rng.random(size) ** 2 for size in (1, 2, 7)] + [np.array([0.5, 0.5])]
    tests = [{"family": n, "p": p} for n, part in enumerate(families) for p in part]
    found = add_holm(tests)
    for number, part in enumerate(families):
        corrected = [test["p_holm"] for test in found if test["family"] == number]
        assert corrected == pytest.approx(holm(part), abs=1e-15)
    assert add_holm([]) == []


def test_difference_interval():
    y = [0, 0, 0, 1, 1, 1]
    a, b = [1, 3, 2, 2, 4, 5], [1, 2, 4, 3, 2, 5]
    test = delong_test(y, a, b)
    low, high = difference_interval(test)
    assert (low + high) / 2 == pytest.approx(test.difference)
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * math.sqrt(test.variance))
    assert difference_interval(delong_test(y, a, a)) == (0.0, 0.0)
    apart = delong_test(y, [1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3])
    assert difference_interval(apart) is None  # no variance, yet a difference


def people(seed, n=600, signal=0.8, age_effect=1.0, spread=0.0):
    """Outcome, a score that rises with age, and age; cases are older."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], [n // 2, n - n // 2])
    age = rng.normal(size=n) + 0.8 * y
    score = age_effect * age + signal * y + np.exp(spread * age) * rng.normal(size=n)
    return y, score, pd.DataFrame({"age": age})


def test_adjusted_auroc_recovers_the_truth_that_age_hides():
    # Given age, the score is normal in both classes, 0.8 SD apart: AUROC Φ(0.8 / √2).
    truth = norm.cdf(0.8 / math.sqrt(2))
    found = []
    for seed in range(20):
        y, score, covariates = people(seed)
        counts = draw_counts(y, samples=100, seed=0)
        found.append(adjusted_auroc(y, score, covariates, counts).value)
    assert np.mean(found) == pytest.approx(truth, abs=0.015)
    y, score, _ = people(0)
    assert auroc(y, score).value > truth + 0.05


def test_adjusted_auroc_of_a_score_that_only_knows_the_age_is_one_half():
    values = []
    for seed in range(20):
        y, score, covariates = people(seed, signal=0.0)
        values.append(
            adjusted_auroc(y, score, covariates, draw_counts(y, samples=100, seed=0)).value
        )
    assert np.mean(values) == pytest.approx(0.5, abs=0.015)
    # The negative control: the covariate itself is a score like any other.
    y, _, covariates = people(1)
    control = adjusted_auroc(y, covariates["age"], covariates, draw_counts(y, samples=100))
    assert control.value == pytest.approx(0.5, abs=0.06)


def test_adjusted_auroc_equals_the_placements_written_out():
    # A score without relation to the covariate but for what least squares finds; the scale model
    # is checked by its own normal equation.
    y, score, covariates = people(5, n=120)
    found = adjusted_auroc(y, score, covariates, draw_counts(y, samples=100))
    ranks = score.argsort().argsort() + 1
    v = norm.ppf((ranks - 0.5) / 120)
    age = covariates[["age"]].to_numpy()
    line = LinearRegression().fit(age[y == 0], v[y == 0])
    residual = v - line.predict(age)
    from sklearn.linear_model import GammaRegressor

    scale = GammaRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(
        age[y == 0], residual[y == 0] ** 2
    )
    z = residual / np.sqrt(scale.predict(age))
    expected = np.mean([np.mean(z[y == 0] < case) for case in z[y == 1]])
    assert found.value == pytest.approx(expected, abs=1e-3)
    assert (found.method, found.n, found.events) == ("location_scale", 120, 60)


def test_adjusted_auroc_does_not_depend_on_the_scale_and_repeats():
    y, score, covariates = people(2, n=200)
    counts = draw_counts(y, samples=150, seed=4)
    one = adjusted_auroc(y, score, covariates, counts)
    assert one == adjusted_auroc(y, np.exp(score), covariates, counts)
    assert one.low < one.value < one.high


def test_adjusted_interval_covers_the_truth():
    truth, hits = norm.cdf(0.8 / math.sqrt(2)), 0
    for seed in range(40):
        y, score, covariates = people(seed, n=150)
        found = adjusted_auroc(y, score, covariates, draw_counts(y, samples=150, seed=seed))
        hits += found.low <= truth <= found.high
    assert hits >= 34  # 40 × 0.95 less three standard errors


def test_adjusted_auroc_within_strata_by_hand():
    # F: the case beats one of two controls. M: two cases beat and tie the one control. X: the case
    # has no control and is left out. Mean of 0.5, 1, 0.5.
    y = [1, 0, 0, 1, 1, 0, 1]
    score = [2, 1, 3, 9, 5, 5, 4]
    sex = pd.DataFrame({"sex": ["F", "F", "F", "M", "M", "M", "X"]})
    found = adjusted_auroc(y, score, sex, draw_counts(y, samples=100))
    assert found.value == pytest.approx(2 / 3)
    assert (found.method, found.n, found.events) == ("stratified", 6, 3)


def test_adjusted_auroc_names_what_is_wrong():
    y = [0, 1, 0, 1]
    counts = draw_counts(y, samples=100)
    with pytest.raises(ValueError, match="nothing missing"):
        adjusted_auroc(y, y, pd.DataFrame({"age": [1, 2, math.nan, 4]}), counts)
    with pytest.raises(ValueError, match="no patient with a fracture shares a stratum"):
        adjusted_auroc(y, y, pd.DataFrame({"sex": ["F", "M", "F", "M"]}), counts)


def test_thirds_hold_a_third_each_and_everyone_is_somewhere():
    rng = np.random.default_rng(0)
    age = pd.Series(rng.normal(70, 8, 301), name="age")
    age[5] = math.nan
    groups = split_groups(age)
    assert np.bincount(groups.member).tolist() == [100, 100, 100, 1]
    assert groups.names[-1] == "missing"
    for number, (low, high) in enumerate([(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)]):
        inside = age[groups.member == number]
        assert inside.min() >= age.quantile(low)
        assert inside.max() <= age.quantile(high)


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (["M", "F", None, "M"], ("F", "M", "missing")),
        ([1, 0, 1, 0], ("0", "1")),
        ([1.5, 2.0, math.nan, 2.0], ("1.5", "2", "missing")),
        ([True, False, True, False], ("False", "True")),
    ],
)
def test_categories_stay_as_they_are(entries, names):
    assert split_groups(pd.Series(entries, name="x")).names == names


def test_too_many_categories_are_refused():
    with pytest.raises(ValueError, match="day has 21 different entries; at most 20"):
        split_groups(pd.Series([f"day {n}" for n in range(21)], name="day"))


def test_subgroups_count_everyone_and_give_no_auroc_below_five():
    y = np.array([1] * 9 + [0] * 11)
    score = np.arange(20.0)
    score[0] = math.nan
    site = pd.Series(["A"] * 4 + ["B"] * 12 + ["A"] * 4, name="site")
    small, large = subgroup_rows(y, score, split_groups(site))
    assert (small["n"], small["events"], small["auroc"], small["ci"]) == (7, 3, None, None)
    assert "fewer than 5" in small["note"]
    inside = (site == "B").to_numpy()
    known = auroc(y[inside], score[inside])
    assert (large["n"], large["events"], large["note"]) == (12, 5, None)
    assert (large["auroc"], large["ci"]) == (known.value, [known.low, known.high])
