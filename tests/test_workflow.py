"""The bundle through the Python API: one case from paths to files, on phantoms and on real CT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner

from monai_vfx.cli import main
from monai_vfx.errors import CaseRefused, SettingError
from monai_vfx.preflight import load_case
from monai_vfx.schemas import violations
from monai_vfx.volumes import world_positions
from monai_vfx.weights import write_sidecar
from monai_vfx.workflow import config_files, predict, preprocessing, read_prediction, train
from phantoms import SIDECAR, Phantom


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: these tests are about the way of a case, not about scores."""
    from monai_vfx.networks import AttentionCNNRNN

    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.manual_seed(0)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    torch.save({"network": network.state_dict()}, path)
    write_sidecar(path, SIDECAR)
    return path


def test_a_case_leaves_its_files_in_the_folder(
    phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    image, mask = phantom.save(tmp_path / "Doe^Jane")
    out = tmp_path / "out"
    prediction = predict(image, mask, weights=weights, out=out, explain=True, beside=weights)
    assert {file.name for file in out.iterdir()} == {
        "prediction.json",
        "run.json",
        "gradcam.nii.gz",
        "gradcam.png",
        "gradcam_beside.png",
        "attention_layer2.nii.gz",
        "attention_layer2.png",
        "attention_layer3.nii.gz",
        "attention_layer3.png",
    }
    assert read_prediction(out / "prediction.json") == prediction
    assert "simulated_weights" in [warning.code for warning in prediction.warnings]
    for file in out.glob("*.json"):
        assert "Doe" not in file.read_text()
    heat = nib.load(out / "gradcam.nii.gz")
    assert heat.shape == phantom.hu.shape
    np.testing.assert_allclose(heat.affine, phantom.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["CT#1", "$x", "@image", "%a", "5"])
def test_names_are_data_not_configuration(
    phantom: Phantom, weights: Path, tmp_path: Path, name: str
) -> None:
    image, mask = phantom.save(tmp_path / name)
    prediction = predict(image, mask, weights=weights, out=tmp_path / f"{name}#out", case=name)
    assert prediction.case == name
    assert (tmp_path / f"{name}#out" / "prediction.json").is_file()


@pytest.mark.parametrize("case", ["", "..", "/tmp/x", "a/b", "a\\b", "a\nb", ".hidden"])
def test_a_case_name_cannot_lead_out_of_the_folder(
    phantom: Phantom, weights: Path, tmp_path: Path, case: str
) -> None:
    image, mask = phantom.save(tmp_path)
    with pytest.raises(SettingError, match="case"):
        predict(image, mask, weights=weights, out=tmp_path / "out", case=case)
    arguments = ["check", str(image), "--mask", str(mask), "--case", case]
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_results_of_two_cases_never_mix(phantom: Phantom, weights: Path, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path / "good")
    flat = Phantom(phantom.hu * 0, phantom.labels, phantom.affine, phantom.centre)
    bad_image, bad_mask = flat.save(tmp_path / "bad")
    out = tmp_path / "out"
    predict(image, mask, weights=weights, out=out, case="a", explain=True)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    arguments = ["predict", str(bad_image), "--mask", str(bad_mask), "--weights", str(weights)]
    result = CliRunner().invoke(main, [*arguments, "--out", str(out), "--case", "b"])
    assert result.exit_code == 3
    after = {file.name: file.read_bytes() for file in out.iterdir()}
    assert json.loads(after.pop("refused.json"))["case"] == "b"
    assert after == before  # a refusal removes nothing
    predict(image, mask, weights=weights, out=out, case="c")
    assert {file.name for file in out.iterdir()} == {"prediction.json", "run.json"}


def test_an_overlay_that_needs_many_processes_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="torchrun"):
        train(tmp_path / "none.csv", out=tmp_path, overlays=["multi_gpu"])
    (tmp_path / "broken.yaml").write_text("a: [1, {")
    with pytest.raises(SettingError, match="is not YAML"):
        train(tmp_path / "none.csv", out=tmp_path, overlays=[str(tmp_path / "broken.yaml")])
    with pytest.raises(SettingError, match="neither a file nor one of"):
        train(tmp_path / "none.csv", out=tmp_path, overlays=["inference"])


