"""Conformal sets: each class gets its coverage; p-values by counting."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from monai_vfx.analysis.calibration.conformal import ConformalSets, name_set
from monai_vfx.core.errors import SettingError


def draw(rng, cases: int, others: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.r_[np.ones(cases, int), np.zeros(others, int)]
    return expit(rng.normal(1.2 * labels - 0.5, 1.0)), labels


def test_p_values_count_the_stranger_patients_of_the_class():
    known = ConformalSets.fit(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0, 0, 0, 0, 1, 1, 1, 1], confidence=0.7
    )
    # No fracture: calibration scores at least 0.35 are 1 (0.4), so (1 + 1) / 5; with a fracture
    # none is as low, so 1 / 5. At 70 % a p-value must exceed 0.3.
    assert known.p_values([0.35])[0] == pytest.approx([0.4, 0.2])
    assert known.sets([0.35, 0.45, 0.65]).tolist() == [
        [True, False],
        [False, False],
        [False, True],
    ]


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_each_class_is_covered_on_new_patients(confidence):
    shares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        fitted = ConformalSets.fit(*draw(rng, 60, 240), confidence=confidence)
        scores, labels = draw(rng, 300, 300)
        sets = fitted.sets(scores)
        shares.append([sets[labels == value, value].mean() for value in (0, 1)])
    for share in np.mean(shares, axis=0):
        assert confidence - 0.01 < share < confidence + 0.03


def test_a_level_that_the_class_cannot_bear_is_refused():
    scores, labels = draw(np.random.default_rng(0), 9, 50)
    with pytest.raises(SettingError, match="9 patients; 10 are needed"):
        ConformalSets.fit(scores, labels, confidence=0.9)
    with pytest.raises(SettingError, match="confidence"):
        ConformalSets.fit(scores, labels, confidence=1.0)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        ConformalSets.fit(scores * 100, labels, confidence=0.5)


def test_sets_survive_their_document_and_have_names():
    fitted = ConformalSets.fit(*draw(np.random.default_rng(1), 40, 40))
    assert ConformalSets.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert name_set([True, False]) == "no fracture"
