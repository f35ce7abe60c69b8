from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from monai_vfx import evaluation


def mann_whitney(y, score):
    """Count the pairs one by one: the definition of AUROC, ties half."""
    pairs = [
        (s > t) + 0.5 * (s == t)
        for (a, s), (b, t) in itertools.product(zip(y, score, strict=True), repeat=2)
        if a == 1 and b == 0
    ]
    return sum(pairs) / len(pairs)


def delong_variance(y, score):
    """DeLong's formula written out with loops over structural components."""
    events = [s for a, s in zip(y, score, strict=True) if a == 1]
    others = [s for a, s in zip(y, score, strict=True) if a == 0]

    def psi(s, t):
        return (s > t) + 0.5 * (s == t)

    v10 = [sum(psi(s, t) for t in others) / len(others) for s in events]
    v01 = [sum(psi(s, t) for s in events) / len(events) for t in others]
    mean = sum(v10) / len(v10)
    s10 = sum((v - mean) ** 2 for v in v10) / (len(v10) - 1)
    s01 = sum((v - mean) ** 2 for v in v01) / (len(v01) - 1)
    return s10 / len(v10) + s01 / len(v01)


tables = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=4, max_size=25).filter(
    lambda rows: 1 < sum(a for a, _ in rows) < len(rows) - 1
)


@given(tables)
@settings(max_examples=150, deadline=None)
def test_auroc_and_variance_equal_the_pair_counts(rows):
    y, score = zip(*rows, strict=True)
    result = evaluation.auroc(y, score)
    assert result.value == pytest.approx(mann_whitney(y, score), abs=1e-12)
    if result.interval == "delong_logit":
        assert result.variance == pytest.approx(delong_variance(y, score), abs=1e-12)
    assert (result.n, result.events) == (len(y), sum(y))
    assert 0 <= result.ci_low <= result.value <= result.ci_high <= 1
    assert result.ci_low < result.ci_high


@given(tables)
@settings(max_examples=60, deadline=None)
def test_reversing_the_score_mirrors_everything(rows):
    y, score = zip(*rows, strict=True)
    forward = evaluation.auroc(y, score)
    back = evaluation.auroc(y, [-s for s in score])
    assert back.value == pytest.approx(1 - forward.value, abs=1e-12)
    assert back.ci_low == pytest.approx(1 - forward.ci_high, abs=1e-9)
    assert back.interval == forward.interval


def test_hand_computed_case_with_a_tie():
    # Events .35 .8 .4 have 1, 2 and 1.5 of two non-events below them: 4.5 / 6.
    # V10 = (.5, 1, .75), V01 = (1, .5): variance .0625/3 + .125/2 = 1/12.
    result = evaluation.auroc([0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.4])
    assert result.value == 0.75
    assert result.variance == pytest.approx(1 / 12)
    half = norm.ppf(0.975) * math.sqrt(1 / 12) / (0.75 * 0.25)
    assert result.ci_low == pytest.approx(1 / (1 + math.exp(half) / 3))
    assert result.ci_high == pytest.approx(1 / (1 + math.exp(-half) / 3))


def test_score_scale_does_not_matter():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 60)
    score = rng.normal(size=60) + y
    assert evaluation.auroc(y, score) == evaluation.auroc(y, np.exp(score))


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, 0.0)])
def test_separable_classes_have_an_exact_bound(sign, value):
    y = [0] * 5 + [1] * 3
    result = evaluation.auroc(y, sign * np.arange(8.0))
    bound = 0.025 ** (1 / 3)  # three of three successes, Clopper and Pearson
    expected = (bound, 1.0) if value else (0.0, 1 - bound)
    assert result.value == value
    assert (result.ci_low, result.ci_high) == pytest.approx(expected)
    assert result.interval == "exact_extreme"


def test_equal_scores_fall_back_on_hanley_mcneil():
    # At A = 1/2 Hanley and McNeil's variance is Wilcoxon's, (m + k + 1) / (12 m k).
    result = evaluation.auroc([0, 0, 0, 1, 1], [7, 7, 7, 7, 7])
    assert result.value == 0.5
    assert result.variance == pytest.approx(6 / (12 * 2 * 3))
    assert result.interval == "hanley_mcneil_logit"
    assert result.ci_low < 0.5 < result.ci_high


def test_one_event_still_has_an_interval():
    result = evaluation.auroc([0, 0, 1], [1.0, 3.0, 2.0])
    assert (result.value, result.interval) == (0.5, "hanley_mcneil_logit")
    assert result.ci_low < 0.2
    assert result.ci_high > 0.8


def test_interval_covers_the_truth_as_often_as_it_says():
    # Two normals one SD apart: the true AUROC is Φ(1/√2).
    rng = np.random.default_rng(11)
    truth = norm.cdf(1 / math.sqrt(2))
    y = np.repeat([0, 1], [60, 25])
    hits = 0
    for _ in range(600):
        result = evaluation.auroc(y, rng.normal(size=y.size) + y)
        hits += result.ci_low <= truth <= result.ci_high
    assert 0.925 < hits / 600 < 0.975


def test_hanley_mcneil_golden_figure():
    half = norm.ppf(0.975) * math.sqrt(
        evaluation.hanley_mcneil_variance(0.827, events=61, nonevents=434)
    )
    assert (round(0.827 - half, 3), round(0.827 + half, 3)) == (0.762, 0.892)


