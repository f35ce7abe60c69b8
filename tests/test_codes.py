"""Each code, provoked by one change to a good case; ``vfx check`` then names exactly that code.

Codes that ``vfx check`` cannot meet (weights, tables, the localiser's opinion, what shows at
prediction only) stand in :data:`ELSEWHERE` with the test that provokes them. A code in neither
table fails :func:`test_each_code_is_provoked`.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from monai_vfx.cli import main
from monai_vfx.dicom.writing import SeriesFacts, write_ct_series
from monai_vfx.errors import REFUSALS, WARNINGS
from monai_vfx.preflight import check_report
from monai_vfx.schemas import violations
from phantoms import Phantom, grid, make_phantom, nifti


@dataclass
class Good:
    """A CT that is accepted without a warning, as DICOM and as NIfTI, and its mask.

    Attributes:
        folder: holds all files.
        image, mask: what is given to the command.
        options: further words of the command line.
    """

    folder: Path
    image: Path
    mask: Path
    options: list[str] = field(default_factory=lambda: ["--no-compare-mask"])

    @property
    def slices(self) -> list[Path]:
        """The DICOM files from the feet to the head; their names follow no order."""
        files = [file for file in self.image.iterdir() if file.suffix == ".dcm"]
        return sorted(files, key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))

    def edit(self, change: Callable[[Any], None], first: int = 0, last: int | None = None) -> None:
        """Change the headers of some slices."""
        for file in self.slices[first:last]:
            dataset = pydicom.dcmread(file)
            change(dataset)
            dataset.save_as(file)

    def relabel(self, change: Callable[[np.ndarray], np.ndarray], shift_mm: float = 0.0) -> None:
        """Change the labels, or move the mask to the side."""
        source: Any = nib.load(self.mask)
        affine = source.affine.copy()
        affine[0, 3] += shift_mm
        labels = change(np.asarray(source.dataobj))
        nib.save(nifti(labels, affine), self.mask)

    def as_nifti(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take the CT in its NIfTI form, with other voxels."""
        self.image = self.folder / "ct.nii.gz"
        source: Any = nib.load(self.image)
        nib.save(nifti(change(np.asarray(source.dataobj)), source.affine), self.image)

    def words(self) -> list[str]:
        """The command line of ``vfx check``."""
        return ["check", str(self.image), "--mask", str(self.mask), *self.options]


@pytest.fixture(scope="module")
def made() -> Phantom:
    return make_phantom(*grid((1.5, 1.4, 5.0), (165.0, 154.0, 240.0)))


