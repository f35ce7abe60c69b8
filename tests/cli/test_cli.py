"""The command line: exit statuses, one JSON line, no traceback, quick answers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, find_refusal
from monai_vfx.core.schemas import violations
from monai_vfx.model.checkpoint import write_sidecar
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import SIDECAR, Phantom

HEAVY = ("torch", "monai", "pandas", "sklearn", "matplotlib", "scipy", "nibabel")


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_of_every_command(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from monai_vfx.cli import main; "
        "CliRunner().invoke(main, ['predict', '--help']); "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_refusal_imports_neither_torch_nor_monai(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    code = (
        "import sys; from click.testing import CliRunner; from monai_vfx.cli import main; "
        f"r = CliRunner().invoke(main, ['check', {str(tmp_path)!r}]); "
        "print(r.exit_code, [m for m in ('torch', 'monai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "3 []"


def test_a_wrong_path_is_wrong_use() -> None:
    result = CliRunner().invoke(main, ["check", "nowhere"])
    assert result.exit_code == 2
    assert "nowhere" in result.output


def without_l2(phantom: Phantom, folder: Path) -> tuple[Path, Path]:
    """Save a case whose mask lacks a level."""
    labels = np.where(phantom.labels == 21, 0, phantom.labels).astype(np.uint8)
    return replace(phantom, labels=labels).save(folder)


def test_check_of_a_good_dicom_series(phantom: Phantom, tmp_path: Path) -> None:
    _, mask = phantom.save(tmp_path)
    facts = SeriesFacts(uid_seed="x", patient_name="Doe^Jane", patient_id="SECRET7")
    write_ct_series(tmp_path / "d", phantom.hu.astype(np.int16), phantom.affine, facts)
    target = tmp_path / "check.json"
    arguments = ["check", str(tmp_path / "d"), "--mask", str(mask), "--json", str(target)]
    arguments.append("--no-compare-mask")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(target.read_text())
    assert json.loads(result.stdout) == report
    assert violations(report, "check") == []
    assert "Doe" not in result.output + target.read_text()
    assert "SECRET7" not in result.output + target.read_text()


def test_check_refuses_with_status_3_code_and_remedy(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = without_l2(phantom, tmp_path)
    result = CliRunner().invoke(main, ["check", str(image), "--mask", str(mask)])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["refusal"]["code"] == "level_missing"
    assert "All of T12, L1, L2, L3 and L4 must be" in result.stderr
    assert "Traceback" not in result.output


def test_predict_records_the_refusal(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = without_l2(phantom, tmp_path)
    weights = tmp_path / "w.pt"
    weights.touch()
    write_sidecar(weights, SIDECAR)
    out = tmp_path / "out"
    arguments = ["predict", str(image), "--mask", str(mask), "--no-compare-mask"]
    arguments += ["--weights", str(weights), "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    document = json.loads((out / "prediction.json").read_text())
    assert document["refusal"]["code"] == "level_missing"
    assert violations(document, "prediction") == []
    assert json.loads(result.stdout) == document


def test_train_names_bad_cells_before_it_starts(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,image,mask,fracture\na,gone,gone,2\n")
    result = CliRunner().invoke(main, ["train", str(table), "--out", str(tmp_path / "o")])
    assert result.exit_code == 3
    assert "row 2, fracture: '2'" in result.output


def test_wrong_settings_of_training_are_wrong_use(phantom: Phantom, tmp_path: Path) -> None:
    phantom.save(tmp_path)
    table = tmp_path / "cohort.csv"
    rows = [f"p{n},ct.nii.gz,mask.nii.gz,{n % 2}" for n in range(6)]
    table.write_text("case_id,image,mask,fracture\n" + "\n".join(rows) + "\n")
    arguments = ["train", str(table), "--out", str(tmp_path / "o"), "--folds", "3"]
    for words, message in (
        (["--fold", "3"], "fold (3) must lie in 0"),
        (["--fold", "0", "--overlay", "cpu_smal"], "cpu_small"),
        (["--fold", "0", "--folds", "5"], "smaller class (3 patients)"),
    ):
        result = CliRunner().invoke(main, [*arguments, *words])
        assert result.exit_code == 2, result.output
        assert message in result.output.replace("\n", " ")


def test_simulate_writes_a_cohort_once(tmp_path: Path) -> None:
    out = tmp_path / "hospital"
    arguments = ["simulate", str(out), "--patients", "2", "--field-of-view", "quick"]
    arguments += ["--format", "nifti", "--workers", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["cohort"] == str(out / "cohort.csv")
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_weights_are_checked_before_anything_heavy(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"x")
    arguments = [
        "predict",
        str(image),
        "--mask",
        str(mask),
        "--no-compare-mask",
        "--out",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(main, [*arguments, "--weights", str(tmp_path / "w.pt")])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["refusal"]["code"] == "weights_unreadable"


def test_an_output_folder_that_cannot_be_made_is_wrong_use(
    phantom: Phantom, tmp_path: Path
) -> None:
    image, mask = phantom.save(tmp_path)
    (tmp_path / "file").touch()
    weights = tmp_path / "w.pt"
    weights.touch()
    arguments = [
        "predict",
        str(image),
        "--mask",
        str(mask),
        "--no-compare-mask",
        "--weights",
        str(weights),
    ]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "file" / "out")])
    assert result.exit_code == 2
    assert "cannot be made" in result.output


def _fail_while_refusing() -> None:
    try:
        raise CaseRefused("mask_empty", "x")
    except CaseRefused:
        raise OSError("disk")  # noqa: B904 - not a cause: the point of this test


def test_an_error_beside_a_refusal_is_no_refusal() -> None:
    with pytest.raises(OSError, match="disk") as error:
        _fail_while_refusing()
    assert find_refusal(error.value) is None
