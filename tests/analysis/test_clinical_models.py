"""One clinical model: numbers, gaps, tuning, contributions, and files that cannot harm."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from monai_vfx.analysis.clinical.engines import (
    ENGINES,
    FIXED_TREES,
    PENALTIES,
    Kind,
    Linear,
    Trees,
)
from monai_vfx.analysis.clinical.models import _checksum, fit_clinical, load_clinical
from monai_vfx.analysis.clinical.variables import MODELS, design_matrix
from monai_vfx.analysis.folds import patient_groups
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.schemas import violations

KINDS: tuple[Kind, ...] = ("xgboost", "logistic")


def patients(n: int = 240, seed: int = 0, missing: float = 0.1) -> pd.DataFrame:
    """Draw patients whose fracture depends on age, steroids and a little on sex."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "age": rng.normal(70, 8, n).round(1),
            "sex": rng.choice(["F", "M"], n),
            "bmi": rng.normal(24, 3, n).round(1),
        }
    )
    for name in MODELS["D"][3:]:
        frame[name] = (rng.random(n) < 0.25).astype(float)
    log_odds = (frame["age"] - 70) / 6 + 1.5 * frame["glucocorticoids"] - 0.4
    frame["fracture"] = (rng.random(n) < expit(log_odds)).astype(int)
    for name in ("bmi", "smoker"):
        frame.loc[rng.random(n) < missing, name] = np.nan
    return frame


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest) -> Any:
    return fit_clinical(patients(), MODELS["D"], request.param, seed=3)


# --- numbers from the table ----------------------------------------------------------------------


def test_the_models_are_nested_as_in_the_study() -> None:
    assert [len(names) for names in MODELS.values()] == [2, 3, 7, 11]
    for smaller, larger in pairwise(MODELS.values()):
        assert larger[: len(smaller)] == smaller


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("sex", "female", "F or M"), ("age", "old", "a number"), ("bmi", np.inf, "a number")],
)
def test_a_cell_that_is_no_value_is_named(column: str, value: Any, said: str) -> None:
    frame = patients(4).astype({column: object})
    frame.loc[2, column] = value
    with pytest.raises(CaseRefused, match=rf"{column} holds .* patient 3 of 4, must be {said}"):
        design_matrix(frame, MODELS["B"])


def test_a_missing_column_is_named() -> None:
    with pytest.raises(CaseRefused, match="columns are missing: hiv"):
        design_matrix(patients(4).drop(columns="hiv"), MODELS["D"])


def test_a_missing_outcome_is_refused() -> None:
    frame = patients(40).astype({"fracture": float})
    frame.loc[5, "fracture"] = np.nan
    with pytest.raises(CaseRefused, match="fracture holds nan in patient 6 of 40"):
        fit_clinical(frame, MODELS["A"])


def test_groups_join_patients_and_pairs_by_however_many_steps() -> None:
    rng = np.random.default_rng(1)
    patient, pair = rng.integers(0, 10, 24), rng.integers(0, 16, 24)
    frame = pd.DataFrame({"patient_id": patient.astype(str), "pair_id": pair.astype(str)})
    frame.loc[rng.random(24) < 0.5, "pair_id"] = ""
    expected = list(range(24))  # brute force: spread the lowest row until nothing changes
    for _ in range(24):
        for i in range(24):
            for j in range(24):
                tied = patient[i] == patient[j] or (
                    frame["pair_id"][i] != "" and frame["pair_id"][i] == frame["pair_id"][j]
                )
                if tied:
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert patient_groups(frame).tolist() == expected


def test_without_patients_and_pairs_each_row_is_its_own_group() -> None:
    assert patient_groups(pd.DataFrame({"case_id": ["a", "b"]})).tolist() == [0, 1]


# --- logistic regression -------------------------------------------------------------------------


def test_imputation_and_scaling_by_hand() -> None:
    x = pd.DataFrame({"age": [60.0, 70.0, np.nan, 80.0], "hiv": [0.0, 0.0, 1.0, np.nan]})
    model = Linear.fit(x, np.array([0.0, 0.0, 1.0, 1.0]), {"C": 1.0}, 0)
    assert model.fill == {"age": 70.0, "hiv": 0.0}
    found = {(t.column, t.missing): (t.mean, t.scale) for t in model.terms}
    assert found == {
        ("age", False): (70.0, pytest.approx(np.sqrt(50))),  # 60, 70, 70, 80
        ("hiv", False): (0.25, 1.0),  # two values: centred, not scaled
        ("age", True): (0.25, 1.0),
        ("hiv", True): (0.25, 1.0),
    }