@pytest.fixture(scope="module")
def original(made: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    made.save(folder)
    facts = SeriesFacts("codes", patient_name="Doe^Jane", patient_id="SECRET7", age_years=63)
    write_ct_series(folder / "ct", made.hu.astype(np.int16), made.affine, facts)
    return folder


@pytest.fixture
def good(original: Path, tmp_path: Path) -> Good:
    folder = Path(shutil.copytree(original, tmp_path / "good"))
    return Good(folder, folder / "ct", folder / "mask.nii.gz")


# -- the changes -----------------------------------------------------------------------------


def _set(tag: str, value: Any, first: int = 0, last: int | None = None) -> Callable[[Good], None]:
    return lambda good: good.edit(lambda header: setattr(header, tag, value), first, last)


def _text_as_image(good: Good) -> None:
    good.image = good.folder / "ct.nii"
    good.image.write_text("no image")


def _texts_only(good: Good) -> None:
    for file in good.slices:
        file.rename(file.with_suffix(".txt")).write_text("no image")


def _cut_last(good: Good) -> None:
    content = good.slices[-1].read_bytes()
    good.slices[-1].write_bytes(content[: len(content) * 2 // 3])


def _second_phase(good: Good) -> None:
    for number, file in enumerate(good.slices):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = "1.2.3.4"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.5.{number}"
        dataset.save_as(good.image / f"second_{number}.dcm")


def _without(*numbers: int) -> Callable[[Good], None]:
    def change(good: Good) -> None:
        for number, file in enumerate(good.slices):
            if number in numbers:
                file.unlink()

    return change


def _same_place(good: Good) -> None:
    place = pydicom.dcmread(good.slices[7]).ImagePositionPatient
    _set("ImagePositionPatient", place, 8, 9)(good)


def _tilt(header: Any) -> None:
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    header.ImagePositionPatient = [x, y + 0.05 * z, z]


def _frames(header: Any) -> None:
    header.NumberOfFrames = 2
    header.PixelData = header.PixelData * 2


def _colours(header: Any) -> None:
    header.SamplesPerPixel = 3
    header.PixelData = header.PixelData * 3


def _localizer(good: Good) -> None:
    dataset = pydicom.dcmread(good.slices[0])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.save_as(good.image / "scout.dcm")


def _relabel(change: Callable[[np.ndarray], np.ndarray], mm: float = 0.0) -> Callable[[Good], None]:
    return lambda good: good.relabel(change, mm)


def _other_numbers(**numbers: int) -> Callable[[Good], None]:
    """Give labels other numbers; names are those of the levels in small letters."""
    old = {"t12": 19, "l1": 20, "l2": 21, "l5": 24}
    table = np.arange(256, dtype=np.uint8)
    for name, number in numbers.items():
        table[old[name]] = number
    return _relabel(lambda labels: table[labels])


def _stray(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    middle = np.argwhere(labels == 22).mean(axis=0).astype(int)
    labels[2:9, 2:9, middle[2]] = 22
    return labels


def _without_top_of_t12(good: Good) -> None:
    top = int(np.flatnonzero((_labels(good) == 19).any(axis=(0, 1)))[-2])
    good.relabel(lambda labels: labels[..., :top])


def _labels(good: Good) -> np.ndarray:
    return np.asarray(nib.load(good.mask).dataobj)  # type: ignore[attr-defined]


def _with_arches(labels: np.ndarray) -> np.ndarray:
    """Put two pedicles, a ring and a spinous process behind every body (1.5 × 1.4 × 5 mm)."""
    labels = labels.copy()
    for value in range(18, 25):
        index = np.argwhere(labels == value)
        x, _, z = index.mean(axis=0).round().astype(int)
        back = int(index[:, 1].min())
        for side in (-9, 9):
            labels[x + side - 2 : x + side + 3, back - 12 : back + 8, z : z + 2] = value
        labels[x - 11 : x + 12, back - 16 : back - 12, z : z + 2] = value
        labels[x - 2 : x + 3, back - 34 : back - 16, z - 1 : z + 1] = value
    return labels


def _label_beside_the_ct(good: Good) -> None:
    def wider(labels: np.ndarray) -> np.ndarray:
        labels = np.pad(labels, ((0, 12), (0, 0), (0, 0)))
        index = np.argwhere(labels == 22)
        middle = index.mean(axis=0).astype(int)
        labels[-6:-3, middle[1] : middle[1] + 4, middle[2]] = 22
        return labels

    good.relabel(wider)


def _coarse(good: Good) -> None:
    for path in (good.folder / "ct.nii.gz", good.mask):
        source: Any = nib.load(path)
        affine = source.affine @ np.diag([2.0, 2.0, 1.0, 1.0])
        nib.save(nifti(np.asarray(source.dataobj)[::2, ::2], affine), path)
    good.image = good.folder / "ct.nii.gz"


CHECK: dict[str, Callable[[Good], None]] = {
    # input
    "input_unreadable": _text_as_image,
    "no_image": _texts_only,
    "file_truncated": _cut_last,
    "not_ct": _set("Modality", "MR"),
    "several_series": _second_phase,
    "series_mixed": _set("PixelSpacing", [1.0, 1.0], 0, 3),
    "geometry_missing": lambda good: good.edit(lambda h: h.pop("ImagePositionPatient"), 0, 1),
    "geometry_invalid": _set("PixelSpacing", [1.5]),
    "too_few_slices": _without(*range(9, 48)),
    "slices_duplicated": _same_place,
    "slices_missing": _without(20),
    "gantry_tilt": lambda good: good.edit(_tilt),
    "multiframe": lambda good: good.edit(_frames),
    "slices_too_thick": _without(*(n for n in range(48) if n % 3)),
    "not_volume": lambda good: good.edit(_colours),
    "not_hounsfield": _set("RescaleIntercept", 0),
    "identity_conflict": _set("PatientID", "other", 0, 3),
    # mask
    "mask_unreadable": lambda good: good.mask.write_bytes(b"no mask") and None,
    "mask_empty": _relabel(np.zeros_like),
    "mask_labels_unknown": _relabel(lambda labels: (labels > 0).astype(np.uint8)),
    "mask_grid_mismatch": _relabel(lambda labels: labels, 300.0),
    "mask_off_bone": _relabel(lambda labels: np.roll(labels, 20, axis=0)),
    "mask_fractional": _relabel(lambda labels: labels + np.float32(0.5) * (labels > 0)),
    "level_missing": _relabel(lambda labels: np.where(labels == 21, 0, labels).astype(np.uint8)),
    "levels_out_of_order": lambda good: (
        _other_numbers(l1=21, l2=20)(good),
        good.options.extend(["--labels", "verse"]),
    )[0],
    # warnings
    "label_fragments": _relabel(_stray),
    "level_cut": _without_top_of_t12,
    "level_extra": _other_numbers(l5=25),
    "mask_resampled": _relabel(lambda labels: labels, 0.6),
    "mask_partial": _label_beside_the_ct,
    "body_derived": _relabel(_with_arches),
    "slice_thickness": _set("SliceThickness", 7.0),
    "resolution_coarse": _coarse,
    "position_unusual": _set("PatientPosition", "HFP"),
    "other_series_ignored": _localizer,
}
"""Code → the one change that leads to it."""

ELSEWHERE: dict[str, tuple[str, str]] = {
    # Python only: the command line makes a mask where none is given
    "mask_required": ("test_auto_mask", "test_a_row_without_mask_is_refused_where_none_is_made"),
    # vfx check --mask MASK or auto: the localiser has to see, or not to see, a whole trunk
    "mask_disagrees": (
        "test_auto_mask",
        "test_a_mask_moved_by_one_level_is_an_error_to_be_looked_at",
    ),
    "mask_not_compared": (
        "test_auto_mask",
        "test_a_comparison_that_finds_too_few_bodies_is_a_warning",
    ),
    "spine_not_found": ("test_auto_mask", "test_nothing_like_a_spine_is_refused_in_the_report"),
    "level_uncertain": ("test_localiser_locate", "test_an_unusual_count_is_refused_with_the_count"),
    "segmentation_not_written": ("test_auto_mask", "test_dicom_seg_of_a_deidentified_series"),
    # vfx check --mask totalsegmentator
    "mask_not_made": ("test_auto_mask", "test_a_failing_totalsegmentator_is_a_refusal"),
    # vfx morphometry
    "heights_too_coarse": ("test_codes", "test_codes_of_other_commands"),
    "heights_coarse": (
        "test_morphometry_job",
        "test_thick_slices_are_refused_unless_told_otherwise",
    ),
    "normal_values_crude": ("test_morphometry_job", "test_the_paper_preset_is_warned_of"),
    # vfx predict
    "weights_unreadable": ("test_codes", "test_codes_of_other_commands"),
    "weights_mismatch": ("test_codes", "test_codes_of_other_commands"),
    "clinical_invalid": (
        "test_workflow",
        "test_the_command_takes_an_ensemble_a_row_and_a_calibration",
    ),
    "slices_repeated": (
        "test_bundle_parts",
        "test_a_prediction_warns_of_repeats_and_of_simulated_weights",
    ),
    "crop_padded": ("test_transforms", "test_crop_beyond_the_field_of_view_is_padded"),
    "simulated_weights": ("test_workflow", "test_a_case_leaves_its_files_in_the_folder"),
    "clinical_missing": ("test_workflow", "test_a_calibration_s_variables_come_from_the_row"),
    "out_of_distribution": ("test_workflow", "test_most_members_must_find_a_case_strange"),
    # vfx cohort and all commands that take a table
    "cohort_invalid": ("test_codes", "test_codes_of_other_commands"),
    # vfx train: a failure that no rule foresees
    "internal": (
        "test_bundle_parts",
        "test_a_refused_case_comes_as_a_refusal_and_a_defect_as_internal",
    ),
}
"""Code → module and name of the test that provokes it."""


def _parse(result: Any) -> dict[str, Any]:
    line = result.stdout.strip().splitlines()[-1]
    document: dict[str, Any] = json.loads(line)
    return document


def _assert_code(code: str, status: int, report: dict[str, Any]) -> None:
    """One code and no other, with its exit status."""
    assert violations(report, "check") == []
    if code in REFUSALS:
        assert (report["refusal"] or {}).get("code") == code, report
        assert (status, report["status"]) == (3, "refused")
    else:
        assert [warning["code"] for warning in report["warnings"]] == [code], report
        assert (status, report["status"]) == (0, "accepted")


def test_the_good_case_is_accepted_without_a_warning(good: Good) -> None:
    for image in (good.image, good.folder / "ct.nii.gz"):
        result = CliRunner().invoke(main, replace(good, image=image).words())
        assert result.exit_code == 0, result.output
        assert _parse(result)["warnings"] == []


@pytest.mark.parametrize("code", CHECK)
def test_check_names_exactly_this_code(code: str, good: Good) -> None:
    CHECK[code](good)
    result = CliRunner().invoke(main, good.words())
    _assert_code(code, result.exit_code, _parse(result))
    told = result.output.lower()
    assert not any(secret in told for secret in ("jane", "secret7", str(good.folder).lower()))


@pytest.mark.parametrize("code", ["slices_missing", "level_missing", "position_unusual"])
def test_the_installed_program_says_the_same(code: str, good: Good) -> None:
    CHECK[code](good)
    program = Path(sys.executable).with_name("vfx")
    done = subprocess.run([program, *good.words()], capture_output=True, text=True, check=False)
    _assert_code(code, done.returncode, _parse(done))
    assert f"{'refused' if code in REFUSALS else 'warning'} {code}: " in done.stderr
    assert "Traceback" not in done.stderr


def _weights(good: Good, sha256: str | None) -> list[str]:
    """``vfx predict`` with a checkpoint whose sidecar names another one, or that has none."""
    from phantoms import SIDECAR

    path = good.folder / "w.pt"
    path.write_bytes(b"weights")
    if sha256 is not None:
        sidecar = {**SIDECAR, "weights_sha256": sha256}
        path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    words = ["predict", str(good.image), "--mask", str(good.mask), "--weights", str(path)]
    return [*words, "--out", str(good.folder / "out")]


def _cohort(good: Good) -> list[str]:
    table = good.folder / "table.csv"
    table.write_text("case,image,fracture\na,ct.nii.gz,2\n", encoding="utf-8")
    return ["cohort", str(table), "--out", str(good.folder / "out")]


OTHER_COMMANDS: dict[str, Callable[[Good], list[str]]] = {
    "heights_too_coarse": lambda good: [
        *("morphometry", str(good.image), "--mask", str(good.mask)),
        *("--out", str(good.folder / "out")),
    ],
    "weights_unreadable": lambda good: _weights(good, None),
    "weights_mismatch": lambda good: _weights(good, "0" * 64),
    "cohort_invalid": _cohort,
}


@pytest.mark.parametrize("code", OTHER_COMMANDS)
def test_codes_of_other_commands(code: str, good: Good) -> None:
    result = CliRunner().invoke(main, OTHER_COMMANDS[code](good))
    assert result.exit_code == 3, result.output
    assert _parse(result)["refusal"]["code"] == code
    assert f"refused {code}: " in result.stderr


def _defined(module: str) -> dict[str, str]:
    """Return the tests of a module and its whole text, where tables of codes stand."""
    text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    return {node.name: text for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def test_each_code_is_provoked() -> None:
    assert not set(CHECK) & set(ELSEWHERE)
    assert set(CHECK) | set(ELSEWHERE) == set(REFUSALS) | set(WARNINGS)
    for code, (module, test) in ELSEWHERE.items():
        tests = _defined(module)
        assert test in tests, (code, module, test)
        assert f'"{code}"' in tests[test], (code, module)
        if module == "test_codes":
            assert code in OTHER_COMMANDS


# -- real CT ---------------------------------------------------------------------------------

REAL: dict[str, tuple[str, str, list[str]]] = {
    "annotated": ("series", "tcga_ov_abdomen/vertebral_bodies.nii.gz", []),
    "v1": (
        "totalseg_example/ct.nii.gz",
        "totalseg_example/v1_masks",
        ["resolution_coarse", "level_cut", "body_derived"],
    ),
    "v2": (
        "totalseg_example/ct.nii.gz",
        "totalseg_example/seg_v2_117class_fast.nii.gz",
        ["resolution_coarse", "level_cut", "body_derived"],
    ),
    "v2 vertebrae": (
        "totalseg_example/ct.nii.gz",
        "totalseg_example/seg_v2_vertebrae.nii.gz",
        ["resolution_coarse", "level_cut", "body_derived"],
    ),
}
"""Form → image, mask, and the warnings that are true of it."""


@pytest.mark.parametrize("form", REAL)
def test_good_real_ct_is_accepted_with_its_true_warnings(
    form: str, real_data: Path, tcga_series: Path
) -> None:
    image, mask, expected = REAL[form]
    path = tcga_series if image == "series" else real_data / image
    report, refusal = check_report(path, real_data / mask, case="a")
    assert refusal is None
    assert sorted(warning["code"] for warning in report["warnings"]) == sorted(expected)
