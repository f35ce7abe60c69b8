"""``vfx clinical``: from a table to scores, models, figures, and the line on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy.special import expit

from monai_vfx.analysis.clinical.figures import contribution_figure
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES
from monai_vfx.analysis.clinical.job import run_clinical
from monai_vfx.analysis.clinical.models import load_clinical
from monai_vfx.analysis.clinical.variables import MODELS
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.cli import main
from monai_vfx.core.errors import SettingError
from phantoms import grid, make_phantom

SCORES = ("clinical_A", "clinical_C", "logistic_A", "logistic_C", "matched_only", "frax_major")


def write_table(path: Path, n: int, seed: int, **columns: Any) -> Path:
    """Write a patient table; smokers and old patients fracture more often."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "case_id": [f"h{seed}c{i:03d}" for i in range(n)],
            "simulated": 1,
            "age": rng.uniform(50, 80, n).round(1),
            "sex": rng.choice(["F", "M"], n),
            "bmi": rng.normal(24, 3, n).round(1),
            "frax_major": rng.uniform(3, 30, n).round(1),
        }
    )
    for name in MODELS["D"][3:]:
        frame[name] = (rng.random(n) < 0.3).astype(int)
    odds = (frame["age"] - 65) / 8 + 1.5 * frame["smoker"] - 0.8
    frame["fracture"] = (rng.random(n) < expit(odds)).astype(int)
    frame["follow_up_years"] = np.where(frame["fracture"] == 1, 2.5, 6.0)
    frame["smoker"] = frame["smoker"].where(rng.random(n) > 0.1)
    frame = frame.assign(**columns).astype({"smoker": "Int64"})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("clinical")
    table = write_table(folder / "dev.csv", 150, 1)
    external = write_table(folder / "ext.csv", 60, 2)
    run = [str(table), "--out", str(folder / "out"), "--external", str(external)]
    result = CliRunner().invoke(main, ["clinical", *run, "--models", "AC", "--folds", "3"])
    assert result.exit_code == 0, result.output
    return folder / "out", json.loads(result.stdout), table


def test_one_line_says_how_good_the_models_are(study: Any) -> None:
    out, line, _ = study
    table = pd.read_csv(out / "predictions.csv")
    assert tuple(line["auroc"]) == SCORES
    assert (line["n"], line["events"], line["folds"]) == (150, int(table["fracture"].sum()), 3)
    assert line["simulated"]
    for name in SCORES:
        own = auroc(table["fracture"], table[name])
        assert line["auroc"][name] == pytest.approx([own.value, *own.ci])
    assert line["auroc"]["clinical_C"][0] > 0.65
    assert line["external"]["auroc"]["logistic_C"][0] > 0.65


def test_predictions_are_a_table_for_everybody(study: Any) -> None:
    out = study[0]
    head = ["case_id", "patient_id", "pair_id", "fold", "fracture", "time_years", "event"]
    table, external = (pd.read_csv(out / name) for name in ("predictions.csv", "external.csv"))
    assert [*table.columns] == [*head, *SCORES]
    assert [*external.columns] == [*(name for name in head if name != "fold"), *SCORES]
    assert set(table["fold"]) == {0, 1, 2}
    assert (table["event"] == table["fracture"]).all()
    assert table[[*SCORES]].notna().all(axis=None)
    assert table["patient_id"].equals(table["case_id"])


def test_scores_come_from_the_models_on_disk(study: Any) -> None:
    out, _, path = study
    frame, table = pd.read_csv(path), pd.read_csv(out / "predictions.csv")
    external = pd.read_csv(path.with_name("ext.csv"))
    for name in ("clinical_C", "logistic_A"):
        models = [load_clinical(out / name / f"model_fold_{fold}.json") for fold in (0, 1, 2)]
        for fold, model in enumerate(models):
            held = table["fold"] == fold
            np.testing.assert_allclose(model.predict(frame[held]), table[name][held], rtol=1e-12)
            assert model.trained_on["simulated"]
            assert model.trained_on["n"] == 150 - held.sum()
        mean = np.mean([model.predict(external) for model in models], axis=0)
        np.testing.assert_allclose(mean, pd.read_csv(out / "external.csv")[name], rtol=1e-12)


