"""Many cases from a manifest: each as if it were alone, none stopped by another."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner, Result
from dicomweb_service import STOW, as_json, serving, stored

from monai_vfx.cli import main
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.io.dicomweb.address import parse_address
from monai_vfx.model.checkpoint import TrainedModel, write_sidecar
from monai_vfx.outputs.hospital.fhir import RISK_ASSESSMENT
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.workflows.jobs import PredictCases
from monai_vfx.workflows.manifest import CaseInput, read_manifest
from monai_vfx.workflows.many import CaseJob, run_manifest, run_many
from monai_vfx.workflows.predictor import Predictor
from phantoms import SIDECAR, Phantom


def untrained(folder: Path, seed: int) -> Path:
    """An untrained network: this is about the way of cases, not about scores."""
    from monai_vfx.model.network import AttentionCNNRNN

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    torch.save({"network": network.state_dict()}, folder / "model.pt")
    write_sidecar(folder / "model.pt", SIDECAR)
    return folder / "model.pt"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    return [untrained(folder / str(seed), seed) for seed in (1, 2)]


@pytest.fixture
def manifest(phantom: Phantom, tmp_path: Path) -> Path:
    """Two good cases that differ, one without a level, one that is not there."""
    phantom.save(tmp_path / "a")
    replace(phantom, hu=phantom.hu * 1.1).save(tmp_path / "b")
    lacks = np.where(phantom.labels == 21, 0, phantom.labels).astype(np.uint8)
    replace(phantom, labels=lacks).save(tmp_path / "Doe^Jane")
    rows = [
        f"{n},{f}/ct.nii.gz,{f}/mask.nii.gz"
        for n, f in zip("abcd", ("a", "b", "Doe^Jane", "x"), strict=True)
    ]
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(["case_id,image,mask", *rows]) + "\n")
    return path


def run(manifest: Path, members: list[Path], out: Path, *more: str) -> Result:
    words = [
        "predict",
        str(manifest),
        "--out",
        str(out),
        "--no-compare-mask",
        "--workers",
        "0",
        *more,
    ]
    for member in members:
        words += ["--weights", str(member)]
    return CliRunner().invoke(main, words)


def kept_cases(result: Result) -> list[str]:
    return [
        line.split(", ")[1].split(":")[0] for line in result.stderr.splitlines() if "kept" in line
    ]


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_each_case_is_scored_as_if_it_were_alone(
    manifest: Path, members: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(manifest, members, out)
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout) == {"cases": 4, "done": 2, "refused": 2}
    rows = table(out)
    assert list(rows) == ["a", "b", "c", "d"]
    assert [row["status"] for row in rows.values()] == ["ok", "ok", "refused", "refused"]
    assert [rows[c]["code"] for c in "cd"] == ["level_missing", "input_unreadable"]
    assert rows["a"]["warnings"] == "simulated_weights"
    for case in "ab":
        folder = manifest.parent / case
        words = ["predict", str(folder / "ct.nii.gz"), "--mask", str(folder / "mask.nii.gz")]
        words += ["--no-compare-mask", "--out", str(tmp_path / "alone"), "--case-id", case]
        alone = CliRunner().invoke(
            main, [*words, *[w for m in members for w in ("--weights", str(m))]]
        )
        document = json.loads(alone.stdout)
        assert json.loads((out / case / "prediction.json").read_text()) == document
        assert float(rows[case]["score"]) == document["score"]
    assert rows["a"]["score"] != rows["b"]["score"]
    refused = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert [line["case_id"] for line in refused] == ["c", "d"]
    assert "3 of 4, c: refused level_missing" in result.stderr
    written = result.output + "".join(f.read_text() for f in out.rglob("*.[jc]s*") if f.is_file())
    assert "Doe" not in written


def test_networks_are_loaded_once(
    manifest: Path, members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path | None] = []
    build = TrainedModel._build

    def counted(model: TrainedModel, name: str) -> Any:
        loaded.extend([model.weights] if name == "network_def" else [])
        return build(model, name)

    monkeypatch.setattr(TrainedModel, "_build", counted)
    predictor = Predictor(members, compare_mask=False)
    run_manifest(PredictCases(predictor=predictor, out=tmp_path / "out"), manifest, 0, print)
    assert loaded == members


def test_a_batch_goes_on_where_it_stood(
    manifest: Path, members: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(manifest, members[:1], out).exit_code == 3
    kept = (out / "a" / "prediction.json").stat()
    score = table(out)["b"]["score"]
    folder = manifest.parent
    (folder / "x").mkdir()
    for name in ("ct.nii.gz", "mask.nii.gz"):
        os.link(folder / "b" / name, folder / "x" / name)
    text = manifest.read_text()
    manifest.write_text(text.replace("b,b/ct.nii.gz", "b,a/ct.nii.gz").replace("c,Doe^Jane", "e,a"))
    result = run(manifest, members[:1], out)
    assert kept_cases(result) == ["a"]
    assert result.exit_code == 3  # the mask of e is still that of Doe^Jane
    assert (out / "a" / "prediction.json").stat() == kept
    rows = table(out)
    assert rows["d"]["score"] == score
    assert rows["b"]["score"] == rows["a"]["score"]
    assert list(rows) == ["a", "b", "e", "d"]
    manifest.write_text("\n".join(x for x in manifest.read_text().splitlines() if x[0] != "e"))
    result = run(manifest, members[:1], out)
    assert (result.exit_code, json.loads(result.stdout)) == (
        0,
        {"cases": 3, "done": 3, "refused": 0},
    )
    assert (out / "refused.jsonl").read_text() == ""
    os.utime(folder / "x" / "mask.nii.gz", (0, 0))  # a corrected mask, under its old name
    result = run(manifest, members[:1], out)
    assert kept_cases(result) == ["a"]  # b's mask is the same file
    other = run(manifest, members[1:], out)
    assert other.exit_code == 2
    assert "another folder" in other.output
    assert table(out) == {case: row for case, row in rows.items() if case != "e"}


def test_a_batch_that_is_stopped_leaves_a_table(
    manifest: Path, members: list[Path], tmp_path: Path
) -> None:
    def stop(line: str) -> None:
        if line.startswith("2 of 4,"):
            raise KeyboardInterrupt

    job = PredictCases(predictor=Predictor(members[:1], compare_mask=False), out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run_manifest(job, manifest, 0, stop)
    assert list(table(tmp_path / "out")) == ["a", "b"]
    counts = run_manifest(job, manifest, 0, print)
    assert counts == {"cases": 4, "done": 2, "refused": 2}


@pytest.mark.slow
def test_several_processes_give_the_same_table(
    manifest: Path, members: list[Path], tmp_path: Path
) -> None:
    one = run(manifest, members, tmp_path / "one")
    two = run(manifest, members, tmp_path / "two", "--workers", "2")
    assert (one.exit_code, two.exit_code) == (3, 3), two.output
    one_table, two_table = table(tmp_path / "one"), table(tmp_path / "two")
    for case, row in one_table.items():
        numbers = [float(t[case].pop("score") or 0) for t in (one_table, two_table)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)  # sums depend on the threads
        assert two_table[case] == row


class Dies(CaseJob):
    """Stands for a job of which one case ends its process, as one too large for the memory does."""

    command = name = result = "dies"
    columns = ("case_id", "status", "code", "message", "warnings")
    facts = ({}, {})

    def __call__(self, row: CaseInput) -> Json:
        if row.case_id == "bad":
            os._exit(1)
        return {"status": "ok", "refusal": None, "warnings": []}

    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        return {"status": "refused", "refusal": refusal.to_json(), "warnings": []}

    def table_row(self, document: Json) -> Json:
        return {}


@pytest.mark.slow
def test_a_case_that_ends_its_process_is_named(tmp_path: Path) -> None:
    rows = [CaseInput(case, Path("x")) for case in ("good", "bad", "better")]
    told: list[str] = []
    records = run_many(Dies(out=tmp_path), rows, workers=2, tell=told.append)
    assert [(r["report"]["refusal"] or {}).get("code") for r in records] == [None, "internal", None]
    assert len(told) == 3


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["case_id,mask", "a,b"], "row 1, image: the column is missing"),
        (["case_id,image", "a,x", "A,y"], "row 3, case_id: 'A', also in row 2; names must differ"),
        (
            ["case_id,image", "../a,x"],
            "row 2, case_id: '../a', must be a name that can serve as a folder's",
        ),
        (["case_id,image,age", "a,x,old"], "row 2, age: 'old'"),
        (["case_id,image,series_uid", "a,x.nii,1.2"], "only DICOM holds series"),
        (["case_id,image", "a,"], "row 2, image: must not be empty"),
        (["case_id,image", "a,dicomweb://h/x"], "row 2, image: must name a study"),
        (["case_id,image", "a,dicomweb://h/studies/SECRET7"], "with UIDs"),
        (["case;image", "a;x"], "not by commas"),
        (["case_id,image"], "no rows"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, lines: list[str], fault: str) -> None:
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(CaseRefused) as refused:
        read_manifest(tmp_path / "m.csv")
    assert refused.value.code == "cohort_invalid"
    assert fault in refused.value.message
    assert "SECRET7" not in refused.value.message


def test_a_manifest_names_paths_from_its_own_folder(tmp_path: Path) -> None:
    address = "dicomweb://h/studies/1.2"
    lines = ["image,case_id,note,series_uid,clinical", f"{address},a,x,1.3,rows/a.csv", "ct,b,,,"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    first, second = read_manifest(tmp_path / "m.csv")
    assert first == CaseInput(
        "a", parse_address(address), None, "1.3", (tmp_path / "rows/a.csv").resolve()
    )
    assert second == CaseInput("b", (tmp_path / "ct").resolve())
    assert first.stamp(first.states()) != second.stamp(second.states())


def test_a_calibration_that_cannot_be_used_is_wrong_use(
    members: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(SettingError, match="calibration breaks its schema"):
        Predictor(members[:1], calibration=tmp_path / "calibration.json")


def test_exports_of_every_case_and_into_a_pacs(
    phantom: Phantom, members: list[Path], tmp_path: Path
) -> None:
    _, mask = phantom.save(tmp_path / "a")
    facts = SeriesFacts("batch", patient_name="Doe^Jane", patient_id="SECRET7")
    hu = np.rint(phantom.hu).astype(np.int16)
    series = write_ct_series(tmp_path / "ct", hu, phantom.affine, facts)
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    manifest.write_text(f"case_id,image,mask\na,ct,{mask.relative_to(tmp_path)}\n")
    with serving() as pacs:
        words = ["--export", "fhir", "--store", pacs.address]
        pacs.answers[STOW] = (401, {}, b"")
        denied = run(manifest, members[:1], out, *words)
        assert denied.exit_code == 3, denied.output
        assert table(out)["a"]["code"] == "pacs_denied"

        def takes_all() -> Any:
            objects = [pydicom.dcmread(file) for file in (out / "a").glob("*.dcm")]
            return as_json(stored(*(str(o.SOPInstanceUID) for o in objects)))

        pacs.answers[STOW] = takes_all
        asked = len(pacs.asked)
        result = run(manifest, members[:1], out, *words)
        posts = [method for method, _, _ in pacs.asked[asked:] if method == "POST"]
    assert result.exit_code == 0, result.output
    written = {file.name for file in (out / "a").glob("*.dcm")}
    assert written == {"mask.dcm", "capture.dcm", "report.dcm"}
    assert len(posts) == len(written)
    study = pydicom.dcmread(series[0]).StudyInstanceUID
    assert {pydicom.dcmread(out / "a" / name).StudyInstanceUID for name in written} == {study}
    assert (out / "a" / RISK_ASSESSMENT).is_file()
    assert table(out)["a"]["status"] == "ok"
    assert run(manifest, members[:1], out).exit_code == 2  # results without objects beside others


def test_objects_of_what_is_no_dicom_are_wrong_use(
    manifest: Path, members: list[Path], tmp_path: Path
) -> None:
    result = run(manifest, members[:1], tmp_path / "out", "--export", "dicom")
    assert result.exit_code == 2
    assert "case a: export (dicom) needs a DICOM series" in result.output
    assert not (tmp_path / "out" / "a").exists()