def test_the_fit_is_the_penalised_optimum() -> None:
    frame = patients()
    x, y = design_matrix(frame, MODELS["D"]), frame["fracture"].to_numpy(float)
    model = Linear.fit(x, y, {"C": 0.1}, 0)
    columns, weights = [], []
    for term in model.terms:
        raw = x[term.column].fillna(x[term.column].median())
        values = x[term.column].isna() if term.missing else raw
        columns.append((values.to_numpy(float) - values.mean()) / term.scale)
        weights.append(term.coefficient)
    parts, beta = np.array(columns).T, np.array(weights)
    p = expit(model.intercept + parts @ beta)
    np.testing.assert_allclose(parts.T @ (y - p), beta / 0.1, atol=1e-6)  # gradient is zero
    assert (y - p).sum() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(expit(model.margin(x)), p, atol=1e-12)


def test_new_patients_are_filled_with_the_training_median() -> None:
    model = fit_clinical(patients(), ("age", "bmi"), "logistic")
    median = float(patients()["bmi"].median())
    empty = pd.DataFrame({"age": [70.0], "bmi": [np.nan]})
    filled = pd.DataFrame({"age": [70.0], "bmi": [median]})
    gap = next(t for t in model.engine.terms if t.column == "bmi" and t.missing)
    odds = np.log(model.predict(empty) / (1 - model.predict(empty)))
    without = np.log(model.predict(filled) / (1 - model.predict(filled)))
    assert odds - without == pytest.approx(gap.coefficient)


def test_a_state_of_three_patients_stays_near_zero() -> None:
    frame = patients(400, missing=0)
    frame["hiv"] = 0.0
    frame.loc[frame.index[frame["fracture"] == 1][:3], "hiv"] = 1.0  # all three fractured
    model = fit_clinical(frame, (*MODELS["A"], "hiv"), "logistic")
    x = design_matrix(frame, (*MODELS["A"], "hiv"))
    scaled = (x - x.mean()) / x.std(ddof=0)
    c = model.hyperparameters["C"]
    plain = LogisticRegression(C=c).fit(scaled, frame["fracture"])
    ours = next(t.coefficient for t in model.engine.terms if t.column == "hiv")
    assert 0 < ours < 0.5 * plain.coef_[0, 2] / x["hiv"].std(ddof=0)


# --- both kinds ----------------------------------------------------------------------------------


def test_probabilities_find_what_drives_the_fracture(fitted: Any) -> None:
    others = patients(seed=9)
    scores = fitted.predict(others)
    assert ((scores > 0) & (scores < 1)).all()
    old = others.assign(age=85.0, glucocorticoids=1.0)
    young = others.assign(age=55.0, glucocorticoids=0.0)
    assert (fitted.predict(old) > fitted.predict(young) + 0.3).all()


def test_contributions_add_up_to_the_log_odds(fitted: Any) -> None:
    others = patients(seed=9)
    parts = fitted.contributions(others)
    assert [*parts.columns] == [*MODELS["D"], "base"]
    assert parts.index.equals(others.index)
    scores = fitted.predict(others)
    np.testing.assert_allclose(parts.sum(axis=1), np.log(scores / (1 - scores)), atol=2e-5)


def test_linear_contributions_are_exact() -> None:
    frame = patients(missing=0)
    model = fit_clinical(frame, MODELS["A"], "logistic")
    age = next(t for t in model.engine.terms if t.column == "age")
    expected = age.coefficient * (frame["age"] - frame["age"].mean()) / frame["age"].std(ddof=0)
    np.testing.assert_allclose(model.contributions(frame)["age"], expected, atol=1e-12)
    assert model.contributions(frame)["age"].mean() == pytest.approx(0, abs=1e-12)


def test_contributions_of_stumps_change_with_their_own_variable_alone() -> None:
    frame = patients(missing=0)
    x, y = design_matrix(frame, MODELS["C"]), frame["fracture"].to_numpy(float)
    trees = Trees.fit(x, y, {"max_depth": 1, "rounds": 40}, 0)
    moved = x.assign(age=x["age"] + 7)
    change = trees.contributions(moved) - trees.contributions(x)
    np.testing.assert_allclose(change[:, 0], trees.margin(moved) - trees.margin(x), atol=1e-5)
    np.testing.assert_allclose(change[:, 1:], 0, atol=1e-6)


