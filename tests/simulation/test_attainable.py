"""Attainable AUROCs: against closed forms, one method against the other, and fitted models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.cli import main
from monai_vfx.simulation import attainable as module
from monai_vfx.simulation.attainable import attainable_aurocs, best_scores
from monai_vfx.simulation.hazard import HAZARDS
from monai_vfx.simulation.patients import draw_population

GAUSSIAN = {"one": ("x",), "both": ("x", "z"), "useless": ("u",)}


def gaussian_draw(hospital, signal, count, seed):
    """Two Gaussian groups, 0.8 and 0.6 SD apart in independent variables; z also spreads."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    return pd.DataFrame(
        {"fracture": y, "x": 0.8 * y, "z": 0.6 * y, "u": np.zeros(count)}
        | {name: rng.normal(size=count) + d * y for name, d in (("x", 0.8), ("z", 0.6), ("u", 0))}
    )


@pytest.mark.parametrize("method", ["splines", "trees"])
def test_two_gaussians_reach_their_closed_form(monkeypatch, method):
    # AUROC = Phi(d / sqrt 2); independent variables add their squared distances.
    monkeypatch.setattr(module, "CLASSES", GAUSSIAN)
    monkeypatch.setattr(module, "_draw", gaussian_draw)
    found = attainable_aurocs("external", count=40_000, method=method)
    for name, distance in (("one", 0.8), ("both", 1.0), ("useless", 0.0)):
        expected = norm.cdf(distance / np.sqrt(2))
        tolerance = 3 * found[name].standard_error + (0.002 if method == "trees" else 0)
        assert found[name].value == pytest.approx(expected, abs=tolerance)
        assert found[name].standard_error < 0.004


def test_a_variable_that_counts_by_its_distance_from_the_middle_is_used(monkeypatch):
    # N(0, 1) against N(0, 2): the best score is x²; P(|2 a| > |b|) = 2 arctan(2) / pi.
    def draw(hospital, signal, count, seed):
        frame = gaussian_draw(hospital, signal, count, seed)
        return frame.assign(x=frame["u"] * np.where(frame["fracture"] == 1, 2.0, 1.0))

    monkeypatch.setattr(module, "CLASSES", {"x": ("x",)})
    monkeypatch.setattr(module, "_draw", draw)
    found = attainable_aurocs("external", count=40_000)["x"]
    assert found.value == pytest.approx(2 * np.arctan(2) / np.pi, abs=4 * found.standard_error)


@pytest.fixture(scope="module")
def both():
    return {hospital: attainable_aurocs(hospital) for hospital in ("development", "external")}


def test_values_are_those_of_the_documentation(both):
    wanted = {
        "development": {"clinical_A": 0.55, "clinical_C": 0.627, "clinical_D": 0.627}
        | {"image_bone": 0.713, "image_bone_muscle": 0.769, "image_D": 0.807},
        "external": {"clinical_A": 0.705, "clinical_C": 0.734, "clinical_D": 0.734}
        | {"image_bone": 0.776, "image_bone_muscle": 0.838, "image_D": 0.848},
    }
    for hospital, values in wanted.items():
        for name, value in values.items():
            assert both[hospital][name].value == pytest.approx(value, abs=0.008)


def test_image_with_muscle_beats_bone_beats_clinical_in_both(both):
    for found in both.values():
        assert found["image_bone_muscle"].value > found["image_bone"].value + 0.04
        assert found["image_bone"].value > found["clinical_D"].value + 0.03
        assert found["everything"].value > found["image_bone_muscle"].value
        assert all(0 < one.standard_error < 0.004 for one in found.values())


def test_everything_is_the_true_risk_where_nobody_is_matched(both):
    people = draw_population(60_000, 21, "external")
    truth = auroc(people["fracture"], people["five_year_risk"])
    gap = both["external"]["everything"].value - truth.value
    assert abs(gap) < 3 * np.hypot(both["external"]["everything"].standard_error, 0.0024)


def test_no_muscle_leaves_no_gain_and_none_leaves_nothing_of_the_image():
    names = ["image_bone", "image_bone_muscle"]
    for hospital in ("development", "external"):
        found = attainable_aurocs(hospital, "no_muscle", classes=names)
        assert abs(found["image_bone_muscle"].value - found["image_bone"].value) < 0.005
    nothing = attainable_aurocs("development", "none", classes=names)
    assert all(abs(one.value - 0.5) < 0.02 for one in nothing.values())


def test_best_scores_beat_a_model_that_learns_from_the_patients_themselves():
    home, away = (draw_population(4000, seed, "external") for seed in (31, 32))
    scores = best_scores(away, "external", classes=["image_bone", "clinical_A"])
    assert scores.index.equals(away.index)
    seen = list(module.CLASSES["image_bone"])
    scale = home[seen].std()
    learned = LogisticRegression().fit(home[seen] / scale, home["fracture"])
    reached = auroc(away["fracture"], learned.decision_function(away[seen] / scale)).value
    best = auroc(away["fracture"], scores["image_bone"]).value
    assert reached - 0.004 < best < reached + 0.02
    # Probabilities, not only ranks: they are calibrated under the hospital's sampling.
    assert scores["image_bone"].mean() == pytest.approx(0.123, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hospital": "elsewhere"}, "hospital"),
        ({"hospital": "external", "signal": "weak"}, "signal"),
        ({"hospital": "external", "count": 10}, "count"),
        ({"hospital": "external", "classes": ["image_E"]}, "image_E"),
        ({"hospital": "external", "method": "forest"}, "method"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        attainable_aurocs(**settings)


def test_missing_columns_are_named():
    people = draw_population(10, 1).drop(columns=["lean_hu", "sex"])
    with pytest.raises(ValueError, match="lean_hu, sex"):
        best_scores(people, "external")


def test_the_command_saves_them_with_the_hospital(tmp_path):
    arguments = [*("simulate", str(tmp_path / "h"), "--patients", "4"), "--format", "nifti"]
    arguments += ["--field-of-view", "quick", "--signal", "no_muscle", "--workers", "1"]
    result = CliRunner().invoke(main, [*arguments, "--attainable"])
    assert result.exit_code == 0, result.output
    record = pd.read_json(tmp_path / "h" / "hospital.json", typ="series")
    assert set(record["attainable_classes"]) == set(module.CLASSES)
    whole = record["attainable_classes"]["image_bone"]
    assert whole["population"]["value"] == pytest.approx(0.70, abs=0.01)
    assert 0 <= whole["patients"]["value"] <= 1
    terms = record["hazard"]
    assert set(terms) == set(HAZARDS["paper"].__dataclass_fields__)
    assert terms["fat_fraction"]["log_hazard_ratio"] == 0
