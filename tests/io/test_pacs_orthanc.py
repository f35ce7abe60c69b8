"""The way from a real PACS to a score and back into the PACS: Orthanc on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner, Result
from orthanc import PASSWORD as SECRET
from orthanc import USER as NAME
from orthanc import Orthanc, running
from pydicom.uid import JPEGLSLossless, RLELossless

from monai_vfx.analysis.calibration.model import Calibration
from monai_vfx.case.case import load_case
from monai_vfx.cli import main
from monai_vfx.core.files import write_json
from monai_vfx.io.dicomweb.address import AUTHORITY, PASSWORD, TOKEN, USER, parse_address
from monai_vfx.io.dicomweb.transfer import local_image, store
from monai_vfx.model.checkpoint import write_sidecar
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import SIDECAR, Phantom

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("pacs") / "orthanc") as orthanc:
        yield orthanc


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER, NAME)
    monkeypatch.setenv(PASSWORD, SECRET)
    for name in (TOKEN, AUTHORITY):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: this is about the way of a case, not about scores."""
    from monai_vfx.model.network import AttentionCNNRNN

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    torch.save({"network": network.state_dict()}, folder / "model.pt")
    write_sidecar(folder / "model.pt", SIDECAR)
    return folder / "model.pt"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's offset for random controls."""
    known = Calibration(
        kind="random_controls",
        terms=(),
        coefficients=(-3.25, 1.0),
        covariance=((0.01, 0.0), (0.0, 0.01)),
        n=1216,
        events=608,
        population_n=16279,
        population_events=608,
    )
    file = tmp_path_factory.mktemp("calibration") / "calibration.json"
    write_json(file, known.to_json())
    return file


def series(phantom: Phantom, folder: Path, seed: str, **facts: Any) -> list[Path]:
    """Write the phantom as a CT series of one patient's study."""
    known = {"patient_id": "SECRET7", "patient_name": "Doe^Jane", **facts}
    hu = np.rint(phantom.hu).astype(np.int16)
    return write_ct_series(folder, hu, phantom.affine, SeriesFacts(seed, **known))


def uids(file: Path) -> tuple[str, str]:
    header = pydicom.dcmread(file, stop_before_pixels=True)
    return str(header.StudyInstanceUID), str(header.SeriesInstanceUID)


