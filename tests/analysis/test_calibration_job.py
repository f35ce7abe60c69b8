"""``vfx calibrate``: files, one JSON line, a new site, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.special import expit

from calibration_cases import make_study
from monai_vfx.analysis.calibration.job import run_calibration
from monai_vfx.analysis.calibration.model import read_calibration
from monai_vfx.analysis.calibration.risk import MATCHED
from monai_vfx.cli import main
from monai_vfx.core.errors import SettingError
from monai_vfx.simulation.patients import draw_population

FILES = {
    *("calibration.json", "conformal.json", "groups.csv", "risks.csv", "run.json", "summary.json"),
    *("figures/calibration.png", "figures/calibration.svg"),
}


def run(*arguments):
    return CliRunner().invoke(main, ["calibrate", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cohort of 9,000 whose cases and matched controls have scores, and another hospital."""
    folder = tmp_path_factory.mktemp("calibration")
    study = make_study(1, "matched", count=9000)
    hidden = ["score", "female", "bone_seen", "muscle_seen"]
    cohort = study.population.drop(columns=hidden).assign(simulated=1)
    cohort.round(4).to_csv(folder / "cohort.csv", index=False)
    predictions = study.selected[["case_id", "pair_id", "fracture", "score"]].copy()
    predictions.iloc[[4, 7], 3] = np.nan
    predictions.to_csv(folder / "predictions.csv", index=False)
    site = draw_population(700, 5, "external")
    site["score"] = expit(-0.7 * (site["bone_z"] + site["muscle_z"]))
    columns = ["case_id", "fracture", *MATCHED, "score"]
    site[columns].to_csv(folder / "site.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def done(folder):
    out = folder / "out"
    result = run(
        *(folder / "predictions.csv", "--score", "score"),
        *("--population", folder / "cohort.csv", "--out", out),
    )
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_a_sample_gets_the_risk_of_its_cohort(folder, done):
    out, line = done
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == FILES
    cohort = pd.read_csv(folder / "cohort.csv")
    assert line["missing"] == 2
    assert line["n"] == len(pd.read_csv(folder / "predictions.csv")) - 2
    assert line["simulated"] is True
    assert line["mean_risk"] == pytest.approx(cohort["five_year_risk"].mean(), rel=0.15)
    low, high = line["mean_risk_ci"]
    assert low < cohort["fracture"].mean() < high
    groups = pd.read_csv(out / "groups.csv").set_index("value")
    assert groups.loc["youngest third", "mean_risk"] < groups.loc["oldest third", "mean_risk"]
    assert groups.loc["all", "observed_n"] == len(cohort)


def test_risks_are_those_of_the_stored_calibration(folder, done):
    out, _ = done
    risks = pd.read_csv(out / "risks.csv")
    cohort = pd.read_csv(folder / "cohort.csv").set_index("case_id")
    again = read_calibration(out / "calibration.json").risk(
        risks["score"], cohort.loc[risks["case_id"]]
    )
    np.testing.assert_allclose(risks["risk"], again, rtol=1e-12)
    known = risks["risk"].notna()
    assert (~known).sum() == 2
    assert risks.loc[~known, "conformal_set"].isna().all()
    inside = (risks["risk_low"] < risks["risk"]) & (risks["risk"] < risks["risk_high"])
    assert inside[known].all()
    assert set(risks["conformal_set"].dropna()) <= {
        *("fracture", "no fracture", "no fracture or fracture", "none")
    }


def test_same_input_same_bytes(folder, done):
    out, _ = done
    run_calibration(
        folder / "predictions.csv",
        "score",
        folder / "again",
        population=folder / "cohort.csv",
    )
    for name in FILES - {"run.json"}:
        assert (folder / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_refit_brings_a_new_site_to_its_observed_share(folder, done):
    out, _ = done
    result = run(
        *(folder / "site.csv", "--score", "score", "--refit", out / "calibration.json"),
        *("--out", folder / "site"),
    )
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    site = pd.read_csv(folder / "site.csv")
    assert (line["kind"], line["refitted"]) == ("refit", "intercept and slope")
    assert line["mean_risk"] == pytest.approx(site["fracture"].mean(), abs=1e-6)
    assert line["simulated"] is True  # as the calibration that it started from
    summary = json.loads((folder / "site" / "summary.json").read_text())
    assert abs(summary["reliability_before"]["intercept"]) > 0.15
    assert summary["reliability"]["intercept"] == pytest.approx(0.0, abs=1e-4)


def test_a_site_may_keep_its_variables_in_a_patient_table(folder, done):
    site = pd.read_csv(folder / "site.csv")
    site.drop(columns="score").to_csv(folder / "site_patients.csv", index=False)
    site[["case_id", "fracture", "score"]].to_csv(folder / "site_scores.csv", index=False)
    found = [
        run_calibration(
            folder / name,
            "score",
            folder / "twice",
            population=patients,
            refit_of=done[0] / "calibration.json",
        )
        for name, patients in (
            ("site.csv", None),
            ("site_scores.csv", folder / "site_patients.csv"),
        )
    ]
    risks = [[group["mean_risk"] for group in document["groups"]] for document in found]
    assert risks[0] == pytest.approx(risks[1], rel=1e-9)


def test_a_bare_score_of_unselected_patients(folder):
    document = run_calibration(folder / "site.csv", "score", folder / "bare")
    assert (document["kind"], document["population_n"]) == ("refit", None)
    assert document["reliability"]["slope"] == pytest.approx(1.0, abs=1e-4)


def test_what_makes_a_risk_doubtful_is_said(folder, done):
    sample = (folder / "predictions.csv", "score", folder / "doubt")
    notes = {
        name: " ".join(run_calibration(*sample, **settings)["notes"])
        for name, settings in {
            "cohort": {"population": folder / "cohort.csv"},
            "bare": {},
            "refit": {
                "population": folder / "cohort.csv",
                "refit_of": done[0] / "calibration.json",
            },
        }.items()
    }
    assert notes["cohort"] == ""
    assert "50.0% of them fractured" in notes["bare"]
    assert "no random part" in notes["refit"]
    turned = pd.read_csv(folder / "predictions.csv")
    turned["score"] = 1 - turned["score"]
    turned.to_csv(folder / "turned.csv", index=False)
    document = run_calibration(
        folder / "turned.csv", "score", folder / "doubt", population=folder / "cohort.csv"
    )
    assert "turned round" in " ".join(document["notes"])


@pytest.mark.parametrize("gone", [1, 3, 8])
def test_a_few_cases_without_a_control_do_not_matter(folder, tmp_path, gone):
    sample, cohort = (
        pd.read_csv(folder / f"{name}.csv", index_col="case_id")
        for name in ("predictions", "cohort")
    )
    cases = sample.index[sample["fracture"] == 1]
    oldest = cohort.loc[cases, "age"].sort_values(kind="stable").index[-gone:]
    left = sample[~sample["pair_id"].isin(sample.loc[oldest, "pair_id"])]
    left.to_csv(tmp_path / "p.csv")
    kinds = ("matched_controls", "weighting")
    means = [
        run_calibration(
            tmp_path / "p.csv", "score", tmp_path, population=folder / "cohort.csv", kind=kind
        )["groups"][0]["mean_risk"]
        for kind in kinds
    ]
    truth = cohort["fracture"].mean()
    assert means == pytest.approx([truth, truth], rel=0.15)


def test_patients_who_are_not_simulated_are_not_called_so(folder, tmp_path):
    for name in ("predictions", "cohort"):
        table = pd.read_csv(folder / f"{name}.csv")
        if "simulated" in table:
            table["simulated"] = 0
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    document = run_calibration(
        tmp_path / "predictions.csv", "score", tmp_path, population=tmp_path / "cohort.csv"
    )
    assert document["simulated"] is False


def test_a_class_too_small_for_sets_is_said(folder):
    site = pd.read_csv(folder / "site.csv")
    few = pd.concat([site[site["fracture"] == 1].head(12), site[site["fracture"] == 0].head(90)])
    few.to_csv(folder / "few.csv", index=False)
    document = run_calibration(folder / "few.csv", "score", folder / "few", confidence=0.95)
    assert "12 patients; 20 are needed" in document["conformal"]["reason"]
    assert not (folder / "few" / "conformal.json").exists()


def test_wrong_tables_are_named(folder, done, tmp_path):
    predictions = folder / "predictions.csv"
    result = run(predictions, "--score", "nope", "--out", tmp_path)
    assert (result.exit_code, "nope" in result.stderr) == (2, True)
    bad = pd.read_csv(predictions)
    bad["score"] *= 100
    bad.to_csv(tmp_path / "bad.csv", index=False)
    result = run(tmp_path / "bad.csv", "--score", "score", "--out", tmp_path / "o")
    assert (result.exit_code, "divide percent by 100" in result.stderr) == (3, True)
    result = run(
        *(predictions, "--score", "score", "--refit", done[0] / "calibration.json"),
        *("--out", tmp_path / "o"),
    )
    assert (result.exit_code, "age, sex, bmi" in result.stderr) == (2, True)
    strangers = pd.read_csv(predictions).assign(case_id=lambda frame: "x" + frame["case_id"])
    strangers.to_csv(tmp_path / "strangers.csv", index=False)
    with pytest.raises(SettingError, match="are not in the population"):
        run_calibration(
            tmp_path / "strangers.csv", "score", tmp_path, population=folder / "cohort.csv"
        )
    nameless = pd.read_csv(predictions).drop(columns="case_id")
    nameless.to_csv(tmp_path / "nameless.csv", index=False)
    with pytest.raises(SettingError, match="no column 'case_id'"):
        run_calibration(tmp_path / "nameless.csv", "score", tmp_path)
