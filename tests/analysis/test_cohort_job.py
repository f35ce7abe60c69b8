"""The whole cohort step: counts, files, folds, figures, faults and wrong use."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from monai_vfx.analysis.cohort.figures import flow_figure, love_plot
from monai_vfx.analysis.cohort.flow import Eligibility
from monai_vfx.analysis.cohort.job import run_cohort
from monai_vfx.analysis.cohort.matching import Matching
from monai_vfx.analysis.cohort.patients_csv import read_patients, write_patients
from monai_vfx.analysis.cohort.settings import read_settings
from monai_vfx.analysis.cohort.training_items import read_cohort
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.tables import FaultyTable
from monai_vfx.simulation.study_flow import draw_study_flow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("registry") / "cohort.csv"
    write_patients(draw_study_flow(seed=1), table)
    return table


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred CTs with images, some patients with several."""
    folder = tmp_path_factory.mktemp("small")
    frame = draw_study_flow(seed=2, repeated_scans=4000)
    events = frame[frame["fracture"] == 1]["patient_id"].drop_duplicates()[:50]
    others = frame[~frame["patient_id"].isin(events)]["patient_id"].drop_duplicates()[:350]
    frame = frame[frame["patient_id"].isin({*events, *others})].reset_index(drop=True)
    for name in ("image", "mask"):
        frame[name] = [f"{name}_{n}.nii" for n in range(len(frame))]
        for path in frame[name]:
            (folder / path).touch()
    write_patients(frame, folder / "cohort.csv")
    return folder / "cohort.csv"