def vfx(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def code(result: Result) -> str:
    assert result.exit_code == 3, result.output
    document = json.loads(result.stdout)
    assert "Doe" not in result.output
    assert "SECRET7" not in result.output
    return str(document["refusal"]["code"])


def test_from_the_scanner_to_a_score(
    pacs: Orthanc, phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    """The CT comes by C-STORE; study, series and folder give one score."""
    files = series(phantom, tmp_path / "ct", "scanner")
    _, mask = phantom.save(tmp_path / "nifti")
    pacs.c_store(files)
    study, one = uids(files[0])
    options = ["--mask", mask, "--no-compare-mask", "--weights", weights]
    scores = {}
    for name, image in {
        "folder": tmp_path / "ct",
        "study": pacs.study(study),
        "series": pacs.study(study, one),
    }.items():
        result = vfx("predict", image, *options, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        document = json.loads((tmp_path / name / "prediction.json").read_text())
        scores[name] = document["score"]
        seen = {record["sop_instance_uid"] for record in document["slices"]}
        assert seen <= {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}
        written = result.output + "".join(f.read_text() for f in (tmp_path / name).glob("*.json"))
        assert "Doe" not in written
        assert SECRET not in written
    assert scores["study"] == scores["series"] == scores["folder"]
    result = vfx("check", pacs.study(study), "--mask", mask, "--no-compare-mask")
    assert result.exit_code == 0, result.output
    assert f"{len(files)} instances retrieved from localhost:{pacs.web}" in result.stderr
    assert json.loads(result.stdout)["slices"] == len(files)


def numbers(report: pydicom.Dataset) -> dict[str, float]:
    """The numbers of a structured report by the codes of their names, wherever they stand."""
    found = {}
    for item in report.get("ContentSequence", ()):
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0].NumericValue
            found[item.ConceptNameCodeSequence[0].CodeValue] = float(value)
        found |= numbers(item)
    return found


def test_a_real_ct_and_the_way_back(
    pacs: Orthanc, tcga_series: Path, weights: Path, calibration: Path, tmp_path: Path
) -> None:
    """STOW the real CT, predict from the PACS, and find the same risk in what it then holds."""
    files = sorted(tcga_series.rglob("*.dcm"))
    store(files, parse_address(pacs.address))
    study, one = uids(files[0])
    out = tmp_path / "out"
    options = ["--weights", weights, "--calibration", calibration, "--explain"]
    result = vfx("predict", pacs.study(study), *options, "--store", pacs.address, "--out", out)
    assert result.exit_code == 0, result.output
    document = json.loads((out / "prediction.json").read_text())
    kept = {file.name: file for file in out.glob("*.dcm")}
    assert set(kept) == {"mask.dcm", "capture.dcm", "gradcam.dcm", "report.dcm"}
    assert f"4 objects stored at localhost:{pacs.web}" in result.stderr
    returned = {}
    for name, file in kept.items():
        assert uids(file)[0] == study
        with local_image(parse_address(pacs.study(*uids(file)))) as folder:
            (instance,) = folder.rglob("*.dcm")
            (tmp_path / "back").mkdir(exist_ok=True)
            returned[name] = instance.rename(tmp_path / "back" / name)
        assert pydicom.dcmread(returned[name]) == pydicom.dcmread(file)
    reported = numbers(pydicom.dcmread(returned["report.dcm"]))
    assert reported["SCORE"] == pytest.approx(document["score"], rel=1e-6)
    assert reported["RISK5Y"] == pytest.approx(document["risk_5y"], rel=1e-6)
    with local_image(parse_address(pacs.study(study, one))) as ct:
        pixels = {d.SOPInstanceUID: d.PixelData for d in map(pydicom.dcmread, ct.rglob("*.dcm"))}
        from_pacs = load_case(ct, returned["mask.dcm"]).masks
    assert pixels == {d.SOPInstanceUID: d.PixelData for d in map(pydicom.dcmread, files)}
    made = load_case(tcga_series, out / "mask.nii.gz").masks
    assert made.levels == from_pacs.levels
    np.testing.assert_array_equal(made.labels, from_pacs.labels)
    # The study now holds our own objects, too; it is still the CT that is read.
    again = vfx("check", pacs.study(study), "--mask", returned["mask.dcm"], "--no-compare-mask")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["slices"] == len(files)


def test_a_batch_from_the_pacs(
    pacs: Orthanc, phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    """One case that is there, one that is not: the second stops nothing."""
    files = series(phantom, tmp_path / "ct", "batch")
    _, mask = phantom.save(tmp_path / "nifti")
    pacs.c_store(files)
    lines = [
        f"{case},{pacs.study(uid)},{mask}"
        for case, uid in (("absent", "1.2.3"), ("there", uids(files[0])[0]))
    ]
    (tmp_path / "m.csv").write_text("\n".join(["case_id,image,mask", *lines]) + "\n")
    out = tmp_path / "out"
    words = ["--no-compare-mask", "--weights", weights, "--out", out]
    result = vfx("batch", tmp_path / "m.csv", *words)
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout) == {"cases": 2, "done": 1, "refused": 1}
    refused = json.loads((out / "refused.jsonl").read_text())
    assert (refused["case_id"], refused["code"]) == ("absent", "not_in_pacs")
    assert json.loads((out / "there" / "prediction.json").read_text())["status"] == "ok"


def test_the_same_object_twice(pacs: Orthanc, phantom: Phantom, tmp_path: Path) -> None:
    files = series(phantom, tmp_path / "ct", "twice")[:2]
    for _ in range(2):
        store(files, parse_address(pacs.address))
    study, _ = uids(files[0])
    found = pacs.rest(f"/dicom-web/studies/{study}/instances").json()
    assert len(found) == 2


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_a_compressed_series_keeps_its_form(
    pacs: Orthanc, phantom: Phantom, tmp_path: Path, syntax: pydicom.uid.UID
) -> None:
    files = series(phantom, tmp_path / "ct", f"compressed {syntax.keyword}")
    pixels = {}
    for file in files:
        dataset = pydicom.dcmread(file)
        pixels[dataset.SOPInstanceUID] = dataset.pixel_array
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(file)
    pacs.c_store(files)
    with local_image(parse_address(pacs.study(*uids(files[0])))) as folder:
        for file in folder.rglob("*.dcm"):
            dataset = pydicom.dcmread(file)
            assert dataset.file_meta.TransferSyntaxUID == syntax
            np.testing.assert_array_equal(dataset.pixel_array, pixels.pop(dataset.SOPInstanceUID))
    assert pixels == {}


def test_a_study_with_several_series_is_judged_as_a_folder_is(
    pacs: Orthanc, phantom: Phantom, tmp_path: Path
) -> None:
    """A second CT series, and an MR: the same answer from the PACS and from a folder."""
    _, mask = phantom.save(tmp_path / "nifti")
    files = series(phantom, tmp_path / "both" / "a", "several")
    study, first = uids(files[0])
    others = series(phantom, tmp_path / "both" / "b", "several, another")
    mr = series(phantom, tmp_path / "mr", "several, MR")[:3]
    for file in [*others, *mr]:
        dataset = pydicom.dcmread(file)
        dataset.StudyInstanceUID = study
        dataset.FrameOfReferenceUID = pydicom.dcmread(files[0]).FrameOfReferenceUID
        dataset.Modality = "MR" if file in mr else "CT"
        dataset.save_as(file)
    pacs.c_store([*files, *others, *mr])
    options = ["--mask", mask, "--no-compare-mask"]
    here = vfx("check", tmp_path / "both", *options)
    there = vfx("check", pacs.study(study), *options)
    assert here.exit_code == there.exit_code
    assert json.loads(here.stdout) == json.loads(there.stdout)
    for chosen in ([pacs.study(study), "--series", first], [pacs.study(study, first)]):
        assert vfx("check", *chosen, *options).exit_code == 0
    assert code(vfx("check", pacs.study(study, uids(mr[0])[1]), *options)) == "not_ct"


def test_what_is_not_there_and_who_may_not(
    pacs: Orthanc, phantom: Phantom, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = series(phantom, tmp_path / "ct", "errors")
    pacs.c_store(files[:1])
    study, _ = uids(files[0])
    for image in (pacs.study("1.2.3"), pacs.study(study, "1.2.3")):
        out = tmp_path / "out"
        assert code(vfx("predict", image, "--weights", weights, "--out", out)) == "not_in_pacs"
        document = json.loads((out / "prediction.json").read_text())
        assert (document["status"], document["refusal"]["code"]) == ("refused", "not_in_pacs")
    wrong_path = f"dicomweb://localhost:{pacs.web}/elsewhere/studies/{study}"
    assert code(vfx("check", wrong_path)) == "not_in_pacs"
    assert code(vfx("check", f"dicomweb+https://localhost:{pacs.web}/studies/1.2")) == (
        "pacs_unreachable"
    )
    monkeypatch.setenv(PASSWORD, "wrong")
    assert code(vfx("check", pacs.study(study))) == "pacs_denied"


def test_a_pacs_that_stops(
    phantom: Phantom, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that cannot be stored stay, and the refusal lies beside them."""
    series(phantom, tmp_path / "ct", "stops")
    with running(tmp_path / "orthanc") as orthanc:
        pass
    assert code(vfx("check", orthanc.study("1.2.3"))) == "pacs_unreachable"
    _, mask = phantom.save(tmp_path / "nifti")
    options = ["--mask", mask, "--no-compare-mask", "--weights", weights]
    out = tmp_path / "out"
    result = vfx("predict", tmp_path / "ct", *options, "--store", orthanc.address, "--out", out)
    assert code(result) == "pacs_unreachable"
    assert json.loads((out / "prediction.json").read_text())["status"] == "ok"
    assert json.loads((out / "refused.json").read_text())["refusal"]["code"] == "pacs_unreachable"
    assert (out / "report.dcm").exists()
