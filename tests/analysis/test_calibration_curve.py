"""Calibration of risks: against closed forms, Newton's method and known miscalibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from statsmodels.stats.proportion import proportion_confint

from monai_vfx.analysis.evaluation.calibration_curve import calibration_summary, reliability_bins


def drawn(n=4000, seed=0):
    """Patients whose true risk is known, and their outcomes."""
    rng = np.random.default_rng(seed)
    truth = expit(rng.normal(-2.2, 1.0, n))
    return rng.random(n) < truth, truth


def newton(y, x, offset):
    """Logistic regression by Newton's method: coefficients and standard errors."""
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        p = expit(x @ beta + offset)
        information = x.T @ (x * (p * (1 - p))[:, None])
        beta = beta + np.linalg.solve(information, x.T @ (y - p))
    return beta, np.sqrt(np.diag(np.linalg.inv(information)))


class TestSlopeAndIntercept:
    def test_equal_newtons_method(self):
        y, truth = drawn(500)
        summary = calibration_summary(y, truth)
        ones = np.ones((500, 1))
        for key, x, offset, which in (
            ("slope", np.column_stack([ones, logit(truth)]), 0.0, 1),
            ("intercept", ones, logit(truth), 0),
        ):
            beta, error = newton(y, x, offset)
            bounds = beta[which] + 1.959963984540054 * error[which] * np.array([-1, 1])
            assert summary[key] == pytest.approx(beta[which], abs=1e-7)
            assert summary[f"{key}_ci"] == pytest.approx(bounds, abs=1e-6)

    def test_true_risks_are_calibrated(self):
        summary = calibration_summary(*drawn())
        assert summary["slope_ci"][0] < 1 < summary["slope_ci"][1]
        assert summary["intercept_ci"][0] < 0 < summary["intercept_ci"][1]
        assert summary["expected_observed_ci"][0] < 1 < summary["expected_observed_ci"][1]
        assert summary["ici"] < 0.02
        assert summary["notes"] == []

    def test_a_shifted_and_stretched_risk_is_found_out(self):
        # logit r = 2 logit p + 1 has slope 1/2.
        y, truth = drawn(20000)
        slope = calibration_summary(y, expit(2 * logit(truth) + 1))["slope"]
        assert slope == pytest.approx(0.5 * calibration_summary(y, truth)["slope"], abs=1e-6)
        shifted = calibration_summary(y, expit(logit(truth) + 1))
        exact = calibration_summary(y, truth)
        assert shifted["intercept"] == pytest.approx(exact["intercept"] - 1, abs=1e-6)
        assert shifted["slope"] == pytest.approx(exact["slope"], abs=1e-6)

    def test_two_risks_have_a_closed_form(self):
        # 1 of 10 fracture at risk 0.2, 3 of 10 at 0.5: the slope joins the two observed logits.
        y = np.r_[np.repeat([1, 0], [1, 9]), np.repeat([1, 0], [3, 7])]
        risk = np.repeat([0.2, 0.5], 10)
        summary = calibration_summary(y, risk)
        expected = (logit(0.3) - logit(0.1)) / (logit(0.5) - logit(0.2))
        assert summary["slope"] == pytest.approx(expected, abs=1e-7)
        assert summary["ici"] == pytest.approx((0.1 + 0.2) / 2)
        assert summary["mean_predicted"] == pytest.approx(0.35)
        assert summary["expected_observed"] == pytest.approx(7 / 4)
        # se(log E/O) = √((1 - 0.2) / 4)
        half = 1.959963984540054 * np.sqrt(0.2)
        assert np.log(summary["expected_observed_ci"]) == pytest.approx(
            [np.log(7 / 4) - half, np.log(7 / 4) + half]
        )