def test_the_registry_ends_in_the_studys_numbers(registry: Path, tmp_path: Path) -> None:
    arguments = ["cohort", str(registry), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    counts = line["counts"]
    assert counts["scans"]["n"] == 32_435
    assert counts["analysed"] == {"n": 18_505, "events": 693}
    assert counts["adequate_images"] == {"n": 608 + 15_671, "events": 608}
    assert counts["selected"]["events"] >= 606
    assert 606 <= counts["selected"]["n"] - counts["selected"]["events"] <= 608
    assert "Age 50 to 80 years: 29,792" in result.stderr
    out = tmp_path / "out"
    selected = read_patients(out / "selected.csv")
    pairs = selected.groupby("pair_id")["fracture"].agg(["size", "sum"])
    assert set(pairs["size"]) == {2}
    assert set(pairs["sum"]) == {1}
    assert selected.groupby("pair_id")["fold"].nunique().max() == 1
    assert set(selected["fold"]) == set(range(10))
    per_fold = selected.groupby("fold")["fracture"].agg(["size", "sum"])
    assert per_fold["sum"].between(59, 63).all()
    table = pd.read_csv(out / "balance.csv").set_index("variable")
    for name in ("age", "bmi"):
        assert abs(table.loc[name, "smd_after"]) < 0.1
    assert abs(table.loc["age", "smd_before"]) > 0.3
    with (out / "excluded.csv").open(encoding="utf-8") as stream:
        excluded = list(csv.DictReader(stream))
    assert len(excluded) + len(selected) == 32_435
    assert {row["case_id"] for row in excluded}.isdisjoint(selected["case_id"])
    flow = json.loads((out / "flow.json").read_text())
    assert [step["n"] for step in flow["steps"]][:6] == [
        *(32_435, 32_435, 29_792, 21_763, 18_505, 16_279)
    ]
    for path in line["files"].values():
        assert Path(path).stat().st_size > 100


def _run(small: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return run_cohort(small, out, folds=settings.pop("folds", 4), **settings)


@pytest.fixture(scope="module")
def ran(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run on the small table leaves."""
    out = tmp_path_factory.mktemp("ran")
    _run(small, out, seed=3, need=("image", "mask"))
    return out


def test_selected_rows_can_be_trained_on(ran: Path) -> None:
    items = read_cohort(ran / "selected.csv")
    frame = read_patients(ran / "selected.csv", ("image", "mask", "fold", "pair_id"))
    assert {item["fold"] for item in items} == {0, 1, 2, 3}
    assert [item["case_id"] for item in items] == list(frame["case_id"])
    assert all(Path(path).is_absolute() for path in frame["image"])


def test_the_same_inputs_give_the_same_bytes(small: Path, ran: Path, tmp_path: Path) -> None:
    _run(small, tmp_path, seed=3)
    names = sorted(p.relative_to(ran) for p in ran.rglob("*.*"))
    assert len(names) >= 11
    for name in names:
        if name.name != "run.json":
            assert (ran / name).read_bytes() == (tmp_path / name).read_bytes(), name


def _account_for_everybody(small: Path, out: Path) -> None:
    selected = pd.read_csv(out / "selected.csv", dtype=str)
    excluded = pd.read_csv(out / "excluded.csv", dtype=str)
    assert excluded["reason"].str.len().min() > 5
    everyone = read_patients(small)["case_id"]
    assert sorted([*selected["case_id"], *excluded["case_id"]]) == sorted(everyone)


def test_every_row_is_selected_or_excluded_with_a_reason(small: Path, ran: Path) -> None:
    _account_for_everybody(small, ran)


def test_risk_sets_instead_of_propensity(small: Path, tmp_path: Path) -> None:
    result = _run(small, tmp_path, matching=Matching(method="risk_set"))
    _account_for_everybody(small, tmp_path)
    assert result["flow"]["steps"][-1]["label"] == "Cases and controls, drawn from risk sets, 1:1"
    assert (tmp_path / "figures" / "love.png").exists()


def test_an_external_set_has_no_folds_and_no_matching(small: Path, tmp_path: Path) -> None:
    result = _run(small, tmp_path, folds=None, matching=Matching(method="none"))
    selected = read_patients(tmp_path / "selected.csv")
    assert selected["fold"].isna().all()
    assert len(selected) == result["counts"]["adequate_images"]["n"]
    assert result["matched"] is None
    _account_for_everybody(small, tmp_path)
    assert (tmp_path / "figures" / "flow.png").exists()
    assert not (tmp_path / "figures" / "love.png").exists()


def test_all_cts_of_a_patient_stay_in_one_fold(small: Path, tmp_path: Path) -> None:
    loose = Eligibility(first_scan_only=False)
    _run(small, tmp_path, eligibility=loose, matching=Matching(method="none"))
    selected = read_patients(tmp_path / "selected.csv")
    several = selected[selected["patient_id"].duplicated(keep=False)]
    assert len(several) > 10
    assert several.groupby("patient_id")["fold"].nunique().max() == 1


def test_the_tables_own_folds_are_kept(small: Path, tmp_path: Path) -> None:
    frame = read_patients(small)
    frame["fold"] = pd.factorize(frame["patient_id"])[0] % 3
    write_patients(frame, tmp_path / "t.csv")
    none = Matching(method="none")
    run_cohort(tmp_path / "t.csv", tmp_path / "o", matching=none, folds=3, seed=9)
    selected = read_patients(tmp_path / "o" / "selected.csv").set_index("case_id")["fold"]
    given = frame.set_index("case_id")["fold"]
    np.testing.assert_array_equal(selected, given[selected.index])
    with pytest.raises(SettingError, match=r"folds \(5\) does not match"):
        run_cohort(tmp_path / "t.csv", tmp_path / "o", matching=none, folds=5)


def test_faults_end_with_status_3_and_are_all_listed(tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out"
    rows = "".join(f"c{n},{n % 2},1.6,male\n" for n in range(40))
    table.write_text("case_id,fracture,height_cm,sex\n" + rows)
    result = CliRunner().invoke(main, ["cohort", str(table), "--out", str(out)])
    assert result.exit_code == 3
    line = json.loads(result.stdout)
    assert line["refusal"]["code"] == "cohort_invalid"
    assert len(line["faults"]) == 80
    assert line["faults"][0] == {
        "row": 2,
        "column": "height_cm",
        "value": "1.6",
        "rule": "must lie in 100 to 220 cm (metres? cm are needed)",
    }
    assert "row 2, sex: 'male', must be one of F, M (write M)" in result.stderr
    assert "and 30 more: see" in result.stderr
    with (out / "faults.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 80
    assert not (out / "selected.csv").exists()


def test_a_corrected_table_leaves_no_list_of_faults(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("case_id,fracture\na,2\n")
    with pytest.raises(FaultyTable) as refused:
        run_cohort(bad, tmp_path / "out")
    assert [fault.column for fault in refused.value.faults] == ["fracture"]
    assert (tmp_path / "out" / "faults.csv").exists()
    bad.write_text("case_id,fracture\na,1\n")
    with pytest.raises(SettingError):  # no longer a fault, but a rule lacks its column
        run_cohort(bad, tmp_path / "out")
    assert not (tmp_path / "out" / "faults.csv").exists()


def test_a_rule_without_its_column_is_wrong_use_and_names_the_way_out(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("case_id,fracture,age\na,0,60\nb,1,60\n")
    result = CliRunner().invoke(main, ["cohort", str(table), "--out", str(tmp_path / "o")])
    assert result.exit_code == 2
    assert "need_image_quality=false" in result.output.replace("\n", "")


def test_a_table_without_cases_is_refused(small: Path, tmp_path: Path) -> None:
    frame = read_patients(small)
    write_patients(frame[frame["fracture"] == 0], tmp_path / "t.csv")
    result = CliRunner().invoke(
        main, ["cohort", str(tmp_path / "t.csv"), "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 3
    assert "0 rows with" in json.loads(result.stdout)["refusal"]["message"]
    with pytest.raises(CaseRefused, match="both are needed"):
        run_cohort(tmp_path / "t.csv", tmp_path / "o")


def test_settings_come_from_a_file_and_words(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "eligibility: {min_age: 55, max_age: null}\nmatching: {ratio: 2, variables: [age, sex]}\n"
    )
    eligibility, matching = read_settings(path, ["min_age=60", "caliper=0.1", "replacement=true"])
    assert (eligibility.min_age, eligibility.max_age) == (60, None)
    assert (matching.ratio, matching.caliper, matching.replacement) == (2, 0.1, True)
    assert matching.variables == ("age", "sex")
    assert read_settings() == (Eligibility(), Matching())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "eligibility: {min_aeg: 55}\n",
            "eligibility has no setting min_aeg; it has min_age",
        ),
        ("elegibility: {min_age: 55}\n", "no section elegibility"),
        ("eligibility: 55\n", "no section eligibility"),
        ("- 1\n", "must be sections"),
        ("a: [\n", "cannot be read as YAML"),
        ("matching: {ratio: two}\n", "ratio"),
        ("matching: {method: nearest}\n", "method"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=words):
        read_settings(path)


@pytest.mark.parametrize("word", ["min_aeg=55", "min_age"])
def test_words_that_set_nothing_are_named(word: str) -> None:
    with pytest.raises(SettingError, match=r"there is no setting min_a.*eligibility has min_age"):
        read_settings(None, [word])


def test_simulate_writes_a_registry(tmp_path: Path) -> None:
    arguments = ["simulate", str(tmp_path / "r"), "--registry", "--seed", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    table = Path(json.loads(result.stdout)["cohort"])
    assert table.read_bytes().count(b"\n") == 32_436
    assert CliRunner().invoke(main, arguments).exit_code == 2
    other = CliRunner().invoke(
        main,
        ["simulate", str(tmp_path / "s"), "--registry", "--patients", "9", "--format", "nifti"],
    )
    assert other.exit_code == 2
    assert "--patients, --format" in other.output.replace("\n", " ")


def _texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def _step(name: str, n: int, events: int, *excluded: tuple[str, int, int]) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "excluded": [{"reason": r, "n": n, "events": e} for r, n, e in excluded],
        "n": n,
        "events": events,
    }


def test_the_flow_figure_shows_each_number_and_no_boxes_overlap() -> None:
    steps = [
        _step("all", 32_435, 1200),
        _step("age", 29_792, 1100, ("Younger", 1_400, 60), ("Older", 1_243, 40)),
        _step("baseline", 18_505, 693, ("Fracture", 11_287, 407)),
        _step("image_quality", 16_279, 608, ("Poor", 2_226, 85)),
        _step("matched", 1_214, 608, ("Not chosen", 15_065, 0)),
    ]
    figure = flow_figure({"steps": steps})
    text = "\n".join(_texts(figure)).replace("\u00a0", " ")
    for words in (
        *("n = 32,435", "Younger: 1,400", "Older: 1,243", "Excluded: n = 2,643", "18,505"),
        *("n = 693", "n = 17,812", "Excluded: n = 85", "Excluded: n = 2,141", "n = 608"),
        *("n = 15,671", "Not chosen: 15,065", "n = 606", "n = 1,214"),
    ):
        assert words in text, words
    boxes = [patch.get_bbox() for patch in figure.axes[0].patches if patch.get_width() > 1]
    assert len(boxes) == 3 + 2 + 6 + 1 + 3
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])


def test_a_flow_without_image_rule_and_matching_ends_in_both_groups() -> None:
    text = "\n".join(_texts(flow_figure({"steps": [_step("all", 30, 10)]})))
    assert "n = 10" in text
    assert "n = 20" in text
    with pytest.raises(ValueError, match="no steps"):
        flow_figure({"steps": []})


def test_the_love_plot_shows_sizes_in_order() -> None:
    table = pd.DataFrame(
        {
            "label": ["a", "b", "c"],
            "smd_before": [-0.5, 0.2, np.nan],
            "smd_after": [0.1, -0.05, 0.3],
        }
    )
    axes = love_plot(table, 100, 20).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b", "a", "c"]
    points = {str(line.get_label()): line.get_xdata() for line in axes.lines}
    np.testing.assert_allclose(points["Before matching (n = 100)"], [0.2, 0.5, np.nan])
    np.testing.assert_allclose(points["After (n = 20)"], [0.05, 0.1, 0.3])
    with pytest.raises(ValueError, match="no rows"):
        love_plot(table.iloc[:0])
