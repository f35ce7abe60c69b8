"""The predictor: each step of a case once, whatever is asked for; the same as the bundle's own."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_vfx.case import case as case_module
from monai_vfx.core.errors import SettingError
from monai_vfx.io.dicom import reading
from monai_vfx.io.volume import Volume
from monai_vfx.model.checkpoint import write_sidecar
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.transforms import LocateSpined, loading
from monai_vfx.workflows import predictor as predictor_module
from monai_vfx.workflows.manifest import CaseInput
from monai_vfx.workflows.predictor import Predictor
from monai_vfx.workflows.run_bundle import run_bundle
from phantoms import SIDECAR, Phantom


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three untrained networks: this is about the way of a case, not about scores."""
    from monai_vfx.model.network import AttentionCNNRNN

    paths = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
        paths.append(tmp_path_factory.mktemp("member") / "model.pt")
        torch.save({"network": network.state_dict()}, paths[-1])
        write_sidecar(paths[-1], SIDECAR)
    return paths


@pytest.fixture(scope="module")
def row(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> CaseInput:
    """A DICOM series with a mask and a clinical row."""
    folder = tmp_path_factory.mktemp("patient")
    _, mask = phantom.save(folder)
    facts = SeriesFacts("once", patient_name="Doe^Jane", sex="F", age_years=63)
    write_ct_series(folder / "ct", np.rint(phantom.hu).astype(np.int16), phantom.affine, facts)
    (folder / "row.csv").write_text("age,sex\n63,F\n")
    return CaseInput("a", folder / "ct", mask, clinical=folder / "row.csv")


def test_a_case_is_opened_checked_and_preprocessed_once(
    row: CaseInput, members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            calls[name] += 1
            return function(*args, **settings)

        return call

    decode = Volume.read

    def read(volume: Volume, region: Any = None) -> Any:
        calls["decodings"] += not volume._read.__qualname__.endswith("from_memory")
        return decode(volume, region)

    monkeypatch.setattr(Volume, "read", read)
    monkeypatch.setattr(reading, "scan_files", counted("scans", reading.scan_files))
    opened = counted("opened", predictor_module.open_volume)
    monkeypatch.setattr(predictor_module, "open_volume", opened)
    monkeypatch.setattr(case_module, "open_volume", counted("opened", case_module.open_volume))
    checked = counted("checks", case_module.check_voxels)
    monkeypatch.setattr(case_module, "check_voxels", checked)
    monkeypatch.setattr(loading, "check_voxels", checked)
    monkeypatch.setattr(LocateSpined, "__call__", counted("preprocessed", LocateSpined.__call__))
    predictor = Predictor(
        members[:2],
        compare_mask=False,
        explain=True,
        beside=members[2],
        export=("dicom", "fhir"),
    )
    predictor(row, tmp_path / "out")
    assert calls == {"scans": 1, "opened": 1, "decodings": 1, "checks": 1, "preprocessed": 1}
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {"gradcam_beside.png", "report.dcm", "mask.png", "risk_assessment.fhir.json"}


def test_a_predictor_can_be_pickled_and_writes_nothing_unasked(
    row: CaseInput, members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = Predictor(members[:2], compare_mask=False)
    first = predictor(row)
    again = pickle.loads(pickle.dumps(predictor))
    assert again(row) == predictor(row) == first
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingError, match="need out"):
        Predictor(members, explain=True)(row)


def test_the_bundle_says_the_same(row: CaseInput, members: list[Path], tmp_path: Path) -> None:
    item = {"case_id": "a", "image": str(row.image), "mask": str(row.mask)}
    run_bundle(
        *(["common", "inference"], "infer"),
        weights=members[0],
        cases=(item,),
        output_dir=tmp_path / "bundle",
    )
    Predictor(members[0], compare_mask=False)(row, tmp_path / "out")
    of_bundle, ours = (
        json.loads(path.read_text())
        for path in (tmp_path / "bundle/a/prediction.json", tmp_path / "out/prediction.json")
    )
    of_bundle["mask"]["comparison"] = ours["mask"]["comparison"]
    assert ours == of_bundle
