"""The whole job, small: every step for real, with too few patients to learn much."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import pytest

from monai_vfx.core.errors import SettingError
from monai_vfx.core.schemas import violations
from monai_vfx.workflows.demo import run_demo


def test_the_demo_leaves_what_it_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_demo(tmp_path, training_patients=24, unseen_patients=12)
    printed = capsys.readouterr().out
    low, high = summary["auroc_ci"]
    assert 0 <= low <= summary["auroc"] <= high <= 1
    assert (summary["n"], summary["events"]) == (12, 6)
    assert re.search(r"AUROC [01]\.\d{3} \(95 % interval .*simulated signal: strong", printed)
    prediction = json.loads((tmp_path / "prediction.json").read_text())
    assert violations(prediction, "prediction") == []
    assert prediction["simulated_weights"] is True
    assert nib.load(tmp_path / "gradcam.nii.gz").shape[:2] == (512, 512)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not a clinical result" in page
    assert page.count("<img") == page.count("alt=")
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("gradcam.png", "training/model.pt", "training/model.json"):
        assert (tmp_path / name).stat().st_size > 0

    # A second run goes on from what is there; another seed needs another folder.
    again = run_demo(tmp_path, training_patients=24, unseen_patients=12)
    assert again["auroc"] == summary["auroc"]
    with pytest.raises(SettingError, match="another seed"):
        run_demo(tmp_path, seed=1, training_patients=24, unseen_patients=12)