def test_rounds_of_many_trees_follow_a_smooth_risk_better_than_single_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attainable = float(norm.cdf(0.25 / 2**0.5))  # two Gaussians of SD 1 that lie 0.25 apart

    def shares() -> list[float]:
        found = []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            ill = np.tile([0, 1], 10_600)
            age = 70 + 8 * rng.normal(0.25 * ill)
            table = pd.DataFrame({"age": age, "fracture": ill})
            model = fit_clinical(table[:1200], ["age"])
            value = roc_auc_score(ill[1200:], model.predict(table[1200:]))
            found.append((value - 0.5) / (attainable - 0.5))
        return found

    together = shares()
    assert np.mean(together) > 0.9
    for name in ("num_parallel_tree", "subsample"):
        monkeypatch.setitem(FIXED_TREES, name, 1)
    assert np.mean(together) > np.mean(shares()) + 0.02


def test_what_is_missing_or_constant_is_counted(fitted: Any) -> None:
    frame = patients()
    frame["hiv"], frame["renal_failure"] = 0.0, np.nan
    model = fit_clinical(frame, MODELS["D"], fitted.kind)
    facts = model.trained_on
    assert facts["constant"] == ["hiv", "renal_failure"]
    assert facts["missing"]["renal_failure"] == 240
    assert facts["missing"]["bmi"] == int(frame["bmi"].isna().sum()) > 0
    assert facts["missing"]["age"] == 0
    assert (facts["n"], facts["events"]) == (240, int(frame["fracture"].sum()))
    assert np.isfinite(model.predict(patients(seed=5))).all()


def test_a_patient_of_whom_nothing_is_known_has_no_score(fitted: Any) -> None:
    frame = patients()
    frame.loc[[3, 8], ["age", "sex"]] = np.nan
    model = fit_clinical(frame, MODELS["A"], fitted.kind)
    assert model.trained_on["left_out"] == 2
    assert model.trained_on["n"] == 238
    assert np.flatnonzero(np.isnan(model.inner_scores)).tolist() == [3, 8]
    assert np.flatnonzero(np.isnan(model.predict(frame))).tolist() == [3, 8]


def test_when_nothing_varies_the_score_is_the_share_of_fractures() -> None:
    frame = patients(60).assign(age=70.0, sex="F")
    model = fit_clinical(frame, MODELS["A"], "logistic")
    np.testing.assert_allclose(model.predict(frame), frame["fracture"].mean())


def test_simulated_patients_are_remembered(fitted: Any) -> None:
    assert not fitted.trained_on["simulated"]
    frame = patients().assign(simulated=1.0)
    assert fit_clinical(frame, MODELS["A"], fitted.kind).trained_on["simulated"]


# --- tuning --------------------------------------------------------------------------------------


def test_inner_scores_come_from_folds_that_keep_groups_together() -> None:
    frame = patients(missing=0)
    groups = np.arange(240) // 2
    model = fit_clinical(frame, MODELS["A"], "logistic", seed=4, groups=groups)
    x, y = design_matrix(frame, MODELS["A"]), frame["fracture"].to_numpy(float)
    binary = x["female"] - x["female"].mean()
    losses, inner = [], []
    for c in PENALTIES:
        expected = np.empty(240)
        for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=4).split(
            x, y, groups
        ):
            assert not set(groups[train]) & set(groups[test])
            age = (x["age"] - x["age"].iloc[train].mean()) / x["age"].iloc[train].std(ddof=0)
            parts = np.column_stack([age, binary - binary.iloc[train].mean()])
            reference = LogisticRegression(C=c, tol=1e-10, max_iter=5000)
            expected[test] = reference.fit(parts[train], y[train]).predict_proba(parts[test])[:, 1]
        losses.append(log_loss(y, expected))
        inner.append(expected)
    assert model.hyperparameters["C"] == PENALTIES[int(np.argmin(losses))]
    found = [row["log_loss"] for row in model.tuning["settings"]]
    np.testing.assert_allclose(found, losses, atol=1e-6)
    np.testing.assert_allclose(model.inner_scores, inner[int(np.argmin(losses))], atol=1e-5)


