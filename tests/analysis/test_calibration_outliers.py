"""Cases unlike the training set, and how far the models of an ensemble disagree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t as student

from monai_vfx.analysis.calibration.model import ensemble_interval
from monai_vfx.analysis.calibration.outliers import OutlierDetector
from monai_vfx.core.errors import SettingError


def features(rng, n: int, width: int) -> np.ndarray:
    """Correlated features of very different scales, as a network's last layer gives."""
    mixing = np.random.default_rng(7).normal(size=(5, width))
    return (rng.normal(size=(n, 5)) @ mixing + 0.3 * rng.normal(size=(n, width))) * np.logspace(
        -2, 2, width
    )


@pytest.mark.parametrize(("n", "width"), [(200, 16), (200, 64), (60, 300)])
def test_false_flags_are_as_stated_and_strangers_are_flagged(n, width):
    rates, found = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        detector = OutlierDetector.fit(features(rng, n, width), quantile=0.9)
        new = features(rng, 300, width)
        rates.append(detector.flag(new).mean())
        typical = np.abs(new).mean(axis=0)
        strange = np.random.default_rng(seed).choice([-3.0, 3.0], size=(20, width)) * typical
        found.append(detector.flag(strange).mean())
    assert 0.05 < np.mean(rates) < 0.13
    assert min(found) == 1.0


def test_a_case_off_the_plane_of_the_training_cases_is_flagged():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 50))
    detector = OutlierDetector.fit(plane, quantile=0.95)
    aside = plane[:20] + rng.normal(size=(20, 50))
    assert detector.flag(aside).all()
    assert detector.flag(plane).mean() < 0.1


def test_without_shrinkage_to_speak_of_the_distance_is_mahalanobis():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20000, 3)) @ np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0, 0, 0.7]])
    detector = OutlierDetector.fit(rows)
    away = rows[:50] - rows.mean(axis=0)
    precision = np.linalg.inv(np.cov(rows.T))
    expected = np.sqrt(np.einsum("ij,jk,ik->i", away, precision, away))
    assert detector.distance(rows[:50]) == pytest.approx(expected, rel=0.01)
    # Three dimensions: the 95 % quantile of chi with 3 degrees of freedom is 2.795.
    assert detector.threshold == pytest.approx(2.795, rel=0.02)


def test_a_detector_survives_its_document_and_repeats():
    rows = features(np.random.default_rng(0), 80, 40)
    detector = OutlierDetector.fit(rows, seed=3)
    text = json.dumps(detector.to_json())
    again = OutlierDetector.from_json(json.loads(text))
    np.testing.assert_array_equal(again.distance(rows), detector.distance(rows))
    assert (again.threshold, again.n, again.quantile) == (detector.threshold, 80, 0.95)
    assert json.dumps(OutlierDetector.fit(rows, seed=3).to_json()) == text


def test_a_feature_that_never_varies_does_no_harm():
    rows = features(np.random.default_rng(0), 60, 10)
    rows[:, 3] = 5.0
    detector = OutlierDetector.fit(rows)
    assert np.isfinite(detector.distance(rows)).all()
    other = rows[:1].copy()
    other[0, 3] = 50.0
    assert detector.flag(other).all()


def test_wrong_features_are_named():
    rows = features(np.random.default_rng(0), 60, 10)
    with pytest.raises(SettingError, match="19 cases"):
        OutlierDetector.fit(rows[:19])
    with pytest.raises(SettingError, match="needs more than the 60 cases"):
        OutlierDetector.fit(rows, quantile=0.99)
    with pytest.raises(SettingError, match=r"quantile \(1.0\)"):
        OutlierDetector.fit(rows, quantile=1.0)
    with pytest.raises(ValueError, match="finite"):
        OutlierDetector.fit(np.where(rows == rows[0, 0], np.nan, rows))
    with pytest.raises(ValueError, match="9 columns; 10"):
        OutlierDetector.fit(rows).distance(rows[:, :9])


def test_risk_interval_by_hand():
    risks = np.array([[0.1], [0.2], [0.4]])
    scale = logit(risks[:, 0])
    half = student.ppf(0.975, 2) * np.sqrt(4 / 3) * scale.std(ddof=1)
    expected = expit([scale.mean() - half, scale.mean() + half])
    assert ensemble_interval(risks)[0] == pytest.approx(expected)


def test_risk_interval_holds_the_mean_and_one_more_model():
    rng = np.random.default_rng(0)
    members = expit(-2 + 0.5 * rng.normal(size=(11, 4000)))
    low, high = ensemble_interval(members[:10]).T
    assert ((low <= members[:10].mean(axis=0)) & (members[:10].mean(axis=0) <= high)).all()
    assert np.mean((low <= members[10]) & (members[10] <= high)) == pytest.approx(0.95, abs=0.015)
    assert ensemble_interval([[0.3], [0.3]])[0] == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize("wrong", [[[0.1, 0.2]], [0.1, 0.2], [[0.1], [1.2]], [[0.1], [np.nan]]])
def test_what_is_no_ensemble_is_refused(wrong):
    with pytest.raises(ValueError, match="member_risks"):
        ensemble_interval(wrong)