class TestScores:
    def test_brier_by_hand(self):
        summary = calibration_summary([0, 1, 0, 1], [0.2, 0.6, 0.4, 0.3])
        assert summary["brier"] == pytest.approx((0.04 + 0.16 + 0.16 + 0.49) / 4)
        assert summary["scaled_brier"] == pytest.approx(1 - (0.85 / 4) / 0.25)

    def test_ici_of_a_known_distance(self):
        # Risks too high by exactly 0.2 everywhere, on outcomes that follow a straight line.
        rng = np.random.default_rng(3)
        truth = rng.uniform(0.1, 0.6, 30000)
        y = rng.random(30000) < truth
        assert calibration_summary(y, truth + 0.2)["ici"] == pytest.approx(0.2, abs=0.01)
        assert calibration_summary(y, truth)["ici"] < 0.01


class TestReliabilityBins:
    def test_deciles_hold_everyone_once_with_wilson_intervals(self):
        y, truth = drawn(1005)
        rows = reliability_bins(y, truth)
        assert len(rows) == 10
        assert sum(row["n"] for row in rows) == 1005
        assert {row["n"] for row in rows} <= {100, 101}
        assert sum(row["events"] for row in rows) == y.sum()
        order = np.argsort(truth)
        first = order[: rows[0]["n"]]
        assert rows[0]["predicted"] == pytest.approx(truth[first].mean())
        assert rows[0]["events"] == y[first].sum()
        for row in rows:
            expected = proportion_confint(row["events"], row["n"], method="wilson")
            assert row["ci"] == pytest.approx(expected, abs=1e-9)

    def test_equal_risks_stay_together(self):
        rows = reliability_bins([0, 1, 0, 1, 1, 0], [0.1, 0.1, 0.1, 0.1, 0.5, 0.9], bins=3)
        assert [row["n"] for row in rows] == [4, 2]


class TestNoAnswer:
    def test_risk_of_zero_or_one(self):
        summary = calibration_summary([0, 1, 0, 1], [0.0, 0.6, 0.4, 1.0])
        assert summary["slope"] is summary["slope_ci"] is None
        assert summary["intercept"] is summary["intercept_ci"] is None
        assert summary["notes"] == ["slope and intercept: 2 patients have a risk of exactly 0 or 1"]
        assert summary["brier"] == pytest.approx((0.16 + 0.16) / 4)

    def test_one_risk_for_all_keeps_the_intercept(self):
        summary = calibration_summary([0, 1, 0, 0], [0.5] * 4)
        assert summary["slope"] is None
        assert summary["ici"] is None
        assert summary["intercept"] == pytest.approx(logit(0.25), abs=1e-7)
        assert len(summary["bins"]) == 1
        assert len(summary["notes"]) == 2

    def test_most_patients_at_one_risk(self):
        rng = np.random.default_rng(0)
        risk = np.where(rng.random(300) < 0.7, 0.1, rng.uniform(0, 1, 300))
        summary = calibration_summary(rng.random(300) < risk, risk)
        assert summary["ici"] is None
        assert summary["notes"][0].startswith("ici: more than half")
        assert summary["slope"] is not None

    @pytest.mark.parametrize("y", [[0, 0, 1, 1], [1, 1, 0, 0]])
    @pytest.mark.parametrize("risk", [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.2, 0.4]])
    def test_separated_outcomes(self, y, risk):
        summary = calibration_summary(y, risk)
        assert summary["slope"] is None
        assert "separate" in summary["notes"][0]
        assert np.isfinite(summary["intercept"])

    @pytest.mark.parametrize(
        ("y", "risk", "bins", "message"),
        [
            ([0, 1], [0.1, 7.0], 10, "percent"),
            ([0, 1], [-0.1, 0.5], 10, "must lie in"),
            ([0, 0], [0.1, 0.5], 10, "both outcomes"),
            ([0, 1], [0.1, np.nan], 10, "finite"),
            ([0, 1], [0.1, 0.2], 1, "bins"),
        ],
    )
    def test_refuses(self, y, risk, bins, message):
        with pytest.raises(ValueError, match=message):
            calibration_summary(y, risk, bins=bins)
