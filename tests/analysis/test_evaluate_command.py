from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from monai_vfx.analysis.evaluation.job import evaluation_tables, run_evaluation
from monai_vfx.cli import main
from monai_vfx.core.schemas import violations

N = 120


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(4)
    y = np.repeat([0, 1], [70, 50])
    frame = pd.DataFrame({"fracture": y, "sex": rng.choice(["F", "M"], N)})
    for number in range(9):
        frame[f"s{number}"] = (rng.normal(size=N) + 0.2 * number * y).round(2)
    frame["risk"] = (1 / (1 + np.exp(-frame["s8"]))).round(4)
    frame["years"] = np.where(y == 1, rng.uniform(0.1, 5, N), rng.uniform(1, 9, N)).round(2)
    frame["event"] = np.where(y == 1, 1, rng.choice([0, 2], N, p=[0.8, 0.2]))
    frame.loc[2, "s1"] = np.nan
    return frame


@pytest.fixture(scope="module")
def table(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "scores.csv"
    frame.to_csv(path, index=False)
    return path


def vfx(*arguments):
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in arguments)])


def test_the_command_writes_everything_and_one_line(table, tmp_path):
    done = vfx(
        *(table, "--label", "fracture", "--score", "s1", "--score", "risk", "--risk", "risk"),
        *("--time", "years", "--event", "event", "--subgroup", "sex", "--adjust", "sex"),
        *("--bootstrap", 100, "--seed", 3, "--rule", "youden", "--rule", "risk_0.50"),
        *("--out", tmp_path),
    )
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    short = json.loads(line)
    assert (short["n"], short["events"]) == (120, 50)
    assert short["scores"]["s1"]["missing"] == 1
    document = json.loads((tmp_path / "evaluation.json").read_text())
    assert violations(document, "evaluation") == []
    assert short["scores"]["risk"]["auroc"] == document["scores"]["risk"]["auroc"]
    points = document["scores"]["risk"]["operating_points"]
    assert [(p["rule"], p["chosen_on"]) for p in points] == [
        ("youden", "same rows"),
        ("risk_0.50", "fixed in advance"),
    ]
    figures = ("roc", "auroc", "calibration", "decision", "cumulative_incidence")
    names = {f"{name}.{ending}" for name in figures for ending in ("svg", "png")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["seed"] == 3
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert record["inputs_sha256"] == {"table": digest, "thresholds": None}


def test_people_read_a_short_table_on_stderr(table, tmp_path):
    done = vfx(
        *(table, "--label", "fracture", "--score", "s1", "--score", "s8", "--score", "s2"),
        *("--bootstrap", 100, "--reference", "s8", "--out", tmp_path),
    )
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["score", "s1", "s8", "s2"]
    assert "50 / 119" in lines[1]
    assert [line.split(":")[0] for line in lines[4:]] == ["s8 - s1", "s8 - s2"]


def test_tables_hold_the_numbers_of_the_document(frame, tmp_path):
    document = run_evaluation(
        *(frame, "fracture", ["s1", "risk"], tmp_path),
        **{"risk_scores": ["risk"], "subgroups": ["sex"], "bootstrap": 100},
    )
    tables = {
        path.stem: pd.read_csv(path, float_precision="round_trip")
        for path in (tmp_path / "tables").iterdir()
    }
    assert set(tables) == {name for name, rows in evaluation_tables(document).items() if rows}
    scores = tables["scores"].set_index("score")
    entry = document["scores"]["risk"]
    assert scores.loc["risk", "auroc_ci_high"] == entry["auroc_ci"][1]
    assert scores.loc["risk", "calibration_ici"] == entry["calibration"]["ici"]
    assert np.isnan(scores.loc["s1", "calibration_ici"])
    point = tables["operating_points"].iloc[0]
    expected = document["scores"]["s1"]["operating_points"][0]["ppv"]
    found = [point[f"ppv{end}"] for end in ("", "_ci_low", "_ci_high", "_successes", "_n")]
    assert found == [expected["value"], *expected["ci"], expected["successes"], expected["n"]]
    assert len(tables["subgroups"]) == 4
    assert tables["auroc_comparisons"]["p_holm"].tolist() == [document["comparisons"][0]["p_holm"]]
    assert len(tables["decision_comparisons"]) == 6
    assert len(tables["decision_curve"]) == 50


def test_the_same_inputs_give_the_same_bytes_and_nothing_old_stays(frame, tmp_path):
    settings = {"bootstrap": 100, "seed": 5}
    risky = {"bootstrap": 100, "risk_scores": ["risk"]}
    for name in ("one", "other"):
        run_evaluation(frame, "fracture", ["risk", "s3"], tmp_path / name, **settings)
    run_evaluation(frame, "fracture", ["risk", "s3"], tmp_path / "old", **risky)
    mine = tmp_path / "old" / "figures" / "roc_of_mine.png"
    mine.write_bytes(b"somebody's own")
    run_evaluation(frame, "fracture", ["risk", "s3"], tmp_path / "old", **settings)
    assert mine.read_bytes() == b"somebody's own"
    mine.unlink()
    contents = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file() and path.name != "run.json"  # it holds the time
        }
        for name in ("one", "other", "old")
    ]
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) >= 8