def test_a_refusal_in_the_chain_reaches_the_caller(
    phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    flat = Phantom(phantom.hu * 0, phantom.labels, phantom.affine, phantom.centre)
    image, mask = flat.save(tmp_path)
    with pytest.raises(CaseRefused) as refused:
        predict(image, mask, weights=weights, out=tmp_path / "out")
    assert refused.value.code == "not_hounsfield"
    arguments = ["predict", str(image), "--mask", str(mask)]
    arguments += ["--weights", str(weights), "--out", str(tmp_path / "cli")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    document = json.loads((tmp_path / "cli" / "prediction.json").read_text())
    assert document["refusal"]["code"] == "not_hounsfield"


def test_unknown_settings_and_overlays_are_named() -> None:
    with pytest.raises(KeyError, match="crop_sise"):
        preprocessing(crop_sise=[1, 1])
    with pytest.raises(ValueError, match="bone_only"):
        config_files(["bone_onyl"])


def _check_slices(document: dict[str, Any], image: Path, mask: Path) -> None:
    """The promises of a prediction, worked out from the label map itself."""
    assert violations(document, "prediction") == []
    assert len(document["slices"]) == 14
    indices = [record["index"] for record in document["slices"]]
    assert indices == sorted(indices, reverse=True)
    assert document["levels"] == ["T12", "L1", "L2", "L3", "L4"]
    case = load_case(image, mask)
    for record in document["slices"]:
        k = case.volume.index_from_feet(record["index"])
        plane = np.take(case.masks.labels, k, axis=case.volume.slice_axis)
        inside = np.argwhere((plane >= 19) & (plane <= 23))
        places = np.insert(inside.mean(axis=0), case.volume.slice_axis, k)
        centroid = world_positions(case.volume.affine, places[None])[0] * [-1, -1, 1]
        assert np.linalg.norm(centroid - record["centre_mm"]) < 5.0


def test_the_real_dicom_series(
    real_data: Path, tcga_series: Path, weights: Path, tmp_path: Path
) -> None:
    mask = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    predict(tcga_series, mask, weights=weights, out=tmp_path, explain=True)
    document = json.loads((tmp_path / "prediction.json").read_text())
    _check_slices(document, tcga_series, mask)
    heights = {
        str(header.SOPInstanceUID): float(header.ImagePositionPatient[2])
        for header in (
            pydicom.dcmread(file, stop_before_pixels=True) for file in tcga_series.glob("*.dcm")
        )
    }
    for record in document["slices"]:
        assert heights[record["sop_instance_uid"]] == pytest.approx(record["centre_mm"][2])
    labels, heat = nib.load(mask), nib.load(tmp_path / "gradcam.nii.gz")
    assert heat.shape == labels.shape
    np.testing.assert_allclose(heat.affine, labels.affine, atol=1e-3)
    values = np.asarray(heat.dataobj)
    assert 0 <= values.min() <= values.max() <= 1
    rows = np.flatnonzero((np.asarray(labels.dataobj) == 20).any(axis=(0, 1)))
    assert values[..., rows].any()


def test_two_forms_of_one_mask_give_the_same_slices(
    real_data: Path, weights: Path, tmp_path: Path
) -> None:
    folder = real_data / "totalseg_example"
    heights = []
    for name in ("v1_masks", "seg_v2_117class_fast.nii.gz"):
        out = tmp_path / name
        predict(folder / "ct.nii.gz", folder / name, weights=weights, out=out)
        document = json.loads((out / "prediction.json").read_text())
        _check_slices(document, folder / "ct.nii.gz", folder / name)
        assert "level_cut" in [warning["code"] for warning in document["warnings"]]
        heights.append([record["centre_mm"][2] for record in document["slices"]])
    assert np.abs(np.subtract(*heights)).max() <= 6.0
