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

from monai_vfx.cli import main
from monai_vfx.dicom.segmentation import read_segmentation
from monai_vfx.dicom.writing import SeriesFacts, write_ct_series
from monai_vfx.pacs import local_image, parse_address, store
from monai_vfx.pacs.address import AUTHORITY, PASSWORD, TOKEN, USER
from monai_vfx.weights import write_sidecar
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
    from monai_vfx.networks import AttentionCNNRNN

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    torch.save({"network": network.state_dict()}, folder / "model.pt")
    write_sidecar(folder / "model.pt", SIDECAR)
    return folder / "model.pt"


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


def test_a_real_ct_its_mask_and_the_way_back(
    pacs: Orthanc, tcga_series: Path, weights: Path, tmp_path: Path
) -> None:
    """STOW the real CT; predict from the PACS; its objects come back from there the same."""
    files = sorted(tcga_series.rglob("*.dcm"))
    store(files, parse_address(pacs.address))
    study, one = uids(files[0])
    out = tmp_path / "out"
    arguments = [pacs.study(study), "--weights", weights, "--store", pacs.address, "--out", out]
    result = vfx("predict", *arguments)
    assert result.exit_code == 0, result.output
    kept = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in out.glob("*.dcm")}
    assert "mask.dcm" in [file.name for file in kept.values()]
    assert f"{len(kept)} objects stored at localhost:{pacs.web}" in result.stderr
    returned = {}
    for file in kept.values():
        with local_image(parse_address(pacs.study(study)), uids(file)[1]) as folder:
            (instance,) = folder.rglob("*.dcm")
            returned[file.name] = pydicom.dcmread(instance)
            if file.name == "mask.dcm":
                got, expected = read_segmentation(instance), read_segmentation(file)
    for file in kept.values():
        assert returned[file.name] == pydicom.dcmread(file)
        assert returned[file.name].StudyInstanceUID == study
    np.testing.assert_array_equal(got.labels, expected.labels)
    with local_image(parse_address(pacs.study(study)), one) as folder:
        got_pixels = {
            d.SOPInstanceUID: d.PixelData for d in map(pydicom.dcmread, folder.rglob("*.dcm"))
        }
    assert got_pixels == {d.SOPInstanceUID: d.PixelData for d in map(pydicom.dcmread, files)}
    # The study now holds a segmentation, too; it is still the CT that is read.
    again = vfx("check", pacs.study(study), "--mask", "auto")
    assert again.exit_code == 0, again.output


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