def test_more_scores_than_a_figure_holds_make_two(frame, tmp_path):
    run_evaluation(
        *(frame, "fracture", [f"s{n}" for n in range(9)], tmp_path),
        **{"comparisons": "reference", "bootstrap": 100},
    )
    assert (tmp_path / "figures" / "roc.png").is_file()
    assert (tmp_path / "figures" / "roc_2.svg").read_text().count("s8:") == 1


def test_thresholds_from_a_file_are_frozen(table, tmp_path):
    cuts = tmp_path / "thresholds.csv"
    cuts.write_text(
        "score,fold,rule,threshold,chosen_on,n,events\n"
        "s8,frozen,youden,0.75,development out-of-fold,80,40\n"
    )
    done = vfx(
        *(table, "--label", "fracture", "--score", "s8", "--thresholds", cuts),
        *("--bootstrap", 100, "--out", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (point,) = document["scores"]["s8"]["operating_points"]
    assert (point["threshold"], point["chosen_on"]) == (0.75, "development out-of-fold")
    frame = pd.read_csv(table)
    hits = int(((frame["s8"] >= 0.75) & (frame["fracture"] == 1)).sum())
    assert (point["sensitivity"]["successes"], point["sensitivity"]["n"]) == (hits, 50)


def test_a_missing_column_is_wrong_use_and_names_what_is_there(table, tmp_path):
    done = vfx(table, "--label", "outcome", "--score", "s1", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "columns are missing: outcome; there are: fracture, sex, s0, s1" in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_cells_are_refused_together(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("y,a\nfracture,0.1\n1,0.2\n0,low\n")
    done = vfx(path, "--label", "y", "--score", "a", "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "row 2, y: 'fracture', must be 0 or 1; row 4, a: 'low'" in done.stderr
    assert json.loads(done.stdout)["refusal"]["code"] == "cohort_invalid"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reference", "s9"), "reference 's9' is none of the scores: s1"),
        (("--rule", "best"), "rule 'best' is unknown"),
        (("--time", "years"), "time and event"),
        (("--risk", "s2"), "risk_scores must be among the scores: s2"),
        (("--prevalence", "1"), "--prevalence"),
    ],
)
def test_wrong_use_ends_with_status_2(table, tmp_path, options, message):
    done = vfx(table, "--label", "fracture", "--score", "s1", "--out", tmp_path, *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from monai_vfx.cli.evaluate import evaluate; "
        "print([n for n in ('pandas', 'scipy', 'matplotlib', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_five_hundred_patients_and_six_scores_take_seconds(tmp_path):
    rng = np.random.default_rng(0)
    y = (rng.random(500) < 0.3).astype(int)
    frame = pd.DataFrame({"fracture": y, "age": rng.normal(70, 8, 500)})
    names = [f"s{number}" for number in range(6)]
    for name in names:
        frame[name] = 1 / (1 + np.exp(-rng.normal(size=500) - y))
    start = time.process_time()
    run_evaluation(
        *(frame, "fracture", names, tmp_path),
        **{"risk_scores": names, "adjust_for": ["age"], "subgroups": ["age"]},
    )
    assert time.process_time() - start < 15
