"""A whole study: of tables alone, and with networks, killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from monai_vfx.analysis.calibration.model import read_calibration
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.simulation.hospital import simulate_hospital
from monai_vfx.simulation.patients import COHORT_COLUMNS, draw_patients
from monai_vfx.workflows.study.run import run_study

TABLES = """
name: Tables alone
folds: 3
development: {table: home.csv}
external: {table: away.csv}
matching: {caliper: 0.5}
clinical: [A, C]
images: {models: {}}
subgroups: [sex]
bootstrap: 100
"""
IMAGES = """
name: Killed
folds: 3
development: {table: home/cohort.csv}
external: {table: away/cohort.csv}
eligibility: {min_age: 20, max_age: 100, min_follow_up_years: 0}
matching: {method: none}
clinical: [A]
images:
  models: {bone: [bone_only], bone_muscle: []}
  overlays: [cpu_small, tiny.yaml]
  epochs: 1
  pretrained: none
  fusion: [A]
  hazard: true
subgroups: [sex]
bootstrap: 100
gallery: 1
"""
TINY = "crop_size: [24, 36]\npixel_mm: 4.0\nrnn_hidden: 16\n"


def write_tables(folder: Path) -> Path:
    """Write two hospitals without images, and the plan of a study of them."""
    for name, hospital, count, seed in (("home", "registry", 300, 3), ("away", "external", 150, 4)):
        rows = [asdict(p) for p in draw_patients(count, seed, hospital, "strong")]  # type: ignore[arg-type]
        frame = pd.DataFrame(rows)[["case_id", *COHORT_COLUMNS]]
        frame.to_csv(folder / f"{name}.csv", index=False)
    plan = folder / "STUDY.yaml"
    plan.write_text(TABLES)
    return plan


# --- tables alone --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A finished study of tables alone: its folder, and what was returned."""
    folder = tmp_path_factory.mktemp("tables")
    return folder / "out", run_study(write_tables(folder), folder / "out", pdf=False)


def test_a_study_of_tables_alone_runs_to_its_report(
    tables: tuple[Path, dict[str, object]],
) -> None:
    out, result = tables
    assert Path(str(result["report"])).is_file()
    assert result["leakage_audit"] is True
    home = pd.read_csv(out / "predictions" / "development.csv")
    assert {"clinical_A", "clinical_C", "logistic_C", "matched_only", "frax_major"} <= set(home)
    assert not [name for name in home if name.startswith(("image", "fusion", "late"))]
    assert "imaging_baseline" not in home
    away = pd.read_csv(out / "predictions" / "external.csv")
    assert len(away) == len(pd.read_csv(out / "cohort" / "external" / "selected.csv"))
    for side, table in (("development", home), ("external", away)):
        evaluation = json.loads((out / "evaluation" / side / "evaluation.json").read_text())
        assert (evaluation["n"], evaluation["events"]) == (len(table), table["fracture"].sum())
    calibration = read_calibration(out / "calibration" / "calibration.json")
    document = json.loads((out / "calibration" / "calibration.json").read_text())
    score = document["score"]
    assert document["simulated"] is False  # no column says so
    assert score == "clinical_C"  # the richest of the plan
    risk = calibration.risk(away[score], pd.read_csv(out / "cohort" / "external" / "selected.csv"))
    assert risk == pytest.approx(away[f"risk_{score}"].to_numpy(), rel=1e-9)
    about = json.loads((out / "study.json").read_text())
    names = [step["name"] for step in about["steps"]]
    assert names[-1] == "audit"
    assert not [name for name in names if name.startswith(("image/", "gallery", "external/"))]


def test_a_patient_without_measurements_is_no_refusal(
    tables: tuple[Path, dict[str, object]],
) -> None:
    for side in ("development", "external"):
        assert len(pd.read_csv(tables[0] / "imaging" / f"{side}_refused.csv")) == 0
        measured = pd.read_csv(tables[0] / "imaging" / f"{side}.csv")
        selected = pd.read_csv(tables[0] / "cohort" / side / "selected.csv")
        assert measured["case_id"].tolist() == selected["case_id"].tolist()
        assert measured.drop(columns="case_id").isna().all(axis=None)


