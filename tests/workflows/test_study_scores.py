"""The two tables of a study's scores: whose model scored whom, and what chose which threshold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_vfx.analysis.clinical.crossfit import threshold_rows
from monai_vfx.analysis.clinical.scores import FoldModels
from monai_vfx.workflows.study.images import check_failures, image_models
from monai_vfx.workflows.study.plan import Hospital, ImagePlan, Plan
from monai_vfx.workflows.study.scores import (
    Patients,
    clinical_fits,
    columns,
    comparisons,
    development_tables,
    external_table,
    load_all_models,
    score_names,
)
from scored_study import FOLDS, REFUSED, Scored, build, network_score

NETWORKS = {
    "bone": "image_bone",
    "bone_muscle": "image_bone_muscle",
    "fusion_A": "fusion_A",
    "hazard": "image_hazard",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return build(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def tables(study: Scored) -> tuple[pd.DataFrame, pd.DataFrame]:
    table, thresholds, _ = development_tables(study.plan, study.root / "image", study.home)
    return table, thresholds


def _models(study: Scored) -> dict[str, FoldModels]:
    return load_all_models(
        study.root / "clinical", pd.read_csv(study.root / "predictions" / "development.csv")
    )


@pytest.fixture(scope="module")
def away(study: Scored) -> pd.DataFrame:
    return external_table(study.plan, study.root / "image", study.away, _models(study))


def test_all_scores_of_the_contract_are_there(
    tables: tuple[pd.DataFrame, pd.DataFrame], away: pd.DataFrame
) -> None:
    clinical = ["clinical_A", "clinical_B", "logistic_A", "logistic_B"]
    names = [*NETWORKS.values(), *clinical, "imaging_baseline", "matched_only", "late_fusion_A"]
    names += ["frax_major", "frax_hip"]
    assert score_names(tables[0]) == names
    assert score_names(away) == names
    assert {"pair_id", "fold"} & set(away) == set()
    assert {"case_id", "patient_id", "fracture", "time_years", "event"} <= set(away)


@pytest.mark.parametrize("model", list(NETWORKS))
def test_each_patient_is_scored_by_the_network_of_its_own_fold(
    tables: tuple[pd.DataFrame, pd.DataFrame], model: str
) -> None:
    for row in tables[0].to_dict("records"):
        right = network_score(model, int(row["fold"]), row["case_id"], row["fracture"])
        if row["case_id"] == REFUSED:
            assert np.isnan(row[NETWORKS[model]])
        else:
            assert row[NETWORKS[model]] == pytest.approx(right, rel=1e-12)


def test_a_refused_image_leaves_a_gap_and_its_patient_stays(
    study: Scored, tables: tuple[pd.DataFrame, pd.DataFrame], away: pd.DataFrame
) -> None:
    table, thresholds = tables
    assert table["case_id"].tolist() == study.home.frame["case_id"].tolist()
    gaps = table.set_index("case_id").isna().loc[REFUSED]
    with_image = {name for name in score_names(table) if gaps[name]}
    # Nothing of this patient's CT could be measured either.
    assert with_image == {*NETWORKS.values(), "late_fusion_A", "imaging_baseline"}
    frozen = thresholds[(thresholds["fold"] == "frozen") & (thresholds["score"] == "image_bone")]
    assert set(frozen["n"]) == {len(table) - 1}
    assert set(frozen["events"]) == {
        int(table["fracture"].sum() - table.set_index("case_id").loc[REFUSED, "fracture"])
    }
    assert np.isnan(away.set_index("case_id").loc["X5", "image_bone"])
    assert away.set_index("case_id").loc["X5", "clinical_A"] > 0


def test_thresholds_of_a_fold_never_saw_it(
    study: Scored, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    """Turn round everything that is known of a fold; its own thresholds must stay."""
    frame = study.home.frame
    fold = 1
    inside = frame["fold"] == fold
    turned = frame.copy()
    turned.loc[inside, "fracture"] = 1 - turned.loc[inside, "fracture"]
    turned.loc[inside, "age"] = 51.0
    turned.loc[inside, "frax_major"] = 99.0
    turned = turned.drop(columns=["follow_up_years"])
    measured = study.home.features.copy()
    measured.loc[inside.to_numpy(), "l1_trabecular_hu"] = 0.0
    _, after, _ = development_tables(study.plan, study.root / "image", Patients(turned, measured))
    before = tables[1]

    def of(thresholds: pd.DataFrame, number: str) -> pd.DataFrame:
        return thresholds[thresholds["fold"] == number].reset_index(drop=True)

    pd.testing.assert_frame_equal(of(before, str(fold)), of(after, str(fold)))
    for other in ("0", "2", "frozen"):
        assert not of(before, other)["threshold"].equals(of(after, other)["threshold"])


def test_a_networks_threshold_comes_from_its_validation_fold(
    study: Scored, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    frame = study.home.frame
    chose = frame[
        (frame["fold"] == 0) & (frame["case_id"] != REFUSED)
    ]  # of the network tested on 2
    scores = [
        network_score("bone", 2, case, y)
        for case, y in zip(chose["case_id"], chose["fracture"], strict=True)
    ]
    right = threshold_rows("image_bone", 2, chose["fracture"], scores, "validation fold")
    thresholds = tables[1]
    found = thresholds[(thresholds["score"] == "image_bone") & (thresholds["fold"] == "2")]
    pd.testing.assert_frame_equal(found.reset_index(drop=True), right)


def test_thresholds_are_there_for_every_score_and_fold(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table, thresholds = tables
    count = thresholds.groupby(["score", "fold"]).size()
    assert set(count) == {2}
    assert len(count) == len(score_names(table)) * (FOLDS + 1)


def test_an_external_score_is_the_mean_of_the_members(study: Scored, away: pd.DataFrame) -> None:
    frame = study.away.with_features()
    for model, score in NETWORKS.items():
        for row in away.to_dict("records"):
            if row["case_id"] != "X5":
                members = [
                    network_score(model, k, row["case_id"], row["fracture"]) for k in range(FOLDS)
                ]
                assert row[score] == pytest.approx(sum(members) / FOLDS, rel=1e-12)
    for score in ("clinical_B", "logistic_A", "imaging_baseline", "matched_only"):
        fit = study.fits[score]
        means = sum(fit.models[k].predict(frame) for k in range(FOLDS)) / FOLDS
        np.testing.assert_allclose(away[score], means, rtol=1e-12)
    np.testing.assert_array_equal(away["frax_major"], frame["frax_major"])


def test_a_patient_whom_one_member_refuses_has_no_score_of_the_ensemble(study: Scored) -> None:
    path = study.root / "image/bone/fold_2/external/predictions.csv"
    whole = path.read_text()
    try:
        rows = pd.read_csv(path)
        rows[rows["case_id"] != "X7"].to_csv(path, index=False)
        away = external_table(study.plan, study.root / "image", study.away, _models(study))
    finally:
        path.write_text(whole)
    gaps = away.set_index("case_id")["image_bone"].isna()
    assert set(gaps[gaps].index) == {"X5", "X7"}


# --- which networks, which comparisons -----------------------------------------------------------


def plan(**images: object) -> Plan:
    made = ImagePlan(**images)  # type: ignore[arg-type]
    return Plan(name="N", development=Hospital(), images=made)


def test_the_networks_of_the_papers_plan() -> None:
    models = image_models(plan(overlays=("cpu_small",), further_seeds=(7,)))
    assert {m.name: m.overlays for m in models} == {
        "bone": ("bone_only", "cpu_small"),
        "bone_muscle": ("cpu_small",),
        **{f"fusion_{m}": ("cpu_small", f"clinical_{m}") for m in "ABCD"},
        "hazard": ("cpu_small", "hazard"),
        "bone_seed_7": ("bone_only", "cpu_small"),
        "bone_muscle_seed_7": ("cpu_small",),
    }
    assert {m.name: m.seed for m in models if m.seed} == {"bone_seed_7": 7, "bone_muscle_seed_7": 7}
    assert [m.name for m in models if m.further_seed] == ["bone_seed_7", "bone_muscle_seed_7"]
    assert {m.score for m in models if m.further_seed} == {"image_bone", "image_bone_muscle"}


def test_fusion_follows_the_main_network() -> None:
    models = image_models(plan(main="bone", fusion=("A",), hazard=False))
    assert models[-1].overlays == ("bone_only", "clinical_A")
    assert image_models(plan(models={})) == []


def test_the_main_network_is_compared_with_every_other_score() -> None:
    scores = ["image_bone", "image_bone_muscle", "clinical_A", "frax_hip", "risk_image_bone_muscle"]
    assert comparisons(plan(), scores) == [
        ("image_bone_muscle", "image_bone"),
        ("image_bone_muscle", "clinical_A"),
        ("image_bone_muscle", "frax_hip"),
    ]


def test_without_networks_the_richest_clinical_model_is_compared() -> None:
    scores = ["clinical_A", "clinical_B", "logistic_A", "risk_clinical_B"]
    assert comparisons(plan(models={}), scores) == [
        ("clinical_B", "clinical_A"),
        ("clinical_B", "logistic_A"),
    ]


def test_an_image_that_could_not_be_prepared_stops_the_study(tmp_path: Path) -> None:
    check_failures(tmp_path)  # nothing was refused
    line = {"case_id": "a", "code": "mask_empty", "message": "no label", "remedy": "look"}
    (tmp_path / "refused.jsonl").write_text(json.dumps(line) + "\n")
    check_failures(tmp_path)  # a rule was broken: counted, not stopped for
    failed = {**line, "code": "internal", "message": "OSError in the preprocessing"}
    (tmp_path / "refused.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(failed)}\n")
    with pytest.raises(RuntimeError, match="1 images could not be prepared"):
        check_failures(tmp_path)


def test_the_columns_that_a_study_needs() -> None:
    made = plan(models={})
    assert columns(replace(made, clinical=("A",))) == ["age", "sex"]
    assert "follow_up_years" in columns(plan(fusion=()))
    assert {"hiv", "bmi"} <= set(columns(replace(plan(), clinical=())))


def test_without_bmi_there_is_no_control_of_matching(study: Scored) -> None:
    frame = study.home.frame.drop(columns=["bmi", "weight_kg", "height_cm"])
    fits = clinical_fits(replace(study.plan, clinical=("A",)), Patients(frame, study.home.features))
    assert list(fits) == ["clinical_A", "logistic_A", "imaging_baseline"]