def test_the_setting_with_the_lowest_loss_is_fitted(fitted: Any) -> None:
    table = fitted.tuning["settings"]
    assert len(table) == len(ENGINES[fitted.kind].SETTINGS)
    best = min(table, key=lambda row: row["log_loss"])
    for name, value in best.items():
        if name != "log_loss":
            assert fitted.hyperparameters[name] == value
    if fitted.kind == "xgboost":
        assert fitted.engine.booster.num_boosted_rounds() == best["rounds"]


def test_pure_noise_gets_the_simplest_model() -> None:
    frame = patients(300, missing=0)
    frame["fracture"] = np.random.default_rng(7).permutation(np.arange(300) % 2)
    assert fit_clinical(frame, MODELS["D"], "logistic").hyperparameters["C"] == PENALTIES[0]
    trees = fit_clinical(frame, MODELS["D"], "xgboost").hyperparameters
    assert (trees["max_depth"], trees["rounds"]) == (1, 25)


def test_too_few_fractures_are_wrong_use(fitted: Any) -> None:
    frame = patients(30)
    frame["fracture"] = [1] + [0] * 29
    with pytest.raises(SettingError, match="1 fractures among 30"):
        fit_clinical(frame, MODELS["A"], fitted.kind)


def test_an_unknown_kind_is_wrong_use() -> None:
    with pytest.raises(SettingError, match="kind"):
        fit_clinical(patients(30), MODELS["A"], "forest")  # type: ignore[arg-type]


# --- files ---------------------------------------------------------------------------------------


def test_a_file_gives_the_same_model_back(fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    assert violations(document, "clinical_model") == []
    assert "c17" not in (tmp_path / "m.json").read_text()  # no patient is in it
    loaded = load_clinical(tmp_path / "m.json")
    others = patients(seed=9)
    np.testing.assert_array_equal(loaded.predict(others), fitted.predict(others))
    pd.testing.assert_frame_equal(loaded.contributions(others), fitted.contributions(others))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "m.json").read_bytes()


def test_the_same_call_gives_the_same_bytes(fitted: Any, tmp_path: Path) -> None:
    fit_clinical(patients(), MODELS["D"], fitted.kind, seed=3).save(tmp_path / "a.json")
    fitted.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def _edited(fitted: Any, folder: Path, rehash: bool, **changes: Any) -> Path:
    document = {**fitted.to_json(), **changes}
    if rehash:
        document["sha256"] = _checksum({k: v for k, v in document.items() if k != "sha256"})
    (folder / "m.json").write_text(json.dumps(document))
    return folder / "m.json"


def test_an_edited_file_is_refused(fitted: Any, tmp_path: Path) -> None:
    inside = fitted.to_json()[fitted.kind]
    if fitted.kind == "logistic":
        inside["intercept"] += 0.5
    else:
        inside["learner"]["learner_model_param"]["base_score"] = "[9E-1]"
    path = _edited(fitted, tmp_path, rehash=False, **{fitted.kind: inside})
    with pytest.raises(CaseRefused, match="changed") as caught:
        load_clinical(path)
    assert caught.value.code == "weights_mismatch"


def test_parts_that_do_not_belong_together_are_refused(fitted: Any, tmp_path: Path) -> None:
    columns = [*fitted.columns[1:], "height_cm"]
    path = _edited(fitted, tmp_path, rehash=True, columns=columns)
    with pytest.raises(CaseRefused) as caught:
        load_clinical(path)
    assert caught.value.code == "weights_mismatch"


def test_trees_that_xgboost_cannot_read_are_refused(tmp_path: Path) -> None:
    model = fit_clinical(patients(60), MODELS["A"], "xgboost")
    path = _edited(model, tmp_path, rehash=True, xgboost={"learner": {}, "version": [3, 0, 0]})
    with pytest.raises(CaseRefused, match="cannot read the trees") as caught:
        load_clinical(path)
    assert caught.value.code == "weights_unreadable"


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"coef": 1}),
        b"",
        b"[" * 100_000,
        b"[]",
        b'{"learner": {}, "version": [3, 0, 0]}',
        b'{"format": NaN}',
    ],
    ids=["pickle", "empty", "deep", "list", "bare xgboost", "nan"],
)
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(CaseRefused) as caught:
        load_clinical(tmp_path / "m.json")
    assert caught.value.code == "weights_unreadable"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseRefused, match="weights_unreadable"):
        load_clinical(tmp_path / "nothing.json")
