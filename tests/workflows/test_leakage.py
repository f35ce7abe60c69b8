"""The leakage audit: silent about a clean study, and each planted fault is found where it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_vfx.analysis.clinical.crossfit import threshold_rows
from monai_vfx.analysis.clinical.engines import Linear
from monai_vfx.analysis.clinical.models import fit_clinical, load_clinical
from monai_vfx.analysis.clinical.variables import design_matrix
from monai_vfx.workflows.study.images import ImageModel
from monai_vfx.workflows.study.leakage import audit, write_audit
from monai_vfx.workflows.study.leakage_rules import Check, statistics_from
from monai_vfx.workflows.study.scores import score_names
from scored_study import FOLDS, SECOND, Scored, build, network_score, standardiser

FOLD = 1


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return build(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def study(clean: Scored, tmp_path: Path) -> Path:
    """A copy to plant a fault in."""
    for name in ("cohort", "imaging", "image", "clinical", "predictions", "steps"):
        shutil.copytree(clean.root / name, tmp_path / name)
    return tmp_path


def found(study: Path) -> dict[str, str]:
    """Return what failed, by name, with the details."""
    failed: dict[str, str] = {}
    for check in audit(study):
        if not check.passed:
            failed[check.name] = f"{failed.get(check.name, '')} {check.detail}".strip()
    return failed


def edit_csv(path: Path, change: Callable[[pd.DataFrame], object]) -> None:
    text = {"case_id": str, "patient_id": str, "pair_id": str, "fold": str}
    table = pd.read_csv(path, dtype=text, float_precision="round_trip")
    change(table)
    table.to_csv(path, index=False)


def edit_json(path: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def home(study: Path) -> pd.DataFrame:
    text = {"case_id": str, "patient_id": str, "pair_id": str}
    path = study / "predictions" / "development.csv"
    return pd.read_csv(path, dtype=text, float_precision="round_trip")


# --- a clean study -------------------------------------------------------------------------------


def test_a_clean_study_passes_and_everything_was_looked_at(clean: Scored) -> None:
    path, checks = write_audit(clean.root)
    assert [c for c in checks if not c.passed] == []
    names = [check.name for check in checks]
    thresholds = pd.read_csv(clean.root / "predictions" / "thresholds.csv")
    of_thresholds = [n for n in names if n.startswith("threshold not from the test set")]
    assert len(of_thresholds) == len(thresholds)
    for score in score_names(home(clean.root)):
        if not score.startswith("frax"):
            column = score if score.startswith(("fusion", "late", "clin", "log")) else None
            place = column or score.removeprefix("image_")
            assert sum(n.startswith(f"out-of-fold scores: {place}/") for n in names) == FOLDS
    assert sum(n.startswith("standardised by training rows: image/fusion_A") for n in names) == 3
    assert sum(n.startswith("test fold unseen: image/") for n in names) == 4 * FOLDS
    assert sum(n.startswith("test fold unseen: clinical/") for n in names) == 7 * FOLDS
    document = json.loads(path.read_text())
    assert document["passed"] is True
    assert len(document["checks"]) == len(checks)


def test_the_audit_file_says_that_it_failed(study: Path) -> None:
    edit_json(
        study / "image/bone/fold_0/split.json",
        lambda split: split["train"].append(split["test"][0]),
    )
    path, _ = write_audit(study)
    assert json.loads(path.read_text())["passed"] is False


# --- folds ---------------------------------------------------------------------------------------


def test_pairs_torn_over_folds_are_found(tmp_path: Path) -> None:
    failed = found(build(tmp_path, unknown=["pair_id"]).root)
    assert "pairs in one fold" in failed
    assert "patients in one fold" not in failed
    assert {name.split(":")[0] for name in failed} == {"pairs in one fold", "test fold unseen"}
    # What each model saw reaches into the pairs of its test fold, networks and tables alike.
    assert "pairs of fold 0 were seen" in failed["test fold unseen: image/bone/fold_0"]
    assert "pairs of fold 2 were seen" in failed["test fold unseen: clinical/clinical_A/fold_2"]


def test_a_second_scan_of_a_tested_patient_in_training_is_found(tmp_path: Path) -> None:
    made = build(tmp_path, unknown=["patient_id"])
    failed = found(made.root)
    assert {name.split(":")[0] for name in failed} == {"patients in one fold", "test fold unseen"}
    assert failed["patients in one fold"].startswith("1 of ")
    tested = made.home.frame.set_index("case_id").loc[SECOND, "fold"]
    assert "1 patients of fold" in failed[f"test fold unseen: image/bone/fold_{tested:.0f}"]


def test_a_row_without_a_fold_tears_its_pair(study: Path) -> None:
    def lose(table: pd.DataFrame) -> None:
        table.loc[table["pair_id"].notna().idxmax(), "fold"] = np.nan

    edit_csv(study / "cohort/development/selected.csv", lose)
    assert "pairs in one fold" in found(study)


# --- what a model saw ----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_network_that_saw_a_tested_case_is_found(study: Path, part: str) -> None:
    edit_json(
        study / "image/bone/fold_1/split.json",
        lambda split: split[part].append(split["test"][0]),
    )
    assert found(study) == {"test fold unseen: image/bone/fold_1": "1 cases of fold 1 were seen"}


def test_a_network_that_saw_somebody_who_was_not_selected_is_found(study: Path) -> None:
    edit_json(study / "image/bone/fold_1/split.json", lambda split: split["train"].append("who"))
    assert list(found(study)) == ["test fold unseen: image/bone/fold_1"]


@pytest.mark.parametrize("part", ["fit", "threshold"])
def test_a_clinical_fit_that_saw_a_tested_case_is_found(study: Path, part: str) -> None:
    def tested(document: dict) -> None:  # type: ignore[type-arg]
        entry = document["fits"][FOLD]
        entry["seen"][part].append(entry["tested"][0])

    edit_json(study / "clinical/clinical_A/fits.json", tested)
    assert "test fold unseen: clinical/clinical_A/fold_1" in found(study)


def test_trees_grown_on_all_rows_are_found_though_their_record_denies_it(
    clean: Scored, study: Path
) -> None:
    name = "clinical_B"
    everyone = fit_clinical(clean.home.frame, ("age", "sex", "bmi"), "xgboost", 0)
    everyone.save(study / f"clinical/{name}/model_fold_1.json")
    assert set(found(study)) == {
        f"fitted on training rows: clinical/{name}/fold_1",
        f"out-of-fold scores: {name}/fold_1",
    }


def test_a_late_fusion_fitted_on_other_rows_is_found(study: Path) -> None:
    folder = study / "clinical/late_fusion_A"
    shutil.copy(folder / "model_fold_0.json", folder / "model_fold_1.json")
    assert set(found(study)) == {"fitted on training rows: clinical/late_fusion_A/fold_1"}


# --- statistics ----------------------------------------------------------------------------------


def test_a_networks_standardiser_of_all_rows_is_found(clean: Scored, study: Path) -> None:
    model = ImageModel("fusion_A", "fusion_A", (), 0)
    wrong = standardiser(model, clean.home.frame)
    path = study / "image/fusion_A/fold_1/model.json"
    edit_json(path, lambda document: document["config"].update(clinical=wrong))
    failed = found(study)
    assert list(failed) == ["standardised by training rows: image/fusion_A/fold_1"]
    assert "mean of age" in next(iter(failed.values()))


def test_a_standardiser_of_training_and_validation_rows_is_found(
    clean: Scored, study: Path
) -> None:
    frame = clean.home.frame
    wrong = standardiser(ImageModel("fusion_A", "fusion_A", (), 0), frame[frame["fold"] != FOLD])
    path = study / "image/fusion_A/fold_1/model.json"
    edit_json(path, lambda document: document["config"].update(clinical=wrong))
    assert list(found(study)) == ["standardised by training rows: image/fusion_A/fold_1"]


def test_a_logistic_models_centre_of_all_rows_is_found_though_it_predicts_the_same(
    clean: Scored, study: Path
) -> None:
    path = study / "clinical/logistic_A/model_fold_1.json"
    model = load_clinical(path)
    engine = model.engine
    assert isinstance(engine, Linear)
    everyone = design_matrix(clean.home.frame, ("age", "sex"))["age"].mean()
    age = next(n for n, term in enumerate(engine.terms) if term.column == "age")
    term = engine.terms[age]
    shift = term.coefficient * (everyone - term.mean) / term.scale
    terms = (*engine.terms[:age], replace(term, mean=everyone), *engine.terms[age + 1 :])
    wrong = replace(engine, terms=terms, intercept=engine.intercept + shift)
    replace(model, engine=wrong).save(path)
    failed = found(study)
    assert list(failed) == ["standardised by training rows: clinical/logistic_A/fold_1"]
    assert "mean of age" in next(iter(failed.values()))


def test_a_logistic_model_of_all_rows_is_found(clean: Scored, study: Path) -> None:
    everyone = fit_clinical(clean.home.frame, ("age", "sex"), "logistic", 0)
    everyone.save(study / "clinical/logistic_A/model_fold_1.json")
    assert set(found(study)) == {
        "standardised by training rows: clinical/logistic_A/fold_1",
        "fitted on training rows: clinical/logistic_A/fold_1",
        "out-of-fold scores: logistic_A/fold_1",
    }


def test_an_imputation_from_all_rows_is_found(clean: Scored, study: Path) -> None:
    path = study / "clinical/logistic_B/model_fold_1.json"
    model = load_clinical(path)
    engine = model.engine
    assert isinstance(engine, Linear)
    everyone = float(clean.home.frame["bmi"].median())
    assert everyone != engine.fill["bmi"]
    wrong = replace(engine, fill={**engine.fill, "bmi": everyone})
    replace(model, engine=wrong).save(path)
    failed = found(study)
    assert failed["standardised by training rows: clinical/logistic_B/fold_1"].startswith(
        f"fill of bmi {everyone:.6g}"
    )
    assert {name.split(": ")[1] for name in failed} <= {
        "clinical/logistic_B/fold_1",
        "logistic_B/fold_1",
    }


def test_statistics_are_judged_to_a_millionth() -> None:
    rows = pd.DataFrame({"age": [50.0, 60.0, np.nan, 70.0]})
    sd = float(np.sqrt(200 / 3))
    assert statistics_from({"age": (60.0, sd)}, rows, "m").passed
    assert not statistics_from({"age": (60.001, sd)}, rows, "m").passed
    wrong = statistics_from({"age": (60.0, 10.0)}, rows, "m")  # divisor n - 1
    assert wrong == Check("standardised by training rows: m", False, "SD of age 10, not 8.16497")


# --- thresholds ----------------------------------------------------------------------------------


SCORES = (
    *("image_bone", "image_hazard", "fusion_A", "clinical_A", "imaging_baseline"),
    *("late_fusion_A", "frax_major"),
)


def put_thresholds(study: Path, table: pd.DataFrame, fold: str) -> None:
    """Choose the thresholds of a fold on these patients."""

    def plant(rows: pd.DataFrame) -> None:
        for score in SCORES:
            wrong = threshold_rows(score, fold, table["fracture"], table[score], "elsewhere")
            place = (rows["score"] == score) & (rows["fold"] == fold)
            assert place.sum() == len(wrong)
            rows.loc[place, "threshold"] = wrong["threshold"].to_numpy()

    edit_csv(study / "predictions/thresholds.csv", plant)


def test_thresholds_chosen_on_their_test_fold_are_found(study: Path) -> None:
    table = home(study)
    put_thresholds(study, table[table["fold"] == FOLD], str(FOLD))
    assert set(found(study)) == {
        f"threshold not from the test set: {score}/{FOLD}" for score in SCORES
    }


def test_frozen_thresholds_chosen_on_the_external_patients_are_found(study: Path) -> None:
    put_thresholds(study, pd.read_csv(study / "predictions/external.csv"), "frozen")
    assert set(found(study)) == {
        f"threshold not from the test set: {score}/frozen" for score in SCORES
    }


def test_inner_scores_of_the_test_fold_are_found_though_the_threshold_agrees(study: Path) -> None:
    score, table = "clinical_A", home(study)
    fold = table[table["fold"] == FOLD]
    inner = study / "clinical" / score / "inner.csv"
    rows = pd.read_csv(inner, dtype={"case_id": str})
    own = pd.DataFrame({"case_id": fold["case_id"], "fold": FOLD, "score": fold[score]})
    pd.concat([rows[rows["fold"] != FOLD], own]).to_csv(inner, index=False)
    wrong = threshold_rows(score, FOLD, fold["fracture"], fold[score], "inner folds")

    def plant(rows: pd.DataFrame) -> None:
        place = (rows["score"] == score) & (rows["fold"] == str(FOLD))
        rows.loc[place, "threshold"] = wrong["threshold"].to_numpy()

    edit_csv(study / "predictions/thresholds.csv", plant)
    failed = found(study)
    name = f"threshold not from the test set: {score}/{FOLD}"
    assert f"hold {len(fold)} cases of the fold" in failed[name]


# --- scores and hospitals ------------------------------------------------------------------------


def test_scores_of_a_network_that_saw_the_patient_are_found(study: Path) -> None:
    def plant(table: pd.DataFrame) -> None:  # network 0 was trained on fold 2
        rows = (table["fold"].astype(float) == 2) & table["image_bone"].notna()
        table.loc[rows, "image_bone"] = [
            network_score("bone", 0, case, fracture)
            for case, fracture in table.loc[rows, ["case_id", "fracture"]].to_numpy()
        ]

    edit_csv(study / "predictions/development.csv", plant)
    failed = set(found(study))
    assert "out-of-fold scores: bone/fold_2" in failed
    # The frozen threshold came from the right scores, so it fits no longer.
    assert failed <= {
        "out-of-fold scores: bone/fold_2",
        "threshold not from the test set: image_bone/frozen",
    }


def test_clinical_scores_of_another_folds_model_are_found(clean: Scored, study: Path) -> None:
    patients = clean.home.with_features()
    scores = ("clinical_B", "logistic_B", "imaging_baseline")

    def plant(table: pd.DataFrame) -> None:
        rows = (table["fold"].astype(float) == 2).to_numpy()
        for score in scores:
            other = load_clinical(study / f"clinical/{score}/model_fold_0.json").predict(patients)
            table.loc[rows, score] = other[rows]

    edit_csv(study / "predictions/development.csv", plant)
    failed = set(found(study))
    assert {f"out-of-fold scores: {score}/fold_2" for score in scores} <= failed
    # Frozen thresholds came from the right scores; nothing else may be called wrong.
    assert {name.rsplit(" ", 1)[1] for name in failed} <= {
        f"{score}/{part}" for score in scores for part in ("fold_2", "frozen")
    }


def test_a_score_for_a_refused_image_is_found(study: Path) -> None:
    def fill(table: pd.DataFrame) -> None:
        assert table["image_bone"].isna().sum() == 1
        table["image_bone"] = table["image_bone"].fillna(0.5)

    edit_csv(study / "predictions/development.csv", fill)
    assert any(name.startswith("out-of-fold scores: bone/fold_") for name in found(study))


def test_an_image_in_both_hospitals_is_found(clean: Scored, study: Path) -> None:
    image = clean.home.frame["image"].iloc[4]

    def share(table: pd.DataFrame) -> None:
        table.loc[2, "image"] = image

    edit_csv(study / "cohort/external/selected.csv", share)
    assert found(study) == {"hospitals apart": "1 shared images among 91 and 40 patients"}


@pytest.mark.parametrize("folder", [False, True])
def test_a_copy_of_an_image_under_another_name_is_found(
    clean: Scored, study: Path, folder: bool
) -> None:
    image = copy = study / "other name.nii"
    if folder:  # a DICOM series on both sides
        image, copy = study / "series_a", study / "series_b"
        for number, place in enumerate((image, copy)):
            place.mkdir()
            (place / f"{number}1.dcm").write_bytes(b"first slice")
            (place / f"{number}2.dcm").write_bytes(b"second slice")
        edit_csv(
            study / "cohort/development/selected.csv",
            lambda table: table.__setitem__("image", [str(image), *table["image"].iloc[1:]]),
        )
    else:
        shutil.copy(clean.home.frame["image"].iloc[4], copy)
    edit_csv(
        study / "cohort/external/selected.csv",
        lambda table: table.__setitem__("image", [str(copy), *table["image"].iloc[1:]]),
    )
    assert list(found(study)) == ["hospitals apart"]


def test_hospitals_without_images_have_none_in_common(study: Path) -> None:
    for side in ("development", "external"):
        edit_csv(
            study / "cohort" / side / "selected.csv",
            lambda table: table.drop(columns=["image", "mask"], inplace=True),
        )
    assert found(study) == {}