def test_delong_test_of_identical_predictions():
    y = [0, 1, 0, 1, 1]
    score = [0.2, 0.3, 0.6, 0.7, 0.9]
    for other in (score, [10 * s for s in score]):
        result = evaluation.delong_test(y, score, other)
        assert (result.difference, result.z, result.p) == (0.0, 0.0, 1.0)


def test_delong_test_equals_the_formula_written_out():
    rng = np.random.default_rng(5)
    y = np.repeat([0, 1], [17, 9])
    a = np.round(rng.normal(size=26) + y, 1)
    b = np.round(0.5 * a + rng.normal(size=26), 1)
    result = evaluation.delong_test(y, a, b)
    components = []
    for score in (a, b):
        psi = (score[y == 1][:, None] > score[y == 0]) + 0.5 * (
            score[y == 1][:, None] == score[y == 0]
        )
        components.append((psi.mean(1), psi.mean(0)))
    (a10, a01), (b10, b01) = components
    covariance = np.cov(a10, b10) / 9 + np.cov(a01, b01) / 17
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert result.variance == pytest.approx(variance)
    assert result.difference == pytest.approx(mann_whitney(y, a) - mann_whitney(y, b))
    assert result.p == pytest.approx(2 * norm.sf(abs(result.difference) / math.sqrt(variance)))
    swapped = evaluation.delong_test(y, b, a)
    assert (swapped.z, swapped.p) == pytest.approx((-result.z, result.p))


def test_delong_test_holds_its_level():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], [50, 50])
    shared = rng.normal(size=(1500, 100)) + y
    p = [
        evaluation.delong_test(y, s + rng.normal(size=100), s + rng.normal(size=100)).p
        for s in shared
    ]
    assert 0.033 < np.mean(np.array(p) < 0.05) < 0.067  # three standard errors


def test_delong_test_without_variance_does_not_claim_certainty():
    y = [0, 0, 0, 1, 1, 1]
    result = evaluation.delong_test(y, [1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3])
    assert (result.auroc_a, result.auroc_b) == (1.0, 0.0)
    assert result.p == pytest.approx(2 * 0.5**3)
    assert result.z == pytest.approx(norm.isf(0.125))


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 1, 1], [0.1, math.nan, 0.2], "score holds nan at position 1"),
        ([0, 1, 1], [0.1, 0.2, math.inf], "score holds inf at position 2"),
        ([0, math.nan, 1], [0.1, 0.2, 0.3], "y holds nan at position 1"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "y holds 2.0 at position 2"),
        ([1, 1], [0.1, 0.2], "y holds 2 fractures among 2"),
        ([0, 0], [0.1, 0.2], "y holds 0 fractures among 2"),
        ([0, 1], [0.1, 0.2, 0.3], "score has 3 values but y has 2"),
        ([0, 1], [[0.1], [0.2]], r"score has the shape \(2, 1\)"),
        ([], [], r"y has the shape \(0,\)"),
        (["yes", "no"], [0.1, 0.2], "y must hold numbers only"),
        ([0, 1], ["a", "b"], "score must hold numbers only"),
    ],
)
def test_the_gate_names_what_is_wrong(y, score, message):
    for measure in (evaluation.auroc, evaluation.roc_curve):
        with pytest.raises(ValueError, match=message):
            measure(y, score)


def test_the_gate_of_the_paired_test_names_the_score():
    with pytest.raises(ValueError, match="score_b holds nan"):
        evaluation.delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, math.nan, 4])
    with pytest.raises(ValueError, match="two of each are needed"):
        evaluation.delong_test([0, 1, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match="confidence"):
        evaluation.auroc([0, 1], [0, 1], confidence=confidence)
    with pytest.raises(ValueError, match="confidence"):
        evaluation.wilson_interval(1, 2, confidence=confidence)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=80, deadline=None)
def test_wilson_bounds_solve_the_score_equation(counts):
    successes, n = counts
    share = evaluation.wilson_interval(successes, n)
    assert share.ci_low <= share.value <= share.ci_high
    for bound in (share.ci_low, share.ci_high):
        if 0 < bound < 1:
            z = (share.value - bound) / math.sqrt(bound * (1 - bound) / n)
            assert abs(z) == pytest.approx(norm.ppf(0.975), rel=1e-6)


def test_wilson_golden_values():
    # z² / (n + z²) is the upper bound when nothing was counted.
    square = norm.ppf(0.975) ** 2
    assert evaluation.wilson_interval(0, 20).ci_high == pytest.approx(square / (20 + square))
    half = evaluation.wilson_interval(5, 10)
    assert (half.ci_low, half.ci_high) == pytest.approx((0.2366, 0.7634), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4), (0, 0), (1.5, 4), (1, 4.5)])
def test_wilson_rejects_what_is_no_count(successes, n):
    with pytest.raises(ValueError, match="whole number"):
        evaluation.wilson_interval(successes, n)


def test_roc_curve_encloses_the_auroc():
    rng = np.random.default_rng(8)
    y = np.repeat([0, 1], [40, 20])
    score = np.round(rng.normal(size=60) + y, 1)
    curve = evaluation.roc_curve(y, score)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(evaluation.auroc(y, score).value)
    assert (curve.n, curve.events) == (60, 20)
    assert curve.thresholds[0] == math.inf


def test_json_entry_has_the_contract_keys():
    entry = evaluation.auroc([0, 1, 0, 1], [0.2, 0.3, 0.4, 0.9]).to_json()
    assert entry["n"] == 4
    assert entry["events"] == 2
    assert entry["auroc"] == 0.75
    assert len(entry["auroc_ci"]) == 2
