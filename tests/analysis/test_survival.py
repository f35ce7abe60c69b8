"""Survival: closed forms, hand counts, brute force, lifelines."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import binom

from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.analysis.evaluation.incidence import check_times, cumulative_incidence
from monai_vfx.analysis.evaluation.survival import time_auroc, time_brier, time_summary


def patients(n, seed, decimals=1, censoring=True):
    """Follow-up with both kinds of event; rounding to ``decimals`` makes ties."""
    rng = np.random.default_rng(seed)
    score = np.round(rng.normal(size=n), 1)
    fracture = rng.exponential(12 * np.exp(-0.7 * score))
    death = rng.exponential(25, n)
    end = np.minimum(rng.uniform(1, 9, n), 7) if censoring else np.full(n, 50.0)
    time = np.minimum(np.minimum(fracture, death), end)
    event = np.where(time == end, 0, np.where(time == fracture, 1, 2))
    return np.round(time, decimals), event, score


def brute_weight(time, event, moment):
    """1 / P(not censored before ``moment``), by one loop over the times of censoring."""
    chance = 1.0
    for when in sorted({t for t, e in zip(time, event, strict=True) if e == 0 and t < moment}):
        left = sum(t > when or (t == when and e == 0) for t, e in zip(time, event, strict=True))
        chance *= 1 - sum(t == when and e == 0 for t, e in zip(time, event, strict=True)) / left
    return 1 / chance


def brute_auroc(time, event, score, horizon):
    """A double loop over pairs."""
    above = total = 0.0
    for ti, ei, si in zip(time, event, score, strict=True):
        if not (ei == 1 and ti <= horizon):
            continue
        for tj, ej, sj in zip(time, event, score, strict=True):
            if ej == 2 and tj <= horizon:
                moment = tj
            elif tj > horizon or (tj == horizon and ej == 0):
                moment = horizon
            else:
                continue
            weight = brute_weight(time, event, ti) * brute_weight(time, event, moment)
            total += weight
            above += weight * ((si > sj) + 0.5 * (si == sj))
    return above / total


def brute_brier(time, event, risk, horizon):
    total = 0.0
    for t, e, r in zip(time, event, risk, strict=True):
        if e != 0 and t <= horizon:
            total += brute_weight(time, event, t) * ((e == 1) - r) ** 2
        elif t >= horizon:
            total += brute_weight(time, event, horizon) * r**2
    return total / len(time)


class TestCumulativeIncidence:
    def test_hand_count_with_a_fracture_and_a_death_at_one_time(self):
        # At 1: 1 of 5 fractures. At 2: S- = 4/5, one fracture and one death among 4.
        # At 3 one is censored. At 4: S- = 4/5 × 2/4 = 2/5, the last one fractures.
        curve = cumulative_incidence([1, 2, 2, 3, 4], [1, 1, 2, 0, 1])
        assert curve["times"] == [0, 1, 2, 3, 4]
        assert curve["fracture"] == pytest.approx([0, 0.2, 0.4, 0.4, 0.8])
        assert curve["death"] == pytest.approx([0, 0, 0.2, 0.2, 0.2])
        assert curve["at_risk"] == [5, 5, 4, 2, 1]
        assert (curve["n"], curve["events"], curve["deaths"], curve["censored"]) == (5, 3, 1, 1)

    @pytest.mark.parametrize("seed", range(4))
    def test_without_ties_equals_lifelines_with_its_interval(self, seed):
        from lifelines import AalenJohansenFitter

        time, event, _ = patients(120, seed, decimals=12)
        curve = cumulative_incidence(time, event)
        with warnings.catch_warnings():
            # lifelines takes the logarithm of 0 where the curve has not begun.
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            fitted = AalenJohansenFitter().fit(time, event, event_of_interest=1)
        at = np.searchsorted(fitted.timeline, curve["times"], side="right") - 1
        shares = fitted.cumulative_density_.to_numpy()[at, 0]
        bounds = np.sort(fitted.confidence_interval_.to_numpy()[at], axis=1)
        begun = shares > 0
        assert begun.sum() > 20
        assert curve["fracture"] == pytest.approx(shares, abs=1e-12)
        assert np.array(curve["ci"])[begun] == pytest.approx(bounds[begun], abs=1e-9)

    def test_without_censoring_it_is_the_share_with_binomial_variance(self):
        time, event, _ = patients(80, 1, censoring=False)
        curve = cumulative_incidence(time, event)
        at = curve["times"].index(5.0)
        share = np.mean((event == 1) & (time <= 5))
        assert curve["fracture"][at] == pytest.approx(share)
        half = 1.959963984540054 * np.sqrt(share * (1 - share) / 80) / (share * np.log(share))
        assert curve["ci"][at] == pytest.approx(sorted(share ** np.exp([half, -half])))

    def test_before_the_first_fracture_the_bound_is_clopper_and_pearsons(self):
        curve = cumulative_incidence([3, 3, 3, 4], [0, 0, 0, 1])
        assert curve["ci"][0] == [0, 0]
        assert curve["times"][1] == 1
        low, high = curve["ci"][1]
        assert low == 0
        assert binom.cdf(0, 4, high) == pytest.approx(0.025)
        assert curve["fracture"][-1] == 1
        assert curve["ci"][-1] == pytest.approx([0.025, 1])

    @pytest.mark.parametrize("last", [1, 2])
    def test_when_all_who_are_left_have_an_event_the_error_before_is_kept(self, last):
        # Nobody is left after 4, and the error of that step cannot be estimated.
        curve = cumulative_incidence([1, 2, 2, 3, 4], [1, 1, 2, 0, last])
        before, share = curve["fracture"][2], curve["fracture"][-1]
        low, _ = curve["ci"][2]
        error = np.log(np.log(low) / np.log(before)) * abs(before * np.log(before))
        half = error / abs(share * np.log(share))
        assert curve["ci"][-1] == pytest.approx(sorted(share ** np.exp([half, -half])))
        assert cumulative_incidence([1.0], [last])["ci"][-1] == pytest.approx(
            [0.025, 1] if last == 1 else [0, 0.975]
        )

    def test_nobody_fractures(self):
        curve = cumulative_incidence([1.5, 2.5], [0, 2])
        assert curve["times"] == [0, 1, 2, 2.5]
        assert curve["fracture"] == [0, 0, 0, 0]
        assert curve["death"] == [0, 0, 0, 1]
        assert cumulative_incidence([1.0], [0])["death"] == [0, 0]

    def test_curves_and_the_event_free_share_add_up_to_one(self):
        time, event, _ = patients(200, 5)
        from lifelines import KaplanMeierFitter

        curve = cumulative_incidence(time, event)
        times = np.unique(time[event > 0])
        free = KaplanMeierFitter().fit(time, event > 0).survival_function_at_times(times)
        sums = np.add(curve["fracture"], curve["death"])
        assert sums[np.searchsorted(curve["times"], times)] == pytest.approx(
            1 - free.to_numpy(), abs=1e-12
        )


class TestTimeAuroc:
    def test_without_censoring_it_is_the_plain_auroc_and_brier(self):
        time, event, score = patients(90, 2, censoring=False)
        fractured = (event == 1) & (time <= 5)
        area = time_auroc(time, event, score, 5)
        plain = auroc(fractured, score)
        assert area.value == pytest.approx(plain.value, abs=1e-15)
        assert area.variance == pytest.approx(plain.variance, rel=0.05)
        assert (area.events, area.n) == (plain.events, plain.n)
        risk = 1 / (1 + np.exp(-score))
        assert time_brier(time, event, risk, 5) == pytest.approx(
            np.mean((fractured - risk) ** 2), abs=1e-15
        )

    def test_by_hand_with_one_censored(self):
        # Five patients: fracture at 1; censored at 2; fracture at 3; free at 6 and at 7.
        # G falls at 2 from 1 to 3/4 (four at risk, one censored). Weights: fracture at 1: 1; at 3:
        # 4/3; free: 4/3 each. Scores: cases 0.9 and 0.3; controls 0.1 and 0.5.
        time, event = [1, 2, 3, 6, 7], [1, 0, 1, 0, 0]
        score = [0.9, 0.8, 0.3, 0.1, 0.5]
        # Case 0.9 beats both: 1 × 8/3; case 0.3 beats one: 4/3 × 4/3. All pairs: 7/3 × 8/3.
        expected = (1 * 8 / 3 + 4 / 3 * 4 / 3) / (7 / 3 * 8 / 3)
        assert time_auroc(time, event, score, 5).value == pytest.approx(expected)
        # Brier: (1 × 0.01 + 4/3 × 0.49 + 4/3 × 0.01 + 4/3 × 0.25) / 5.
        assert time_brier(time, event, score, 5) == pytest.approx((0.01 + 4 / 3 * 0.75) / 5)

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_a_double_loop(self, seed):
        time, event, score = patients(70, seed)
        time[:3], event[:3] = 5.0, [0, 1, 2]  # all three kinds exactly at the horizon
        area = time_auroc(time, event, score, 5)
        assert area.value == pytest.approx(brute_auroc(time, event, score, 5), abs=1e-12)
        risk = 1 / (1 + np.exp(-score))
        assert time_brier(time, event, risk, 5) == pytest.approx(
            brute_brier(time, event, risk, 5), abs=1e-12
        )

    def test_constant_risk_has_the_brier_score_of_the_aalen_johansen_curve(self):
        # Weights sum to n, and the weighted share of cases is the cumulative incidence F, so a
        # constant risk r has F (1 - r)² + (1 - F) r².
        time, event, _ = patients(150, 3)
        curve = cumulative_incidence(time, event)
        share = curve["fracture"][curve["times"].index(5.0)]
        expected = share * 0.7**2 + (1 - share) * 0.3**2
        assert time_brier(time, event, np.full(150, 0.3), 5) == pytest.approx(expected, abs=1e-12)

    def test_observed_for_exactly_the_horizon_is_event_free(self):
        time, event = np.full(40, 5.0), np.zeros(40)
        time[:10], event[:10] = 2.0, 1
        score = np.linspace(0, 1, 40)
        area = time_auroc(time, event, score, 5)
        assert (area.events, area.n) == (10, 40)
        assert area.value == 0
        assert (area.low, area.high) == pytest.approx((0, 1 - 0.025**0.1))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_variance_agrees_with_the_jackknife(self, seed):
        n = 300
        time, event, score = patients(n, seed)
        area = time_auroc(time, event, score, 5)
        leave_one_out = [
            time_auroc(np.delete(time, i), np.delete(event, i), np.delete(score, i), 5).value
            for i in range(n)
        ]
        jackknife = (n - 1) * np.var(leave_one_out)
        assert area.variance == pytest.approx(jackknife, rel=0.04)
        assert area.low < area.value < area.high

    def test_interval_holds_the_truth_as_often_as_it_says(self):
        from scipy.special import ndtr

        # Normal scores one SD apart; random censoring; the AUROC is Φ(1/√2) at any horizon.
        rng = np.random.default_rng(7)
        truth, inside = ndtr(1 / np.sqrt(2)), 0
        for _ in range(1000):
            sick = rng.random(250) < 0.3
            score = rng.normal(size=250) + sick
            time = np.where(sick, rng.uniform(0, 5, 250), 8.0)
            end = rng.uniform(2, 10, 250)
            event = np.where(sick & (time <= end), 1, 0)
            area = time_auroc(np.minimum(time, end), event, score, 5)
            inside += area.low <= truth <= area.high
        assert 930 <= inside <= 970

    def test_equal_scores_have_an_area_of_a_half_and_an_interval(self):
        area = time_auroc([1, 2, 3, 6, 7], [1, 0, 1, 0, 0], np.ones(5), 5)
        assert area.value == 0.5
        assert area.low < 0.5 < area.high

    def test_summary_counts_everyone_once(self):
        time, event, score = patients(120, 9)
        risk = 1 / (1 + np.exp(-score))
        summary = time_summary(time, event, score, 5, risk)
        assert summary["n"] == 120
        assert summary["events"] == ((event == 1) & (time <= 5)).sum()
        assert summary["deaths"] == ((event == 2) & (time <= 5)).sum()
        assert summary["censored"] == ((event == 0) & (time < 5)).sum()
        assert summary["brier"] == pytest.approx(brute_brier(time, event, risk, 5))
        assert time_summary(time, event, score, 5)["brier"] is None
        low, high = summary["ci"]
        assert low < summary["auroc"] < high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_times([1, 2], [0]), "event has 1 values but time has 2"),
        (lambda: check_times([1, np.nan], [0, 1]), "finite"),
        (lambda: check_times([1, 2], [0, 3]), "event holds 3.0 at position 1"),
        (lambda: time_auroc([1, 4], [1, 0], [0, 1], 5), "follow-up ends at 4.0 years"),
        (lambda: time_auroc([1, 2], [1, 1], [0, 1], 5), "2 fractures and 0 patients"),
        (lambda: time_auroc([6, 7], [1, 0], [0, 1], 5), "0 fractures and 2 patients"),
        (lambda: time_auroc([1, 6], [1, 0], [0], 5), "score has 1 values but time has 2"),
        (lambda: time_auroc([1, 6], [1, 0], [0, 1], 0), r"horizon_years \(0\)"),
        (lambda: time_brier([1, 6], [1, 0], [0, 1.5], 5), r"must lie in \[0, 1\]"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