def test_the_same_study_again_does_nothing_again(
    tables: tuple[Path, dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tables
    written = (out / "predictions" / "development.csv").stat().st_mtime_ns
    assert run_study(out.parent / "STUDY.yaml", out, pdf=False) == before
    assert (out / "predictions" / "development.csv").stat().st_mtime_ns == written
    told = capsys.readouterr().err.splitlines()
    assert {line for line in told if not line.endswith("done before")} == {"report"}


def test_another_plan_in_the_same_folder_is_refused(
    tables: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out = tables[0]
    other = out.parent / "OTHER.yaml"
    other.write_text(TABLES.replace("folds: 3", "folds: 4"))
    with pytest.raises(SettingError, match=r"other settings \(folds\)"):
        run_study(other, out, pdf=False)


def test_a_study_with_networks_needs_images(tmp_path: Path) -> None:
    plan = write_tables(tmp_path)
    plan.write_text(TABLES.replace("images: {models: {}}", "images: {hazard: false}"))
    with pytest.raises(CaseRefused, match="image") as caught:
        run_study(plan, tmp_path / "out", pdf=False)
    assert caught.value.code == "cohort_invalid"


def test_a_column_that_a_model_needs_is_missed_before_anything_is_fitted(tmp_path: Path) -> None:
    plan = write_tables(tmp_path)
    table = pd.read_csv(tmp_path / "home.csv").drop(columns=["smoker"])
    table.to_csv(tmp_path / "home.csv", index=False)
    with pytest.raises(CaseRefused, match="smoker"):
        run_study(plan, tmp_path / "out", pdf=False)
    assert not (tmp_path / "out" / "predictions").exists()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("{overlays: [cpu_smal]}", "cpu_smal"),
        ("{overlays: [gone.yaml]}", "gone.yaml"),
        ("{pretrained: gone.pt}", "'gone.pt' does not exist"),
        ("{pretrained: package}", "'package'.*must be None, 'imagenet', 'timm/NAME'"),
        ("{pretrained: IMAGENET1K_V9}", "IMAGENET1K_V9.*must be None, 'imagenet', 'timm/NAME'"),
        ("{pretrained: timm/resnet18}", "must be weights of the backbone"),
        ("{models: {hazard: []}, main: hazard}", "hazard: the study itself gives this name"),
    ],
)
def test_what_trainings_need_is_checked_first(tmp_path: Path, images: str, words: str) -> None:
    plan = write_tables(tmp_path)
    plan.write_text(TABLES.replace("{models: {}}", images))
    with pytest.raises(SettingError, match=words):
        run_study(plan, tmp_path / "out", pdf=False)
    assert not (tmp_path / "out").exists()


def test_a_study_without_any_model_is_refused(tmp_path: Path) -> None:
    plan = write_tables(tmp_path)
    plan.write_text(TABLES.replace("clinical: [A, C]", "clinical: []"))
    with pytest.raises(SettingError, match="there must be a model"):
        run_study(plan, tmp_path / "out", pdf=False)


# --- killed --------------------------------------------------------------------------------------


def start(plan: Path, out: Path) -> subprocess.Popen[bytes]:
    vfx = Path(sys.executable).with_name("vfx")
    command = [str(vfx), "study", str(plan), "--out", str(out)]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def numbers(out: Path) -> dict[str, bytes]:
    """Return the files that hold a study's numbers."""
    patterns = ("predictions/*.csv", "evaluation/*/evaluation.json", "cohort/*/selected.csv")
    files = [p for pattern in (*patterns, "calibration/*.json") for p in out.glob(pattern)]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}


@pytest.mark.slow
def test_kills_do_not_change_a_number(tmp_path: Path) -> None:
    simulate_hospital(
        tmp_path / "home", 36, 1, "development", "nifti", "quick", "strong", workers=2
    )
    simulate_hospital(tmp_path / "away", 20, 2, "external", "nifti", "quick", "strong", workers=2)
    (tmp_path / "tiny.yaml").write_text(TINY)
    plan = tmp_path / "STUDY.yaml"
    plan.write_text(IMAGES)
    began = time.monotonic()
    assert start(plan, tmp_path / "whole").wait() == 0, (tmp_path / "whole.log").read_text()
    length = time.monotonic() - began
    moments = random.Random(7)
    out = tmp_path / "killed"
    for _ in range(3):
        process = start(plan, out)
        time.sleep(moments.uniform(0.1, 0.4) * length)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    assert start(plan, out).wait() == 0, (tmp_path / "killed.log").read_text()
    whole = numbers(tmp_path / "whole")
    assert len(whole) >= 10
    assert numbers(out) == whole
    assert (out / "report" / "index.html").is_file()
    assert json.loads((out / "audit" / "leakage.json").read_text())["passed"] is True
    # Damage done afterwards is made good, be it to weights or to what they gave.
    weights = out / "image" / "bone" / "fold_0" / "model.pt"
    before = weights.read_bytes()
    weights.write_bytes(before[:-100])
    (out / "image" / "bone" / "fold_1" / "test" / "predictions.csv").unlink()
    assert start(plan, out).wait() == 0, (tmp_path / "killed.log").read_text()
    assert len(weights.read_bytes()) == len(before)
    assert numbers(out) == whole
