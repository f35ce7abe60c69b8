"""Agreement: scikit-learn, published examples, closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import cohen_kappa_score

from monai_vfx.analysis.evaluation.agreement import (
    intraclass_correlation,
    limits_of_agreement,
    weighted_kappa,
)

SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]
"""Six subjects by four judges, Shrout and Fleiss 1979, table 2."""


def two_readers(n, seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 4, n)
    second = np.clip(first + rng.choice([-1, 0, 0, 0, 1], n), 0, 3)
    return first, second


class TestWeightedKappa:
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_scikit_learn(self, seed):
        first, second = two_readers(80, seed)
        kappa = weighted_kappa(first, second, categories=[0, 1, 2, 3])
        expected = cohen_kappa_score(first, second, weights="quadratic", labels=[0, 1, 2, 3])
        assert kappa.value == pytest.approx(expected, abs=1e-12)
        assert kappa.n == 80

    def test_interval_agrees_with_the_bootstrap(self):
        first, second = two_readers(300, 1)
        kappa = weighted_kappa(first, second, categories=[0, 1, 2, 3])
        rng = np.random.default_rng(0)
        drawn = [
            cohen_kappa_score(first[rows], second[rows], weights="quadratic", labels=[0, 1, 2, 3])
            for rows in rng.integers(0, 300, (500, 300))
        ]
        width = kappa.high - kappa.low
        assert width == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.12)
        assert (kappa.low + kappa.high) / 2 == pytest.approx(kappa.value)

    def test_two_grades_by_hand(self):
        # 20 both yes, 15 both no, 5 and 10 split: observed 0.7, by chance 0.5, kappa 0.4.
        first = np.repeat(["yes", "yes", "no", "no"], [20, 5, 10, 15])
        second = np.repeat(["yes", "no", "yes", "no"], [20, 5, 10, 15])
        kappa = weighted_kappa(first, second, categories=["no", "yes"])
        assert kappa.value == pytest.approx(0.4)
        # Fleiss 1969: SE² = (Σ pii (1 - (pi. + p.i)(1 - κ))² + (1 - κ)² Σ pij (p.i + pj.)²
        #   - (κ - pe (1 - κ))²) / (n (1 - pe)²)
        diagonal = 0.4 * (1 - 1.1 * 0.6) ** 2 + 0.3 * (1 - 0.9 * 0.6) ** 2
        beside = 0.36 * (0.1 * (0.6 + 0.5) ** 2 + 0.2 * (0.4 + 0.5) ** 2)
        error = np.sqrt((diagonal + beside - (0.4 - 0.5 * 0.6) ** 2) / (50 * 0.25))
        assert kappa.low == pytest.approx(0.4 - 1.959963984540054 * error)

    def test_a_grade_nobody_gave_counts_in_no_way_for_quadratic_weights(self):
        first, second = two_readers(60, 2)
        four = weighted_kappa(first, second, categories=[0, 1, 2, 3])
        five = weighted_kappa(first, second, categories=[0, 1, 2, 3, 4])
        assert four.value == pytest.approx(five.value)
        assert four.low == pytest.approx(five.low)

    def test_perfect_agreement_is_not_certain(self):
        kappa = weighted_kappa([0, 1, 2, 2, 0, 1], [0, 1, 2, 2, 0, 1], categories=[0, 1, 2])
        assert kappa.value == kappa.high == 1
        # At least 0.025^(1/6) agree; by chance the mean squared distance of thirds is 4/3.
        assert kappa.low == pytest.approx(1 - (1 - 0.025 ** (1 / 6)) / (4 / 3))

    @pytest.mark.parametrize(
        ("first", "second", "categories", "message"),
        [
            ([0, 0], [0, 0], [0, 1], "same grade"),
            ([0, 1], [0], [0, 1], "2 grades and second 1"),
            ([], [], [0, 1], "0 grades"),
            ([0, 5], [0, 1], [0, 1], "grade 5 is not among"),
            ([0, 0], [0, 0], [0], "two or more"),
        ],
    )
    def test_refuses(self, first, second, categories, message):
        with pytest.raises(ValueError, match=message):
            weighted_kappa(first, second, categories=categories)


class TestIntraclassCorrelation:
    def test_shrout_and_fleiss(self):
        # Values and intervals as printed for this table by R's psych and irr.
        absolute = intraclass_correlation(SHROUT_FLEISS)
        assert absolute.value == pytest.approx(0.29, abs=0.005)
        assert (absolute.low, absolute.high) == pytest.approx((0.019, 0.761), abs=0.001)
        assert absolute.n == 6

    def test_a_constant_shift_is_seen(self):
        rng = np.random.default_rng(0)
        truth = rng.normal(25, 3, 50)
        ratings = np.column_stack([truth, truth + 6]) + rng.normal(0, 0.1, (50, 2))
        assert intraclass_correlation(ratings).value < 0.5

    def test_known_share_of_variance(self):
        # Subjects' variance 9, error 1: ICC 0.9.
        rng = np.random.default_rng(1)
        ratings = rng.normal(0, 3, (3000, 1)) + rng.normal(0, 1, (3000, 3))
        result = intraclass_correlation(ratings)
        assert result.value == pytest.approx(0.9, abs=0.01)
        assert result.low < 0.9 < result.high

    def test_identical_readers(self):
        result = intraclass_correlation([[1, 1], [2, 2], [4, 4]])
        assert (result.value, result.low, result.high) == (1, 1, 1)

    @pytest.mark.parametrize(
        ("ratings", "message"),
        [
            ([1, 2, 3], "shape"),
            ([[1], [2]], "shape"),
            ([[1, 2], [np.nan, 3]], "missing"),
            ([[5, 5], [5, 5]], "do not differ"),
        ],
    )
    def test_refuses(self, ratings, message):
        with pytest.raises(ValueError, match=message):
            intraclass_correlation(ratings)


class TestLimitsOfAgreement:
    def test_by_hand(self):
        # Differences 1, 2, 3, 2: mean 2, SD √(2/3).
        limits = limits_of_agreement([11, 12, 13, 14], [10, 10, 10, 12])
        sd, t = np.sqrt(2 / 3), student.ppf(0.975, 3)
        assert limits.bias == 2
        assert limits.sd == pytest.approx(sd)
        assert limits.high == pytest.approx(2 + 1.959963984540054 * sd)
        assert limits.bias_ci == pytest.approx((2 - t * sd / 2, 2 + t * sd / 2))
        error = sd * np.sqrt(1 / 4 + 1.959963984540054**2 / 6)
        assert limits.low_ci == pytest.approx((limits.low - t * error, limits.low + t * error))
        assert limits.n == 4

    def test_limits_hold_their_share(self):
        rng = np.random.default_rng(2)
        second = rng.normal(25, 3, 20000)
        first = second + rng.normal(0.5, 1.2, 20000)
        limits = limits_of_agreement(first, second)
        difference = first - second
        assert np.mean((difference > limits.low) & (difference < limits.high)) == pytest.approx(
            0.95, abs=0.005
        )

    def test_refuses(self):
        with pytest.raises(ValueError, match="3 pairs"):
            limits_of_agreement([1, 2], [1, 2])
