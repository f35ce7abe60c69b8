"""Decision curves against the closed formula."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monai_vfx.analysis.evaluation.decision_curve import THRESHOLDS, decision_curve


def formula(y, risk, cut, prevalence):
    sensitivity = np.mean(risk[y == 1] >= cut)
    false_positive = np.mean(risk[y == 0] >= cut)
    return sensitivity * prevalence - false_positive * (1 - prevalence) * cut / (1 - cut)


@pytest.mark.parametrize("prevalence", [None, 0.0374])
def test_equals_the_formula_with_ties_at_thresholds(prevalence):
    rng = np.random.default_rng(1)
    y = (rng.random(300) < 0.3).astype(int)
    risk = np.round(np.clip(rng.beta(2, 6, 300) + 0.1 * y, 0, 1), 2)
    share = y.mean() if prevalence is None else prevalence
    rows = decision_curve(y, risk, prevalence=prevalence)
    assert [row["threshold"] for row in rows] == list(THRESHOLDS)
    for row in rows:
        cut = row["threshold"]
        assert row["net_benefit"] == pytest.approx(formula(y, risk, cut, share), abs=1e-12)
        assert row["treat_all"] == pytest.approx(share - (1 - share) * cut / (1 - cut), abs=1e-12)
        assert row["treat_none"] == 0


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_equals_dcurves(prevalence):
    from dcurves import dca

    rng = np.random.default_rng(2)
    y = (rng.random(200) < 0.2).astype(int)
    risk = np.round(rng.beta(2, 6, 200), 2)
    rows = dca(
        data=pd.DataFrame({"y": y, "risk": risk}),
        outcome="y",
        modelnames=["risk"],
        thresholds=list(THRESHOLDS),
        prevalence=prevalence,
    )
    for model, key in (("risk", "net_benefit"), ("all", "treat_all"), ("none", "treat_none")):
        theirs = rows.loc[rows["model"] == model, "net_benefit"].to_numpy()
        ours = [row[key] for row in decision_curve(y, risk, prevalence=prevalence)]
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_perfect_risks_gain_the_prevalence_at_every_threshold():
    rows = decision_curve([0, 0, 0, 1], [0.0, 0.0, 0.0, 1.0])
    assert [row["net_benefit"] for row in rows] == pytest.approx([0.25] * 50)


def test_nobody_at_the_threshold_gains_nothing():
    assert decision_curve([0, 1], [0.1, 0.2], thresholds=[0.3])[0]["net_benefit"] == 0


@pytest.mark.parametrize(
    ("risk", "settings", "message"),
    [
        ([0.1, 20.0], {}, "percent"),
        ([0.1, 0.2], {"thresholds": [0.0]}, "thresholds"),
        ([0.1, 0.2], {"thresholds": []}, "thresholds"),
        ([0.1, 0.2], {"prevalence": 1.0}, "prevalence"),
    ],
)
def test_refuses(risk, settings, message):
    with pytest.raises(ValueError, match=message):
        decision_curve([0, 1], risk, **settings)