def test_thresholds_by_fold_and_frozen(study: Any) -> None:
    table = pd.read_csv(study[0] / "thresholds.csv")
    assert set(table["score"]) == {*SCORES}
    assert set(table["rule"]) == {"youden", "sensitivity_0.80"}
    by_fold = table[table["fold"] != "frozen"]
    assert set(by_fold["chosen_on"][by_fold["score"] == "clinical_A"]) == {"inner folds"}
    assert set(by_fold["chosen_on"][by_fold["score"] == "frax_major"]) == {"other folds"}
    frozen = table[table["fold"] == "frozen"]
    assert set(frozen["chosen_on"]) == {"development out-of-fold"}
    assert len(frozen) == 2 * len(SCORES)
    assert set(frozen["n"]) == {150}


def test_what_each_fit_saw_is_on_record(study: Any) -> None:
    for name in SCORES[:-1]:  # FRAX was fitted by others
        fits = json.loads((study[0] / name / "fits.json").read_text())["fits"]
        assert [(fit["score"], fit["fold"]) for fit in fits] == [(name, k) for k in (0, 1, 2)]
        inner = pd.read_csv(study[0] / name / "inner.csv")
        for fit in fits:
            assert set(inner["case_id"][inner["fold"] == fit["fold"]]) == set(
                fit["seen"]["threshold"]
            )
            for seen in fit["seen"].values():
                assert not set(seen) & set(fit["tested"])
                assert len(set(seen) | set(fit["tested"])) == 150


def test_missing_values_are_counted_by_fold(study: Any) -> None:
    out, _, path = study
    facts = json.loads((out / "clinical.json").read_text())["models"]["clinical_C"]
    frame, folds = pd.read_csv(path), pd.read_csv(out / "predictions.csv")["fold"]
    for fold, entry in facts["folds"].items():
        assert entry["missing"]["smoker"] == frame["smoker"][folds != int(fold)].isna().sum() > 0


def test_contributions_add_up(study: Any) -> None:
    out = study[0]
    table = pd.read_csv(out / "contributions.csv").query("score == 'clinical_C'")
    assert set(table["variable"]) == {*MODELS["C"], "base"}
    odds = table.groupby("case_id")["contribution"].sum()
    scores = pd.read_csv(out / "predictions.csv").set_index("case_id")["clinical_C"]
    np.testing.assert_allclose(expit(odds), scores.loc[odds.index], atol=1e-5)


def test_figures_are_there_and_name_nobody(study: Any) -> None:
    for name in SCORES[:4]:
        text = (study[0] / "figures" / f"contributions_{name}.svg").read_text()
        assert "Age, years" in text
        assert "h1c" not in text
        assert (study[0] / "figures" / f"contributions_{name}.png").stat().st_size > 5000


