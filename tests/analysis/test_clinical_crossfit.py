"""Out-of-fold scores and late fusion: what is tested on has had no part in anything before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from monai_vfx.analysis.clinical.crossfit import CrossFit, cross_fit, ensemble_score, threshold_rows
from monai_vfx.analysis.clinical.engines import Kind
from monai_vfx.analysis.clinical.fusion import NestedScores, fit_fusion, late_fusion
from monai_vfx.analysis.clinical.variables import MATCHING_VARIABLES
from monai_vfx.analysis.cohort.training_items import read_cohort, split_folds
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.analysis.evaluation.thresholds import choose_thresholds
from monai_vfx.analysis.folds import table_folds
from monai_vfx.core.errors import SettingError

NAMES = ("age", "sex", "smoker")


def cohort(n: int = 180, seed: int = 0, folds: int = 3) -> pd.DataFrame:
    """Draw matched pairs: same sex, like age; the case smokes more often."""
    rng = np.random.default_rng(seed)
    half = n // 2
    age = np.repeat(rng.normal(70, 8, half), 2) + rng.normal(0, 0.3, n)
    fracture = np.tile([1, 0], half)
    frame = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "pair_id": np.repeat([f"p{i}" for i in range(half)], 2),
            "age": age.round(1),
            "sex": np.repeat(rng.choice(["F", "M"], half), 2),
            "bmi": rng.normal(24, 3, n).round(1),
            "smoker": (rng.random(n) < np.where(fracture == 1, 0.7, 0.2)).astype(float),
            "fracture": fracture,
        }
    )
    return frame.assign(fold=table_folds(frame, folds, seed))


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return cohort()


@pytest.fixture(scope="module", params=["xgboost", "logistic"])
def fit(request: pytest.FixtureRequest, frame: pd.DataFrame) -> CrossFit:
    return cross_fit(frame, NAMES, request.param, seed=1, name="s")


def _kind(fit: CrossFit) -> Kind:
    return fit.models[0].kind


# --- cross-fitting -------------------------------------------------------------------------------


def test_nothing_that_is_tested_on_changes_a_model_or_a_threshold(
    frame: pd.DataFrame, fit: CrossFit
) -> None:
    spoilt = frame.copy()
    test = frame["fold"] == 1
    spoilt.loc[test, "fracture"] = 1 - spoilt.loc[test, "fracture"]
    spoilt.loc[test, "age"] = 30.0
    spoilt.loc[test, "smoker"] = np.nan
    other = cross_fit(spoilt, NAMES, _kind(fit), seed=1, name="s")
    assert other.models[1].to_json() == fit.models[1].to_json()
    assert other.models[0].to_json() != fit.models[0].to_json()
    of_fold = [c.thresholds[c.thresholds["fold"] == "1"] for c in (fit, other)]
    pd.testing.assert_frame_equal(*of_fold)


def test_each_fold_is_scored_by_its_own_model(frame: pd.DataFrame, fit: CrossFit) -> None:
    for fold, model in fit.models.items():
        test = (frame["fold"] == fold).to_numpy()
        np.testing.assert_array_equal(fit.scores[test], model.predict(frame[test]))
    assert auroc(frame["fracture"], fit.scores).low > 0.6


def test_the_audit_names_who_was_seen_and_nobody_who_is_tested(
    frame: pd.DataFrame, fit: CrossFit
) -> None:
    assert [entry["fold"] for entry in fit.audit] == [0, 1, 2]
    for entry in fit.audit:
        tested = set(frame["case_id"][frame["fold"] == entry["fold"]])
        assert set(entry["tested"]) == tested
        assert set(entry["seen"]["fit"]) == set(frame["case_id"]) - tested
        assert set(entry["seen"]["threshold"]) == set(frame["case_id"]) - tested


def test_thresholds_are_chosen_on_inner_scores(frame: pd.DataFrame, fit: CrossFit) -> None:
    table = fit.thresholds
    assert [*table.columns] == [
        *("score", "fold", "rule", "threshold", "chosen_on", "n", "events"),
    ]
    assert len(table) == 6
    outcome = frame.set_index("case_id")["fracture"]
    for row in table.itertuples():
        inner = fit.inner[fit.inner["fold"] == int(row.fold)]
        assert not set(inner["case_id"]) & set(frame["case_id"][frame["fold"] == int(row.fold)])
        labels = outcome.loc[inner["case_id"]].to_numpy()
        chosen = choose_thresholds(labels, inner["score"].to_numpy(), [row.rule])[0]
        assert (row.threshold, row.n, row.events) == (chosen.threshold, 120, 60)
        assert (row.score, row.chosen_on) == ("s", "inner folds")


def test_other_patients_get_the_mean_of_the_fold_models(fit: CrossFit) -> None:
    others = cohort(30, seed=8)
    members = [fit.models[fold].predict(others) for fold in (0, 1, 2)]
    np.testing.assert_allclose(ensemble_score(fit.models, others), sum(members) / 3)


def test_a_patient_without_values_is_left_out_everywhere(frame: pd.DataFrame) -> None:
    gaps = frame.copy()
    gaps.loc[7, [*NAMES]] = np.nan
    fit = cross_fit(gaps, NAMES, "logistic", name="s")
    assert np.flatnonzero(np.isnan(fit.scores)).tolist() == [7]
    assert "c7" not in set(fit.inner["case_id"])
    assert set(fit.thresholds["n"]) == {119, 120}


def test_matching_leaves_nothing_to_the_matching_variables() -> None:
    people = cohort(400, seed=5, folds=5)
    alone = cross_fit(people, MATCHING_VARIABLES, "logistic", name="matched_only")
    interval = auroc(people["fracture"], alone.scores)
    assert interval.low < 0.5 < interval.high


def test_tearing_matched_pairs_would_look_worse_than_chance() -> None:
    people = cohort(400, seed=5, folds=5).drop(columns="pair_id")
    people["fold"] = np.arange(400) % 5  # a case and its control never share a fold
    torn = cross_fit(people, ("age",), "xgboost", name="torn")
    assert auroc(people["fracture"], torn.scores).high < 0.5


# --- folds ---------------------------------------------------------------------------------------


def test_folds_are_those_of_the_image_models(tmp_path: Path) -> None:
    people = cohort(60, seed=2).drop(columns="fold")
    people["patient_id"] = [f"q{i // 3}" for i in range(60)]  # ties pairs together as well
    for column in ("image", "mask"):
        people[column] = [f"{column}{i}.nii" for i in range(60)]
        for name in people[column]:
            (tmp_path / name).touch()
    people.to_csv(tmp_path / "t.csv", index=False)
    split = split_folds(read_cohort(tmp_path / "t.csv"), folds=4, seed=6)
    expected = {item["case_id"]: fold for fold, (_, held) in enumerate(split) for item in held}
    found = dict(zip(people["case_id"], table_folds(people, 4, seed=6), strict=True))
    assert found == expected


def test_groups_stay_together(frame: pd.DataFrame) -> None:
    assert (frame.groupby("pair_id")["fold"].nunique() == 1).all()
    assert frame.groupby("fold").size().tolist() == [60, 60, 60]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.assign(fold=np.arange(len(f)) % 3), "90 groups .* lie in several"),
        (lambda f: f.assign(fold=np.nan), "180 of 180 rows have none"),
        (lambda f: f.drop(columns="fold"), "every row a fold"),
        (lambda f: f.assign(fold=0.0), "at least two folds"),
    ],
)
def test_faulty_folds_are_wrong_use(frame: pd.DataFrame, change: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        cross_fit(change(frame), NAMES, "logistic")


def test_more_folds_than_cases_are_wrong_use(frame: pd.DataFrame) -> None:
    with pytest.raises(SettingError, match="91"):
        table_folds(frame.drop(columns="fold"), 91)


# --- late fusion ---------------------------------------------------------------------------------


def _image(frame: pd.DataFrame, seed: int = 0) -> NestedScores:
    """Scores of a network with some signal; its inner scores lie on the next fold."""
    rng = np.random.default_rng(seed)
    odds = 0.3 * (1.5 * frame["fracture"] - 0.75 + rng.normal(0, 1, len(frame)))
    rows = []
    for fold in (0, 1, 2):
        validation = frame["fold"] == (fold + 1) % 3
        own = expit(odds[validation] + rng.normal(0, 0.05, int(validation.sum())))
        rows.append(
            pd.DataFrame({"case_id": frame["case_id"][validation], "fold": fold, "score": own})
        )
    return NestedScores(expit(odds.to_numpy()), pd.concat(rows, ignore_index=True))


def test_fusion_is_better_than_either_score(frame: pd.DataFrame) -> None:
    image, clinical = _image(frame), cross_fit(frame, NAMES, "logistic", name="c")
    joint = late_fusion(frame, image, clinical, name="late_fusion_A")
    y = frame["fracture"]
    assert auroc(y, joint.scores).value > max(
        auroc(y, image.scores).value, auroc(y, clinical.scores).value
    )
    assert {model.n for model in joint.models.values()} == {60}
    assert set(joint.thresholds["chosen_on"]) == {"validation fold"}
    for entry in joint.audit:
        assert len(entry["seen"]["fit"]) == 60
        assert not set(entry["seen"]["fit"]) & set(entry["tested"])


def test_nothing_of_a_fold_reaches_its_own_fusion(frame: pd.DataFrame) -> None:
    image, clinical = _image(frame), cross_fit(frame, NAMES, "logistic", name="c")
    before = late_fusion(frame, image, clinical)
    test = (frame["fold"] == 2).to_numpy()
    # The patients of fold 2, spoilt wherever they appear: outcome, scores, others' inner scores.
    spoilt = frame.copy()
    spoilt.loc[test, "fracture"] = 1 - spoilt.loc[test, "fracture"]
    held = set(frame["case_id"][test])
    inner = image.inner.copy()
    inner.loc[inner["case_id"].isin(held), "score"] = 0.99
    changed = NestedScores(np.where(test, 0.01, image.scores), inner)
    after = late_fusion(spoilt, changed, clinical)
    assert after.models[2].to_json() == before.models[2].to_json()
    assert after.models[1].to_json() != before.models[1].to_json()


def test_inner_scores_of_the_tested_fold_are_refused(frame: pd.DataFrame) -> None:
    image, clinical = _image(frame), cross_fit(frame, NAMES, "logistic", name="c")
    leak = pd.DataFrame({"case_id": frame["case_id"], "fold": 0, "score": image.scores})
    both = NestedScores(clinical.scores, leak)
    with pytest.raises(SettingError, match="fold 0 hold 60 patients who lie in it"):
        late_fusion(frame, NestedScores(image.scores, leak), both)


def test_a_fusion_is_the_penalised_optimum() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(80) < 0.4).astype(float)
    image, clinical = expit(y + rng.normal(size=80)), expit(0.5 * y + rng.normal(size=80))
    model = fit_fusion(image, clinical, y)
    x = np.column_stack([logit(image), logit(clinical)])
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    p = model.predict(image, clinical)
    weights = [term["coefficient"] for term in model.to_json()["terms"]]
    np.testing.assert_allclose(x.T @ (y - p), weights, atol=1e-6)
    assert (model.n, model.events) == (80, int(y.sum()))


def test_a_missing_score_gives_no_fused_score() -> None:
    model = fit_fusion([0.2, 0.4, 0.6, 0.8], [0.3, 0.2, 0.9, 0.6], [0, 0, 1, 1])
    scores = model.predict([0.5, np.nan, 0.5, 1.0], [0.5, 0.5, np.nan, 0.0])
    assert np.isnan(scores).tolist() == [False, True, True, False]  # 0 and 1 stay finite


def test_one_outcome_alone_is_wrong_use() -> None:
    with pytest.raises(SettingError, match="0 fractures among the 2"):
        fit_fusion([0.2, 0.4], [0.3, 0.2], [0, 0])


def test_rows_without_a_score_choose_no_threshold() -> None:
    rows = threshold_rows("s", "frozen", [0, 1, 1, 0], [0.1, np.nan, 0.8, 0.3], "elsewhere")
    assert rows["threshold"].tolist() == [0.8, 0.8]
    assert rows["n"].tolist() == [3, 3]
