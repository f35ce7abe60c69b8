"""The check of many CTs, and the use of its table to select cases."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from crashing import halve

from monai_vfx.analysis.cohort.check_table import apply_gate, judge, read_gate
from monai_vfx.analysis.cohort.flow import Eligibility
from monai_vfx.analysis.cohort.job import run_cohort
from monai_vfx.analysis.cohort.matching import Matching
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, MissingDependencyError, SettingError
from monai_vfx.core.hashing import content_hash, file_state
from monai_vfx.core.schemas import schema, violations
from monai_vfx.core.workers import run_tasks
from monai_vfx.io.dicom.facts import Expected
from monai_vfx.outputs.report.check_page import write_check_page
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.workflows.check.many import CheckCases, check_many
from monai_vfx.workflows.check.table import COLUMNS, FACTS, row_of
from monai_vfx.workflows.manifest import CaseInput, find_studies, read_manifest
from monai_vfx.workflows.study.plan import read_plan
from phantoms import Phantom, grid, make_phantom

MANIFEST = """case_id,image,mask,age,sex
good,good,mask.nii.gz,63,F
other,good,mask.nii.gz,41,M
gap,gap,mask.nii.gz,,
gone,nowhere,,,
"""


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good series, one that lacks a slice, a mask and a manifest."""
    folder = tmp_path_factory.mktemp("hospital")
    phantom = make_phantom(*grid((3.0, 3.5, 5.0), (190.0, 170.0, 236.0)))
    stated = SeriesFacts(
        "many", patient_id="ID-4711", patient_name="Doe^Jane", sex="F", age_years=63
    )
    files = write_ct_series(folder / "good", phantom.hu.astype(np.int16), phantom.affine, stated)
    shutil.copytree(folder / "good", folder / "gap")
    (folder / "gap" / files[20].name).unlink()
    (folder / "mask.nii.gz").write_bytes(phantom.save(folder / "tmp")[1].read_bytes())
    shutil.rmtree(folder / "tmp")
    (folder / "manifest.csv").write_text(MANIFEST, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checked(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the check of that manifest left."""
    out = tmp_path_factory.mktemp("out")
    studies = read_manifest(hospital / "manifest.csv")
    job = CheckCases(out=out, compare_mask=False, scheme="verse")
    summary = check_many(job, studies, workers=2, tell=print)
    assert summary["refusals"] == {
        "header_conflict": 1,
        "slices_missing": 1,
        "input_unreadable": 1,
    }
    return out


def _rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "check.csv").open(encoding="utf-8", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def _records(out: Path) -> list[Any]:
    text = (out / "check.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_each_study_has_a_row_in_the_order_of_the_manifest(checked: Path) -> None:
    rows = _rows(checked)
    assert list(rows) == ["good", "other", "gap", "gone"]
    assert [row["code"] for row in rows.values()] == [
        *("", "header_conflict", "slices_missing", "input_unreadable")
    ]
    good = rows["good"]
    assert (good["status"], good["age_years"], good["sex"]) == ("accepted", "63.0", "F")
    assert good["levels"] == "T11;T12;L1;L2;L3;L4;L5"
    assert good["mask_source"] == "given"
    assert good["contrast_phase"] == "portal_venous"
    assert good["fracture_status"] == "normal"
    assert "age is 41 in the table and 63 in the header" in rows["other"]["message"]
    assert rows["gone"]["image_sha256"] == ""


def test_rows_and_reports_keep_their_schemas(checked: Path) -> None:
    table = schema("check_table")["properties"]
    assert list(table) == list(COLUMNS)
    assert set(FACTS) <= set(COLUMNS)
    for record in _records(checked):
        assert violations(record["report"], "check") == []
        if record["report"]["facts"] is not None:
            assert violations(record["report"]["facts"], "case_facts") == []
        plain = {
            name: ";".join(value) if isinstance(value, list) else value
            for name, value in row_of(record).items()
        }
        plain = {name: int(v) if isinstance(v, bool) else v for name, v in plain.items()}
        assert violations(plain, "check_table") == []


def test_no_identity_and_no_path_is_in_what_is_written(checked: Path, hospital: Path) -> None:
    written = [path for path in checked.rglob("*") if path.is_file()]
    assert {"check.csv", "check.jsonl", "check.html", "run.json"} == {p.name for p in written}
    for path in written:
        text = path.read_text(encoding="utf-8").lower()
        assert not any(word in text for word in ("doe^", "jane", "4711", "20200101"))
        assert str(hospital).lower() not in text


def test_the_page_shows_every_study_and_loads_nothing(checked: Path) -> None:
    page = (checked / "check.html").read_text(encoding="utf-8")
    assert page.count('<tr data-status="refused">') == 3
    assert page.count('<tr data-status="accepted">') == 1
    assert "slices_missing" in page
    assert "src=" not in page
    assert "://" not in page


def test_a_page_of_no_refusal_and_strange_names(checked: Path, tmp_path: Path) -> None:
    row = row_of(_records(checked)[0]) | {"case_id": "<b>&", "model": None}
    text = write_check_page(tmp_path / "p.html", [row]).read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in text
    assert "<p>None.</p>" in text


def test_what_is_done_is_kept_unless_it_changed(
    checked: Path, hospital: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", tmp_path / "hospital"
    shutil.copytree(checked, out)
    shutil.copytree(hospital, source, copy_function=shutil.copy2)
    with (out / "check.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"case_id": "good", "rep')  # the machine lost power
    before = {record["case_id"]: record for record in _records(checked)}
    studies = read_manifest(source / "manifest.csv")
    studies[2] = CaseInput("gap", studies[2].image, studies[2].mask, expected=Expected(50.0))
    job = CheckCases(out=out, compare_mask=False, scheme="verse")
    check_many(job, studies, tell=print)
    after = {record["case_id"]: record for record in _records(out)}
    assert after["good"] == before["good"]
    assert after["other"] == before["other"]
    assert after["gap"]["stamp"] != before["gap"]["stamp"]
    assert before["gone"]["stamp"] is None  # what may have been the network's fault is tried again
    os.utime(source / "mask.nii.gz", (1, 1))
    check_many(job, studies[:1], tell=print)
    again = _records(out)[0]
    assert again["stamp"] != before["good"]["stamp"]
    assert again["report"] == before["good"]["report"]


def test_a_process_that_dies_stops_no_other() -> None:
    found = dict(run_tasks(halve, [2, 4, 7, 6, 8], 2, lambda number: -number))
    assert found == {2: 1, 4: 2, 7: -7, 6: 3, 8: 4}


def test_a_missing_package_comes_back_from_a_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MissingDependencyError("A tool", "pip install x", "here")))
    assert str(error) == "A tool is needed here: pip install x"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("case_id,mask\na,b\n", "row 1, image: the column is missing"),
        ("case_id,image\na,b\na,c\n", "row 3, case_id: 'a', also in row 2"),
        ("case_id,image,age\na,b,old\n", "row 2, age: 'old'"),
        ("case_id,image\n../a,b\n", "row 2, case_id: '../a'"),
        ("case_id,image\na,\n", "row 2, image: must not be empty"),
    ],
)
def test_faults_of_a_manifest_are_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CaseRefused, match=named.replace("'", ".")):
        read_manifest(tmp_path / "m.csv")


def test_studies_of_a_folder_keep_their_numbers(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("Doe_Jane", "Roe_Rick"):
        (folder / name).mkdir(parents=True)
    (folder / "letter.pdf").touch()
    (folder / ".DS_Store").touch()
    first = find_studies(folder, out)
    assert [study.case_id for study in first] == ["study_00001", "study_00002"]
    (folder / "Abe.zip").touch()
    second = {study.image.name: study.case_id for study in find_studies(folder, out)}
    assert second == {
        "Abe.zip": "study_00003",
        "Doe_Jane": "study_00001",
        "Roe_Rick": "study_00002",
    }
    assert [s.case_id for s in read_manifest(out / "studies.csv")] == [
        *("study_00001", "study_00002", "study_00003")
    ]
    key = (out / "studies.csv").read_text().splitlines()
    (out / "studies.csv").write_text("\n".join(row for row in key if "Roe_Rick" not in row))
    third = {study.image.name: study.case_id for study in find_studies(folder, out)}
    assert third == {**second, "Roe_Rick": "study_00004"}
    with pytest.raises(SettingError, match="out must not lie"):
        find_studies(folder, folder / "out")


def test_what_a_person_adds_to_the_key_stays_and_counts(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "Doe_Jane").mkdir(parents=True)
    find_studies(folder, out)
    key = out / "studies.csv"
    head, row = key.read_text().splitlines()
    key.write_text(f"{head},site,mask,age\n{row},  Ward 3,m.nii.gz,61\n")
    edited = key.read_bytes()
    (study,) = find_studies(folder, out)
    assert key.read_bytes() == edited  # nothing is new: nothing is written
    assert (study.mask, study.expected.age_years) == ((out / "m.nii.gz").resolve(), 61.0)
    (folder / "Abe.zip").touch()
    assert [s.case_id for s in find_studies(folder, out)] == ["study_00002", "study_00001"]
    assert key.read_text().splitlines() == [
        f"{head},site,mask,age",
        f"{row},  Ward 3,m.nii.gz,61",
        f"study_00002,{(folder / 'Abe.zip').resolve()},,,",
    ]
    key.write_text("case_id,image\nstudy_00001,a\nstudy_00001,b\n")
    with pytest.raises(CaseRefused, match="names must differ"):
        find_studies(folder, out)


def test_an_empty_folder_of_studies_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(CaseRefused) as refused:
        find_studies(tmp_path / "in", tmp_path / "out")
    assert refused.value.code == "no_image"


def test_the_command_checks_a_folder_of_studies(hospital: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(hospital / "gap", folder / "Doe_Jane")
    words = ["check", str(folder), "--studies", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["refusals"] == {"slices_missing": 1}
    assert "1 of 1, study_00001: refused slices_missing" in result.stderr
    assert list(_rows(tmp_path / "out")) == ["study_00001"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--json", "x.json"], "json, series and case-id"),
        (["--mask", "MANIFEST"], "a manifest names the masks"),
        ([], "out is needed"),
        (["--studies", "--out", "OUT"], "IMAGE must be a folder"),
    ],
)
def test_wrong_use_of_the_command(
    hospital: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    manifest = str(hospital / "manifest.csv")
    places = {"MANIFEST": manifest, "OUT": str(tmp_path)}
    result = CliRunner().invoke(main, ["check", manifest, *(places.get(w, w) for w in words)])
    assert result.exit_code == 2
    assert named in result.stderr


# the gate


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """A table of ten patients with its gate: one refused, one with metal, one outside the age."""
    rows = []
    table = ["case_id,image,mask,fracture,age,sex,bmi,patient_id"]
    for number in range(10):
        image = tmp_path / f"p{number}.nii.gz"
        image.write_bytes(bytes([number]) * 50)
        refused, codes = number == 3, {4: "metal_or_cement", 5: "age_outside_study"}
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "case_id": f"p{number}",
                "status": "refused" if refused else "accepted",
                "code": "gantry_tilt" if refused else "",
                "message": "slices are sheared" if refused else "",
                "warnings": codes.get(number, "level_cut"),
                "image_state": file_state(image),
                "image_sha256": content_hash(image),
            }
        )
        values = ["", number % 2, 60 + number, "F", 22 + number]
        table.append(",".join(map(str, [f"p{number}", image.name, *values, f"p{number}"])))
    with (tmp_path / "check.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "cohort.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return tmp_path


def test_the_gate_leaves_out_who_was_refused_or_warned_of(gated: Path) -> None:
    gate = read_gate(gated / "check.csv", ["metal_or_cement"])
    table, left_out = apply_gate(gated / "cohort.csv", gate, gated / "gate")
    assert {case: found.refusal.code for case, found in left_out.items()} == {
        "p3": "gantry_tilt",
        "p4": "gate_excluded",
    }
    assert left_out["p3"].refusal.message == "slices are sheared"
    with table.open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["case_id"] for row in kept] == [f"p{n}" for n in (0, 1, 2, 5, 6, 7, 8, 9)]
    assert all(Path(row["image"]).is_file() for row in kept)


def test_a_gate_that_all_pass_leaves_the_table_alone(gated: Path) -> None:
    text = (gated / "cohort.csv").read_text(encoding="utf-8").splitlines()
    (gated / "cohort.csv").write_text("\n".join([text[0], text[1]]) + "\n", encoding="utf-8")
    gate = read_gate(gated / "check.csv")
    assert apply_gate(gated / "cohort.csv", gate, gated / "gate") == (gated / "cohort.csv", {})


def test_a_copy_of_what_was_checked_is_what_was_checked(gated: Path) -> None:
    os.utime(gated / "p1.nii.gz", (1, 1))
    gate = read_gate(gated / "check.csv")
    assert judge(gate, [("p1", str(gated / "p1.nii.gz"), "")]) == {}


@pytest.mark.parametrize("what", ["absent", "changed", "another mask"])
def test_a_gate_of_other_images_is_an_error(gated: Path, what: str) -> None:
    gate = read_gate(gated / "check.csv")
    case, image, mask = "p1", gated / "p1.nii.gz", ""
    if what == "absent":
        case = "p11"
    elif what == "changed":
        image.write_bytes(b"another")
    else:
        mask = str(gated / "p2.nii.gz")
    rule = "are not in the check's table" if what == "absent" else "another image or mask"
    with pytest.raises(CaseRefused, match=f"1 of the rows .*{rule}.*: {case}") as refused:
        judge(gate, [(case, str(image), mask), ("p2", str(gated / "p2.nii.gz"), "")])
    assert refused.value.code == "gate_stale"


def test_what_is_no_gate_is_named(gated: Path) -> None:
    with pytest.raises(CaseRefused, match="status: the column is missing"):
        read_gate(gated / "cohort.csv")
    with pytest.raises(SettingError, match="metal_or_cemnt"):
        read_gate(gated / "check.csv", ["metal_or_cemnt"])


def test_the_flow_counts_whom_the_gate_left_out(gated: Path) -> None:
    rules = Eligibility(
        min_follow_up_years=None,
        exclude_baseline_fracture=False,
        exclude_spinal_surgery=False,
        need_image_quality=False,
    )
    gate = read_gate(gated / "check.csv", ["metal_or_cement", "age_outside_study"])
    found = run_cohort(
        gated / "cohort.csv",
        gated / "out",
        rules,
        Matching(method="none"),
        folds=2,
        gate=gate,
    )
    step = found["flow"]["steps"][1]
    assert (step["name"], step["n"], step["events"]) == ("gate", 7, 3)
    assert step["excluded"] == [
        {"reason": "The check refuses: gantry_tilt", "n": 1, "events": 1},
        {"reason": "The check warns: age_outside_study", "n": 1, "events": 1},
        {"reason": "The check warns: metal_or_cement", "n": 1, "events": 0},
    ]
    record = json.loads((gated / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["inputs_sha256"]["gate"] == gate.sha256


def test_a_study_takes_a_gate_for_each_hospital(gated: Path) -> None:
    text = "name: a\ndevelopment: {table: cohort.csv, gate: check.csv%s}\n"
    path = gated / "STUDY.yaml"
    path.write_text(text % ", exclude_warnings: [metal_or_cement]", encoding="utf-8")
    plan = read_plan(path)
    assert plan.development.gate == gated / "check.csv"
    assert plan.to_json()["development"]["exclude_warnings"] == ["metal_or_cement"]
    assert plan.to_json()["development"]["gate"] == "check.csv"
    path.write_text(text % ", exclude_warnings: [nonsense]", encoding="utf-8")
    with pytest.raises(SettingError, match="nonsense"):
        read_plan(path)
    path.write_text(text.replace("check.csv", "none.csv") % "", encoding="utf-8")
    with pytest.raises(SettingError, match=r"gate .* does not exist"):
        read_plan(path)


def test_a_study_applies_the_gate_before_all_else(gated: Path) -> None:
    from monai_vfx.workflows.study.run import Study

    (gated / "STUDY.yaml").write_text(
        "name: a\nfolds: 3\nclinical: [A]\nimages: {models: {}}\nmatching: {method: none}\n"
        "development: {table: cohort.csv, gate: check.csv, exclude_warnings: [metal_or_cement]}\n"
        "eligibility: {min_follow_up_years: null, exclude_baseline_fracture: false,\n"
        "  exclude_spinal_surgery: false, need_image_quality: false}\n",
        encoding="utf-8",
    )
    study = Study(read_plan(gated / "STUDY.yaml"), gated / "study", lambda line: None)
    assert study.fingerprint()["development_gate_sha256"]
    study.cohort("development")
    with (gated / "study" / "cohort" / "development" / "selected.csv").open() as file:
        cases = {row["case_id"] for row in csv.DictReader(file)}
    assert cases == {f"p{n}" for n in range(10)} - {"p3", "p4"}


def test_the_commands_take_a_gate(gated: Path) -> None:
    gate = ["--gate", str(gated / "check.csv"), "--exclude-warning", "nonsense"]
    for command in ("train", "cohort"):
        words = [command, str(gated / "cohort.csv"), "--out", str(gated / "out")]
        result = CliRunner().invoke(main, [*words, *gate])
        assert result.exit_code == 2
        assert "nonsense" in result.stderr
        result = CliRunner().invoke(main, [*words, "--exclude-warning", "metal_or_cement"])
        assert result.exit_code == 2
        assert "needs --gate" in result.stderr


@pytest.mark.slow
def test_a_training_lists_whom_the_gate_left_out(tmp_path: Path) -> None:
    from cohorts import make_cohort
    from monai_vfx.workflows.train import train

    table = make_cohort(tmp_path / "in", [0, 1] * 5)
    damaged = tmp_path / "in" / "p2_ct.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    job = CheckCases(out=tmp_path / "check", compare_mask=False, scheme="verse")
    check_many(job, read_manifest(table), tell=print)
    out = tmp_path / "out"
    train(
        table,
        out=out,
        folds=2,
        overlays=["cpu_small"],
        epochs=1,
        pretrained=None,
        gate=tmp_path / "check" / "check.csv",
        exclude_warnings=["fracture_unclear"],
    )
    listed = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert [(line["case_id"], line["code"]) for line in listed] == [("p2", "file_truncated")]
    split = json.loads((out / "split.json").read_text(encoding="utf-8"))
    assert "p2" not in json.dumps(split)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["gate"]["reasons"] == {"The check refuses: file_truncated": 1}


def test_a_clinical_row_of_another_patient_is_refused(hospital: Path, tmp_path: Path) -> None:
    from monai_vfx.workflows.predictor import _open

    row = tmp_path / "row.csv"
    case = CaseInput("a", hospital / "good", clinical=row)
    row.write_text("age,sex\n63.5,F\n", encoding="utf-8")
    assert _open(case)[2] == ()
    row.write_text("age,sex\n71,F\n", encoding="utf-8")
    with pytest.raises(CaseRefused, match="age is 71 in the table") as refused:
        _open(case)
    assert refused.value.code == "header_conflict"
    row.write_text("age\n84\n", encoding="utf-8")
    nifti, _ = _phantom().save(tmp_path)
    warnings = _open(CaseInput("a", nifti, clinical=row))[2]
    assert [w.code for w in warnings] == ["age_outside_study"]


def _phantom() -> Phantom:
    return make_phantom(*grid((5.0, 5.0, 5.0), (190.0, 170.0, 236.0)))


def test_the_written_series_is_what_the_tests_take_it_for(hospital: Path) -> None:
    file = next((hospital / "good").iterdir())
    assert pydicom.dcmread(file).PatientName == "Doe^Jane"