def test_the_same_table_gives_the_same_bytes(study: Any, tmp_path: Path) -> None:
    out, _, path = study
    run_clinical(path, tmp_path, "AC", 3, external=path.with_name("ext.csv"))
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for file in files:
        if file.name != "run.json":  # it holds the time
            assert (out / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_folds_of_the_table_are_used(tmp_path: Path) -> None:
    fold = np.arange(80) % 4
    table = write_table(tmp_path / "t.csv", 80, 3, fold=fold)
    document = run_clinical(table, tmp_path / "out", "A")
    assert document["folds"] == 4
    assert (pd.read_csv(tmp_path / "out" / "predictions.csv")["fold"] == fold).all()
    with pytest.raises(SettingError, match=r"folds \(5\).* holds 0, 1, 2, 3"):
        run_clinical(table, tmp_path / "out", "A", folds=5)


def test_a_faulty_table_is_refused_by_row(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 40, 3, sex="woman")
    result = CliRunner().invoke(main, ["clinical", str(table), "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert "row 2, sex: 'woman'" in result.stderr
    assert json.loads(result.stdout)["refusal"]["code"] == "cohort_invalid"


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 40, 3)
    pd.read_csv(table).drop(columns="hiv").to_csv(table, index=False)
    result = CliRunner().invoke(main, ["clinical", str(table), "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert "hiv" in result.stderr


@pytest.mark.parametrize("models", ["AE", ""])
def test_unknown_letters_are_wrong_use(models: str, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 40, 3)
    run = ["clinical", str(table), "--out", str(tmp_path / "out"), "--models", models]
    result = CliRunner().invoke(main, run)
    assert result.exit_code == 2
    assert "letters of ABCD" in result.stderr


def test_a_table_is_not_tested_on_itself(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 40, 3)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(table.read_bytes())
    with pytest.raises(SettingError, match="external"):
        run_clinical(table, tmp_path / "out", "A", 2, external=copy)


def test_patients_trained_on_are_not_external(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 40, 3)
    others = write_table(tmp_path / "o.csv", 40, 4)
    renamed = pd.read_csv(others).assign(case_id=pd.read_csv(table)["case_id"])
    renamed.to_csv(others, index=False)  # other patients, counted alike
    assert run_clinical(table, tmp_path / "out", "A", 2, external=others)["external"]
    mixed = pd.concat([pd.read_csv(table).head(5), pd.read_csv(others).tail(20)])
    mixed.to_csv(others, index=False)
    with pytest.raises(SettingError, match="external holds 5 patients"):
        run_clinical(table, tmp_path / "out", "A", 2, external=others)


def test_an_external_table_with_one_outcome_has_no_auroc(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 60, 3)
    others = write_table(tmp_path / "o.csv", 20, 4, fracture=0, follow_up_years=6.0)
    document = run_clinical(table, tmp_path / "out", "A", 3, external=others)
    score = document["external"]["scores"]["clinical_A"]
    assert (score["auroc"], score["n"], score["events"]) == (None, 20, 0)


def test_imaging_baseline_with_a_refused_image(tmp_path: Path) -> None:
    image, mask = make_phantom(*grid((2.0, 2.0, 4.0), (190.0, 170.0, 236.0))).save(tmp_path)
    names = {"image": [], "mask": []}  # type: ignore[var-annotated]
    for row in range(12):
        for column, source in (("image", image), ("mask", mask)):
            link = tmp_path / f"{column}{row}.nii.gz"
            link.symlink_to(source)
            names[column].append(str(link))
    (tmp_path / "image3.nii.gz").unlink()
    (tmp_path / "image3.nii.gz").write_bytes(b"no image")
    table = write_table(tmp_path / "t.csv", 12, 5, fracture=np.arange(12) % 2, **names)
    frame = pd.read_csv(table)
    frame["follow_up_years"] = np.where(frame["fracture"] == 1, 2.5, 6.0)
    frame.to_csv(table, index=False)
    document = run_clinical(table, tmp_path / "out", "A", 2, imaging=True)
    assert document["images_refused"] == 1
    score = document["scores"]["imaging_baseline"]
    assert (score["n"], score["missing"]) == (11, 1)
    refused = pd.read_csv(tmp_path / "out" / "refused.csv")
    assert refused["case_id"].tolist() == ["h5c003"]
    assert refused["set"].tolist() == ["development"]
    features = pd.read_csv(tmp_path / "out" / "imaging" / "development.csv")
    assert features["l1_trabecular_hu"].notna().sum() == 11
    assert [*features.columns] == ["case_id", *IMAGING_VARIABLES, "note"]
    model = load_clinical(tmp_path / "out" / "imaging_baseline" / "model_fold_0.json")
    assert model.trained_on["constant"] == [*IMAGING_VARIABLES]


# --- the figure ----------------------------------------------------------------------------------


def _texts(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_the_weightiest_variable_stands_on_top() -> None:
    values = pd.DataFrame({"age": [60.0, 70.0, 80.0], "hiv": [0.0, np.nan, 1.0]})
    parts = pd.DataFrame({"age": [-1.0, 0.0, 1.0], "hiv": [2.0, -2.0, 0.1], "base": [9, 9, 9]})
    figure = contribution_figure(values, parts, {"age": "Age, years"})
    assert _texts(figure) == ["Age, years", "hiv"]  # from the bottom
    widths = [bar.get_width() for bar in figure.axes[1].patches]
    assert widths == pytest.approx([2 / 3, 4.1 / 3])
    assert "3 patients" in figure.axes[0].get_xlabel()


def test_tables_of_different_patients_are_not_drawn() -> None:
    values = pd.DataFrame({"age": [60.0, 70.0]})
    with pytest.raises(ValueError, match="same patients"):
        contribution_figure(values, values.iloc[:1], {})
