"""Masks that are made, drawn, written as DICOM SEG and compared: always against known places."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from click.testing import CliRunner
from exported import read_segmentation

from monai_vfx.analysis.cohort.training_items import read_cohort, table_sha256
from monai_vfx.case.case import check_report, load_case
from monai_vfx.case.mask.load import load_masks
from monai_vfx.case.mask.read import REFUSED_MASK
from monai_vfx.cli import main
from monai_vfx.core.anatomy import MADE_MASKS, TOTALSEGMENTATOR_V2, VERTEBRAE
from monai_vfx.core.errors import CaseRefused, MissingDependencyError
from monai_vfx.core.geometry import world_positions
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.schemas import violations
from monai_vfx.io.volume import open_volume
from monai_vfx.outputs.hospital.dicom_seg import write_segmentation
from monai_vfx.outputs.report.segmentation_preview import (
    PreviewVoxels,
    body_centres,
    slice_view,
    spine_view,
)
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.transforms import LocateSpined
from monai_vfx.vertebrae.segmentation.result import NamedLevel, VertebraSegmentation
from monai_vfx.vertebrae.sources.comparison import disagreement, match_levels
from monai_vfx.vertebrae.sources.source import (
    DISAGREEMENT,
    FACTS,
    GIVEN_PICTURE,
    MASK,
    PICTURE,
    SEGMENTATION,
    MaskSource,
)
from monai_vfx.vertebrae.sources.tools import SPINE_WEIGHTS, STRUCTURES
from monai_vfx.vertebrae.sources.writing import segmentation_document, write_label_map
from monai_vfx.workflows.missing_masks import count_missing_masks, fill_missing_masks
from phantoms import LEVELS, Phantom, grid, make_phantom, nifti

BODIES = {v: k for k, v in LEVELS.items()}


def oblique(spacing: tuple[float, float, float], turn_deg: float, flip: tuple[int, int, int]):
    """Return a phantom on a grid turned about all axes, with axes flipped."""
    shape, affine, middle = grid(spacing, (190.0, 170.0, 236.0))
    a, b = np.radians([turn_deg, turn_deg / 2])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = np.eye(4)
    turned[:3, :3] = about_x @ about_z @ affine[:3, :3] @ np.diag(flip)
    turned[:3, 3] = middle - turned[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom(shape, turned, middle)


GRIDS = {
    "upright, anisotropic": ((0.9, 1.1, 4.0), 0.0, (1, 1, 1)),
    "flipped": ((1.2, 1.0, 3.0), 0.0, (-1, -1, -1)),
    "oblique": ((1.0, 1.3, 2.5), 9.0, (-1, 1, 1)),
}


@pytest.fixture(scope="module", params=GRIDS)
def any_grid(request: pytest.FixtureRequest) -> Phantom:
    return oblique(*GRIDS[request.param])


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique DICOM series of the phantom, flipped in its columns."""
    made = oblique(*GRIDS["oblique"])
    folder = tmp_path_factory.mktemp("dicom") / "series"
    facts = SeriesFacts(uid_seed="auto", patient_name="Doe^Jane", patient_id="SECRET7")
    write_ct_series(folder, np.rint(made.hu).astype(np.int16), made.affine, facts)
    return folder


def with_muscles(made: Phantom) -> np.ndarray:
    """Return the phantom's labels with muscles behind and beside the bodies."""
    index = np.indices(made.labels.shape).reshape(3, -1).T
    x, y, z = (world_positions(made.affine, index) - made.centre).T.reshape(3, *made.labels.shape)
    labels = made.labels.copy()
    near = np.abs(z) < 60
    labels[near & (np.hypot(np.abs(x) - 33, y) < 9) & (labels == 0)] = 102
    labels[near & (np.hypot(np.abs(x) - 25, y + 42) < 11) & (labels == 0)] = 101
    return labels


def segmentation(made: Phantom, labels: np.ndarray, shift: int = 0) -> VertebraSegmentation:
    """Return what a segmentation that finds these labels says, its names shifted by so many "
    "levels."""
    levels = []
    for name, centre in body_centres(labels, made.affine).items():
        value = VERTEBRAE[name] + shift
        levels.append(
            NamedLevel(
                name=next(n for n, v in VERTEBRAE.items() if v == value),
                probability=0.97,
                centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
                height_mm=21.0,
                depth_mm=30.0,
                width_mm=40.0,
                volume_ml=19.8,
                ribs=(0.98, 0.03),
                complete=True,
            )
        )
    numbers = labels.astype(int)
    moved = np.where((numbers > 0) & (numbers < 100), numbers + shift, numbers).astype(np.uint8)
    return VertebraSegmentation(
        labels=moved,
        levels=tuple(levels),
        confidence=0.96,
        threshold=0.9,
        evidence={"sacrum_in_view": True, "last_rib": "T12", "lumbar_count": 5, "hypotheses": []},
        weights_sha256={"locator": "a" * 64, "refiner": "b" * 64},
        warnings=(),
        seconds={"total": 8.0},
    )


def test_a_written_label_map_says_itself_what_it_is(any_grid: Phantom, tmp_path: Path) -> None:
    labels = with_muscles(any_grid)
    write_label_map(tmp_path / MASK, labels, any_grid.affine)
    read = load_masks(tmp_path / MASK, labels.shape, any_grid.affine)
    assert read.scheme == "names"  # not guessed from numbers
    assert read.body_source == "given"
    assert read.warnings == ()
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_allclose(nib.load(tmp_path / MASK).affine, any_grid.affine, atol=1e-4)


def test_dicom_seg_lies_where_the_bodies_are(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    made = make_phantom(volume.shape, volume.affine, oblique(*GRIDS["oblique"]).centre)
    labels = with_muscles(made)
    path = write_segmentation(tmp_path / SEGMENTATION, labels, series)
    found = read_segmentation(path)
    assert set(found) == {*LEVELS, "erector_spinae", "psoas"}
    for name, places in found.items():
        value = VERTEBRAE.get(name) or {"erector_spinae": 101, "psoas": 102}[name]
        true = world_positions(volume.affine, np.argwhere(labels == value))
        assert len(places) == len(true), name
        order, wanted = (np.lexsort(np.rint(p * 20).astype(int).T) for p in (places, true))
        np.testing.assert_allclose(places[order], true[wanted], atol=0.02, err_msg=name)
    # The answer known by hand: L2's middle is the phantom's, L1 30 mm above and T12 above that.
    assert np.abs(found["L2"].mean(axis=0) - made.centre)[[0, 2]].max() < 1.0
    assert found["L1"][:, 2].mean() - found["L2"][:, 2].mean() == pytest.approx(30, abs=1.5)


def test_dicom_seg_belongs_to_the_patients_study(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    made = make_phantom(volume.shape, volume.affine, oblique(*GRIDS["oblique"]).centre)
    first = write_segmentation(tmp_path / "a.dcm", made.labels, series)
    again = write_segmentation(tmp_path / "b.dcm", made.labels, series)
    seg = pydicom.dcmread(first)
    source = pydicom.dcmread(next(series.iterdir()))
    for tag in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[tag].value == source[tag].value
    assert seg.Modality == "SEG"
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    assert seg.SOPInstanceUID == pydicom.dcmread(again).SOPInstanceUID
    codes = {s.SegmentLabel: s.SegmentedPropertyTypeCodeSequence[0] for s in seg.SegmentSequence}
    assert codes["L1"].CodeValue == "66794005"
    assert codes["L1"].CodingSchemeDesignator == "SCT"
    with pytest.raises(ValueError, match="voxels"):
        write_segmentation(tmp_path / "c.dcm", made.labels[:-1], series)


def test_dicom_seg_of_a_deidentified_series(series: Path, tmp_path: Path) -> None:
    volume = open_volume(series)
    made = make_phantom(volume.shape, volume.affine, oblique(*GRIDS["oblique"]).centre)
    for bare in ("named", "frameless"):
        (tmp_path / bare).mkdir()
        for file in series.iterdir():
            dataset = pydicom.dcmread(file)
            for tag in ("PatientBirthDate", "AccessionNumber", "StudyTime", "PatientSex"):
                del dataset[tag]
            if bare == "frameless":
                del dataset.StudyInstanceUID
            dataset.save_as(tmp_path / bare / file.name)
    seg = write_segmentation(tmp_path / "a.dcm", made.labels, tmp_path / "named")
    assert pydicom.dcmread(seg).AccessionNumber == ""
    source = MaskSource(tmp_path / "frameless", "auto", tmp_path / "out")
    source.keep(open_volume(tmp_path / "frameless"), segmentation(made, made.labels))
    assert [w.code for w in source.warnings] == ["segmentation_not_written"]
    assert (tmp_path / "out" / MASK).is_file()
    assert not (tmp_path / "out" / SEGMENTATION).exists()


def test_pictures_show_left_and_back_where_they_are(any_grid: Phantom) -> None:
    voxels = PreviewVoxels(any_grid.hu, any_grid.labels, any_grid.affine)
    spots = np.array(list(body_centres(any_grid.labels, any_grid.affine).values()))
    ends = (spots[-1, 2] - 20, spots[0, 2] + 20)
    lead = 700
    # From the front: the bead 40 mm to the patient's left is at the reader's right of the middle.
    front = spine_view(voxels, spots, "front", ends)
    row, column = np.argwhere(np.nan_to_num(front.hu) > lead).mean(axis=0)
    start, stop, low, high = front.extent
    x = start + (column + 0.5) / front.hu.shape[1] * (stop - start)
    assert x - any_grid.centre[0] == pytest.approx(-40, abs=2.5)
    assert column > front.hu.shape[1] / 2
    z = high + (row + 0.5) / front.hu.shape[0] * (low - high)
    assert z - any_grid.centre[2] == pytest.approx(0, abs=2.5)
    # From the left: the bead behind L2 is at the reader's right, and the head is up.
    left = spine_view(voxels, spots, "left", ends)
    _, column = np.argwhere(np.nan_to_num(left.hu) > lead).mean(axis=0)
    assert column > left.hu.shape[1] / 2
    rows = {v: np.argwhere(left.labels == n)[:, 0].mean() for n, v in BODIES.items()}
    assert sorted(rows, key=lambda v: rows[v]) == list(LEVELS)
    # A slice from the feet: the patient's left at the reader's right, the back below.
    normal = np.cross(*(any_grid.affine[:3, axis] for axis in (0, 1)))
    normal /= np.linalg.norm(normal)
    for offset, row, column in (((-40, 8, 0), 0, 40), ((0, -32, 0), 40, 0)):
        away = any_grid.centre + offset - spots[3]  # of a bead: in an oblique slice of its own
        tile = slice_view(voxels, spots[3] + normal * (away @ normal), any_grid.affine)
        bright = np.argwhere(np.nan_to_num(tile.hu) > lead)
        places = bright + 0.5 - np.array(tile.hu.shape) / 2 + [24, 0]  # from the body's middle
        assert (np.linalg.norm(places - [row, column], axis=1) < 8).sum() > 10
        assert np.linalg.norm(places - [-row, -column], axis=1).min() > 20


def test_what_the_segmentation_finds_becomes_mask_picture_and_record(
    series: Path, tmp_path: Path
) -> None:
    volume = open_volume(series)
    made = make_phantom(volume.shape, volume.affine, oblique(*GRIDS["oblique"]).centre)
    labels = with_muscles(made)
    source = MaskSource(series, "auto", tmp_path / "out")
    source.keep(volume, segmentation(made, labels))
    assert source.path == tmp_path / "out" / MASK
    found = source.review(load_case(series, source.path))
    assert {p.name for p in source.folder.iterdir()} == {MASK, SEGMENTATION, PICTURE, FACTS}
    assert found["mask"]["source"] == "auto"
    assert found["mask"]["confidence"] == 0.96
    assert [level["name"] for level in found["mask"]["levels"]] == list(LEVELS)
    assert (
        found["mask"]["comparison"] is None
    )  # nobody compares the vertebra segmentation with itself
    picture = source.folder / PICTURE
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads((source.folder / FACTS).read_text())
    assert violations(document, "segmentation") == []
    at = document["levels"][3]["centre_mm"]
    assert at[0] == pytest.approx(-made.centre[0], abs=1.5)  # LPS
    assert at[2] == pytest.approx(made.centre[2], abs=1.5)
    assert document["levels"][0]["ribs"] == {"right": 0.98, "left": 0.03}
    for file in (FACTS, MASK):
        assert b"Doe" not in (source.folder / file).read_bytes()


def test_a_mask_one_level_off_is_found_out(any_grid: Phantom, tmp_path: Path) -> None:
    image, mask = any_grid.save(tmp_path)
    case = load_case(image, mask, scheme="verse")
    source = MaskSource(image, mask, tmp_path / "out")
    source.compare_with(case, segmentation(any_grid, any_grid.labels))
    comparison = source.record["comparison"]
    assert comparison["agrees"] is True
    assert comparison["largest_distance_mm"] < 0.5
    assert not (tmp_path / "out").exists()
    with pytest.raises(CaseRefused) as refused:
        source.compare_with(case, segmentation(any_grid, any_grid.labels, shift=-1))
    assert refused.value.code == "mask_disagrees"
    assert "L2 is the vertebra segmentation's L1" in refused.value.message
    assert (tmp_path / "out" / DISAGREEMENT).read_bytes().startswith(b"\x89PNG")


def test_a_comparison_that_finds_too_few_bodies_is_a_warning(
    any_grid: Phantom, tmp_path: Path
) -> None:
    image, mask = any_grid.save(tmp_path)
    case = load_case(image, mask, scheme="verse")
    found = segmentation(any_grid, any_grid.labels)
    found = replace(found, levels=found.levels[-2:])  # L4 and L5 alone
    source = MaskSource(image, mask, tmp_path / "out")
    source.compare_with(case, found)
    assert [w.code for w in source.warnings] == ["mask_not_compared"]
    assert "1 of the mask's 5" in source.warnings[0].message
    assert source.record["comparison"]["agrees"] is None


def test_half_a_level_off_is_no_other_level(any_grid: Phantom) -> None:
    moved = any_grid.affine.copy()
    moved[2, 3] += 10.0
    found = segmentation(any_grid, any_grid.labels)
    matches = match_levels(any_grid.labels, moved, found.levels)
    assert [m.found for m in matches] == [m.given for m in matches]
    assert all(m.distance_mm == pytest.approx(10, abs=0.2) for m in matches)
    assert disagreement(matches, found) is None
    moved[0, 3] += 30.0
    assert {m.found for m in match_levels(any_grid.labels, moved, found.levels)} == {None}


def test_a_document_of_a_segmentation_keeps_its_schema(any_grid: Phantom) -> None:
    document = segmentation_document(segmentation(any_grid, any_grid.labels))
    assert violations(document, "segmentation") == []
    assert violations({**document, "levels": []}, "segmentation")


# Where the CT itself is refused, or no tool is there


def thick(folder: Path) -> Path:
    """Write a CT that every way in refuses before any mask is made: slices of 12 mm."""
    made = make_phantom(*grid((2.0, 2.0, 12.0), (190.0, 170.0, 240.0)))
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nifti(made.hu.astype(np.int16), made.affine), folder / "thick.nii.gz")
    return folder / "thick.nii.gz"


@pytest.mark.parametrize("made_by", MADE_MASKS)
@pytest.mark.parametrize("command", ["check", "predict", "segment", "morphometry"])
def test_a_bad_ct_is_refused_before_a_mask_is_made(
    command: str, made_by: str, tmp_path: Path
) -> None:
    image = thick(tmp_path)
    words = [command, str(image), "--out", str(tmp_path / "out")]
    words += [] if command == "segment" else ["--mask", made_by]
    if command == "morphometry":
        words.append("--allow-thick")
    if command == "predict":
        from monai_vfx.model.checkpoint import write_sidecar
        from phantoms import SIDECAR

        (tmp_path / "w.pt").touch()
        write_sidecar(tmp_path / "w.pt", SIDECAR)
        words += ["--weights", str(tmp_path / "w.pt")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 3, result.output
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["refusal"]["code"] == "slices_too_thick"
    assert not (tmp_path / "out" / MASK).exists()


def test_refusing_a_ct_with_auto_mask_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from monai_vfx.cli import main; "
        f"r = CliRunner().invoke(main, ['check', {str(thick(tmp_path))!r}]); "
        "print(r.exit_code, [m for m in ('torch', 'monai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "3 []"


def test_a_given_mask_without_comparison_needs_no_torch(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path)
    words = ["check", str(image), "--mask", str(mask), "--no-compare-mask"]
    code = (
        "import sys; from click.testing import CliRunner; from monai_vfx.cli import main; "
        f"r = CliRunner().invoke(main, {words!r}); "
        "print(r.exit_code, [m for m in ('torch', 'monai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "0 []"


def test_totalsegmentator_that_is_absent_is_named_with_its_command(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = phantom.save(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["check", str(image), "--mask", "totalsegmentator"])
    assert result.exit_code == 1
    assert "pip install TotalSegmentator" in result.stderr
    assert "Traceback" not in result.output
    with pytest.raises(MissingDependencyError):
        MaskSource(image, "totalsegmentator", tmp_path)(open_volume(image))


STAND_IN = """#!{python}
import argparse, sys
from pathlib import Path
import nibabel as nib
import numpy as np
parser = argparse.ArgumentParser()
parser.add_argument("-i", dest="input", required=True)
parser.add_argument("-o", dest="output", required=True)
parser.add_argument("-ml", "--ml", action="store_true")
parser.add_argument("-ta", "--task", default="total", choices=["total", "vertebrae_body"])
parser.add_argument("-rs", "--roi_subset", nargs="+")
parser.add_argument("--version", action="version", version="2.11.0")
args = parser.parse_args()
if {fail}:
    print("no weights in", Path(args.input).parent, file=sys.stderr)
    sys.exit(1)
names = {names!r}
assert args.ml and args.task == "total" and set(args.roi_subset) <= set(names.values())
ct = nib.load(args.input)
hu = np.asarray(ct.dataobj)
known = np.load(Path(__file__).with_name("labels.npy"))
assert hu.shape == known.shape and hu.dtype == np.int16
kept = [number for number, name in names.items() if name in args.roi_subset]
labels = np.where(np.isin(known, kept), known, 0).astype(np.uint8)
made = nib.Nifti1Image(labels, ct.affine)
table = "".join(f'<Label Key="{{n}}"><![CDATA[{{names[n]}}]]></Label>' for n in kept)
text = f"<CaretExtension><LabelTable>{{table}}</LabelTable></CaretExtension>"
made.header.extensions.append(nib.nifti1.Nifti1Extension(0, text.encode()))
nib.save(made, args.output)
"""


def install_stand_in(folder: Path, labels: np.ndarray, *, fail: bool = False) -> None:
    """Write a program with TotalSegmentator's command line, which knows the phantom's labels."""
    folder.mkdir(parents=True, exist_ok=True)
    tool_ids = {name: n for n, name in TOTALSEGMENTATOR_V2.items()}
    names = {n: f"vertebrae_{s}" for n, s in TOTALSEGMENTATOR_V2.items() if s in VERTEBRAE}
    names |= dict(zip(range(86, 90), STRUCTURES[-4:], strict=True))
    known = np.zeros_like(labels)
    for level, value in LEVELS.items():
        known[labels == value] = tool_ids[level]
    np.save(folder / "labels.npy", known)
    for part in ("Dataset292_vertebrae", "Dataset294_muscles", "Dataset298_total_6mm"):
        checkpoint = folder / "weights" / part / "trainer" / "fold_0" / "checkpoint_final.pth"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"stands for weights")
    tool = folder / "TotalSegmentator"
    tool.write_text(STAND_IN.format(python=sys.executable, names=names, fail=fail))
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)


def test_totalsegmentator_is_run_and_its_version_recorded(
    any_grid: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = any_grid.save(tmp_path)
    install_stand_in(tmp_path / "bin", any_grid.labels)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    words = ["check", str(image), "--mask", "totalsegmentator", "--no-compare-mask"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert violations(report, "check") == []
    assert report["label_scheme"] == "names"
    assert report["mask"]["source"] == "totalsegmentator"
    assert report["mask"]["tool"] == "TotalSegmentator 2.11.0"
    assert report["mask"]["confidence"] is None
    kept = load_masks(tmp_path / "out" / MASK, any_grid.labels.shape, any_grid.affine)
    np.testing.assert_array_equal(kept.labels, any_grid.labels)
    assert (tmp_path / "out" / PICTURE).is_file()


def test_a_failing_totalsegmentator_is_a_refusal(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = phantom.save(tmp_path)
    install_stand_in(tmp_path / "bin", phantom.labels, fail=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    report, refusal = check_report(
        image, MaskSource(image, "totalsegmentator", tmp_path / "out"), case_id="a"
    )
    assert refusal is not None
    assert refusal.code == "mask_not_made"
    assert "status 1" in refusal.message
    assert "vfx_" not in refusal.message  # no path
    assert violations(report, "check") == []


def test_weights_that_totalsegmentator_lacks_are_named(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = phantom.save(tmp_path)
    install_stand_in(tmp_path / "bin", phantom.labels, fail=True)
    shutil.rmtree(tmp_path / "bin" / "weights" / "Dataset294_muscles")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    with pytest.raises(CaseRefused) as caught:
        MaskSource(image, "totalsegmentator", tmp_path / "out")(open_volume(image))
    assert caught.value.code == "mask_not_made"
    assert "missing are Dataset294_…" in caught.value.message
    assert "totalseg_download_weights -t total" in caught.value.remedy


SPINE_SEGMENT = """#!{python}
import argparse, sys
from pathlib import Path
import nibabel as nib
import numpy as np
parser = argparse.ArgumentParser(prog="spine-segment")
parser.add_argument("inputs", nargs="+")
parser.add_argument("--output", required=True)
parser.add_argument("--model-bundle", default="")
parser.add_argument("--level-only", action="store_true")
args = parser.parse_args()
ct = nib.load(args.inputs[0])
levels = np.load(Path(__file__).with_name("levels.npy"))
bodies = np.load(Path(__file__).with_name("bodies.npy"))
assert np.asarray(ct.dataobj).shape == levels.shape
assert (Path(args.model_bundle) / "weights" / "spine-locator.pt").is_file()
for name, values in (("vertebral-level", levels), ("process-body", bodies)):
    made = nib.Nifti1Image(values.astype(np.uint8), ct.affine)
    nib.save(made, Path(args.output) / f"ct_{{name}}.nii.gz")
"""


def install_spine_segment(folder: Path, labels: np.ndarray) -> Path:
    """Write a program with spine-segment's command line; return its model bundle.

    It knows the phantom's vertebrae: the bodies, and processes as long as they are behind them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    levels = np.maximum(labels, np.roll(labels, -25, axis=1))
    np.save(folder / "levels.npy", levels)
    np.save(folder / "bodies.npy", np.where(labels > 0, 2, np.where(levels > 0, 1, 0)))
    tool = folder / "spine-segment"
    tool.write_text(SPINE_SEGMENT.format(python=sys.executable))
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    facts = folder / "site" / "spine_segment-9.8.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text("Metadata-Version: 2.1\nName: spine-segment\nVersion: 9.8\n")
    (folder / "bundle" / "weights").mkdir(parents=True)
    for name in SPINE_WEIGHTS:
        (folder / "bundle" / "weights" / name).write_bytes(bytes(2000))
    return folder / "bundle"


def test_spine_segment_is_run_and_its_bodies_kept(
    any_grid: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = any_grid.save(tmp_path)
    bundle = install_spine_segment(tmp_path / "bin", any_grid.labels)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SPINE_SEGMENT_MODEL_BUNDLE", str(bundle))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bin" / "site"))  # as if installed there
    words = ["check", str(image), "--mask", "spine-segment", "--no-compare-mask"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert violations(report, "check") == []
    assert report["mask"]["source"] == "spine-segment"
    assert report["mask"]["tool"] == "spine-segment 9.8"
    assert report["body_source"] == "given"
    kept = load_masks(tmp_path / "out" / MASK, any_grid.labels.shape, any_grid.affine)
    np.testing.assert_array_equal(kept.labels, any_grid.labels)
    assert (tmp_path / "out" / PICTURE).is_file()


@pytest.mark.parametrize("content", [None, b"version https://git-lfs.github.com/spec/v1"])
def test_weights_that_spine_segment_lacks_are_named(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    image, _ = phantom.save(tmp_path)
    bundle = install_spine_segment(tmp_path / "bin", phantom.labels)
    lacking = bundle / "weights" / "vertebra-segmenter.pt"
    lacking.unlink()
    if content is not None:
        lacking.write_bytes(content)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SPINE_SEGMENT_MODEL_BUNDLE", str(bundle))
    with pytest.raises(CaseRefused, match=r"missing are weights/vertebra-segmenter\.pt"):
        MaskSource(image, "spine-segment", tmp_path / "out")(open_volume(image))


def test_spine_segment_that_is_absent_is_named_with_its_command(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = phantom.save(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="pip install spine-segment"):
        MaskSource(image, "spine-segment", tmp_path)(open_volume(image))


def test_a_given_mask_leaves_its_picture(any_grid: Phantom, tmp_path: Path) -> None:
    image, mask = any_grid.save(tmp_path)
    words = ["check", str(image), "--mask", str(mask), "--no-compare-mask"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert [file.name for file in (tmp_path / "out").iterdir()] == [GIVEN_PICTURE]


# Tables


def cohort(folder: Path, phantom: Phantom) -> Path:
    """Write a table: one row with a mask, one whose mask can be made, one whose CT is refused."""
    phantom.save(folder)
    thick(folder)
    nib.save(nifti(phantom.hu.astype(np.int16), phantom.affine), folder / "second.nii.gz")
    table = folder / "patients.csv"
    table.write_text(
        "case_id,image,mask,fracture,note\n"
        "a,ct.nii.gz,mask.nii.gz,1,x\n"
        'b,second.nii.gz,,0,"y, z"\n'
        "c,thick.nii.gz,,0,\n"
    )
    return table


def test_a_table_with_all_masks_is_left_alone(phantom: Phantom, tmp_path: Path) -> None:
    phantom.save(tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("case_id,image,mask,fracture\na,ct.nii.gz,mask.nii.gz,1\n")
    assert count_missing_masks(table) == 0
    assert fill_missing_masks(table, tmp_path / "masks") == table
    assert not (tmp_path / "masks").exists()
    assert table_sha256(table) == sha256_of(table)


def test_missing_masks_are_made_once_and_refusals_listed(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = cohort(tmp_path, phantom)
    assert count_missing_masks(table) == 2
    assert [item["mask"] for item in read_cohort(table)][1:] == ["", ""]
    install_stand_in(tmp_path / "bin", phantom.labels)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    told: list[str] = []
    folder = tmp_path / "masks"
    filled = fill_missing_masks(table, folder, "totalsegmentator", told.append)
    assert told == ["mask 1 of 2, case b: made", "mask 2 of 2, case c: refused"]
    frame = pd.read_csv(filled)
    assert list(frame.columns) == ["case_id", "image", "mask", "fracture", "note"]
    assert frame["note"].tolist()[:2] == ["x", "y, z"]
    assert table_sha256(filled) == sha256_of(table)  # held-out patients stay recognisable
    items = read_cohort(filled)
    assert Path(items[1]["mask"]) == (folder / "b" / MASK).resolve()
    assert Path(items[2]["mask"]).name == REFUSED_MASK
    assert not (folder / "b" / SEGMENTATION).exists()
    # Whatever loads the refused one is refused with the code that belongs to its CT.
    locate = LocateSpined(("image", "mask"))
    with pytest.raises(CaseRefused) as refused:
        locate({"image": items[2]["image"], "mask": items[2]["mask"]})
    assert refused.value.code == "slices_too_thick"
    with pytest.raises(CaseRefused) as refused:
        load_masks(Path(items[2]["mask"]), (1, 1, 1), np.eye(4))
    assert refused.value.code == "slices_too_thick"
    assert "mask" in locate({"image": items[1]["image"], "mask": items[1]["mask"]})

    # A second time nothing is made, until an image changes.
    before = (folder / "b" / MASK).stat().st_mtime_ns
    first = filled.read_bytes()
    assert fill_missing_masks(table, folder, "totalsegmentator").read_bytes() == first
    assert (folder / "b" / MASK).stat().st_mtime_ns == before
    os.utime(tmp_path / "second.nii.gz", ns=(0, 0))
    fill_missing_masks(table, folder, "totalsegmentator")
    assert (folder / "b" / MASK).stat().st_mtime_ns != before


def test_a_record_in_place_of_a_mask_that_is_none(tmp_path: Path) -> None:
    (tmp_path / REFUSED_MASK).write_text('{"code": "no_such_code"}')
    with pytest.raises(CaseRefused) as refused:
        load_masks(tmp_path / REFUSED_MASK, (1, 1, 1), np.eye(4))
    assert refused.value.code == "mask_unreadable"


def test_a_row_without_mask_is_refused_where_none_is_made(phantom: Phantom, tmp_path: Path) -> None:
    item = read_cohort(cohort(tmp_path, phantom))[1]
    with pytest.raises(CaseRefused) as refused:
        LocateSpined(("image", "mask"))({"image": item["image"], "mask": item["mask"]})
    assert refused.value.code == "mask_required"


# Whole jobs


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: its score means nothing, the way to it does."""
    import torch

    from monai_vfx.model.checkpoint import write_sidecar
    from monai_vfx.model.network import AttentionCNNRNN
    from phantoms import SIDECAR

    torch.manual_seed(0)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save({"network": network.state_dict()}, path)
    write_sidecar(path, SIDECAR)
    return path


def test_a_prediction_keeps_the_mask_that_was_made_and_says_so(
    phantom: Phantom, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai_vfx.workflows.predictor import predict

    image, given = phantom.save(tmp_path)
    install_stand_in(tmp_path / "bin", phantom.labels)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    out = tmp_path / "out"
    made = predict(image, "totalsegmentator", weights=weights, out=out, compare_mask=False)
    document = json.loads((out / "prediction.json").read_text())
    assert violations(document, "prediction") == []
    assert document["mask"]["tool"] == "TotalSegmentator 2.11.0"
    assert document["mask"]["source"] == "totalsegmentator"
    assert (out / PICTURE).is_file()
    assert not list(out.glob(".run_*"))
    record = json.loads((out / "run.json").read_text())
    assert record["inputs_sha256"]["mask"] == sha256_of(out / MASK)
    assert record["settings"]["mask_source"] == "totalsegmentator"

    # Given to the next run into the same folder, the mask of this one must not be swept away.
    again = predict(image, out / MASK, weights=weights, out=out, compare_mask=False)
    assert (out / MASK).is_file()
    assert not (out / PICTURE).exists()  # of another mask
    assert again.score == made.score
    assert again.mask is not None
    assert again.mask["source"] == "given"
    assert [level["name"] for level in again.mask["levels"]] == list(LEVELS)

    plain = predict(image, given, weights=weights, out=tmp_path / "o", compare_mask=False)
    assert plain.score == made.score
    with pytest.raises(CaseRefused) as refused:
        predict(image, None, weights=weights, out=tmp_path / "o", compare_mask=False)
    assert refused.value.code == "mask_required"


def test_morphometry_of_a_mask_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_phantom(*grid((1.0, 1.1, 1.5), (150.0, 140.0, 240.0)))
    image, _ = made.save(tmp_path)
    install_stand_in(tmp_path / "bin", made.labels)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    words = ["morphometry", str(image), "--mask", "totalsegmentator"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["mask"]["source"] == "totalsegmentator"
    assert document["vertebrae"]["n"] == 5
    assert (tmp_path / "out" / MASK).is_file()


def test_a_study_makes_masks_only_where_some_are_missing(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai_vfx.workflows.study.plan import Hospital, Plan
    from monai_vfx.workflows.study.run import Study

    table = cohort(tmp_path, phantom)
    install_stand_in(tmp_path / "bin", phantom.labels)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "bin" / "weights"))
    plan = Plan(name="x", development=Hospital(table=table), folds=3)
    study = Study(plan, tmp_path / "study", lambda line: None, "totalsegmentator")
    selected = study.selected_path("development")
    selected.parent.mkdir(parents=True)
    frame = pd.read_csv(table)
    for column in ("image", "mask"):
        frame[column] = frame[column].map(lambda p: str(tmp_path / p), na_action="ignore")
    frame.to_csv(selected, index=False)
    assert study.masked_path("development") == selected
    assert "masks/development" in [name for name, _ in study.steps()]
    study.log.run("masks/development", lambda: study.masks("development"))
    filled = pd.read_csv(study.masked_path("development"))
    assert [Path(p).name for p in filled["mask"]] == ["mask.nii.gz", MASK, REFUSED_MASK]
    study.imaging("development")
    refused = pd.read_csv(tmp_path / "study" / "imaging" / "development_refused.csv")
    assert refused[["case_id", "code"]].to_numpy().tolist() == [["c", "slices_too_thick"]]

    frame.assign(mask=str(tmp_path / "mask.nii.gz")).to_csv(selected, index=False)
    assert "masks/development" not in [name for name, _ in study.steps()]


# With the weights that come with the package


def shipped() -> None:
    """Skip where the segmentation's weights are not there (a checkout before they were trained)."""
    from monai_vfx.vertebrae.segmentation.networks import NETWORKS, bundle_root

    for name in NETWORKS:
        path = bundle_root() / "models" / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"{path.name} of the vertebra segmentation is not there")


@dataclass(frozen=True)
class Patient:
    """A synthetic DICOM series and what is true of it."""

    series: Path
    centres: dict[str, np.ndarray]  # mm, RAS+


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """A body with five lumbar vertebrae and twelve pairs of ribs, from T10 to the sacrum."""
    from monai_vfx.vertebrae.training.anatomy.body_plan import draw_body_plan, paint_label_map
    from monai_vfx.vertebrae.training.anatomy.synthetic_ct import synthetic_ct

    shipped()
    rng = np.random.default_rng(20)
    plan = draw_body_plan(rng, variants=False)
    centres = {
        str(level): np.asarray(centre)
        for level, centre in zip(plan.levels, plan.centres, strict=True)
    }
    middle = np.array([centres["L2"][0], centres["L2"][1], 0.0])
    low = middle + np.array([-140.0, -110.0, centres["L5"][2] - 110.0])
    high = middle + np.array([140.0, 120.0, centres["T10"][2] + 25.0])
    hu, affine = synthetic_ct(paint_label_map(plan, low, high), rng, spacing_mm=(0.9, 0.9, 2.5))
    folder = tmp_path_factory.mktemp("patient_id") / "series"
    facts = SeriesFacts(uid_seed="patient_id", patient_name="Doe^Jane", patient_id="SECRET7")
    # Stored as scanners do: columns to the patient's left, rows to the back.
    turned = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:3, 3] = (affine @ [hu.shape[0] - 1, hu.shape[1] - 1, 0, 1])[:3]
    voxels = np.clip(np.rint(hu[::-1, ::-1]), -1024, 3071).astype(np.int16)
    write_ct_series(folder, np.ascontiguousarray(voxels), turned, facts)
    return Patient(folder, centres)


def test_predict_without_a_mask(patient: Patient, weights: Path, tmp_path: Path) -> None:
    words = ["predict", str(patient.series), "--weights", str(weights)]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out"), "--explain"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert violations(document, "prediction") == []
    assert document["mask"]["source"] == "auto"
    assert document["mask"]["confidence"] >= document["mask"]["threshold"]
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {MASK, SEGMENTATION, PICTURE, FACTS, "prediction.json", "gradcam.png"}
    facts = json.loads((tmp_path / "out" / FACTS).read_text())
    for level in facts["levels"]:
        if level["name"] in ("T12", "L1", "L2", "L3", "L4"):
            truth = patient.centres[level["name"]] * [-1, -1, 1]
            assert np.linalg.norm(level["centre_mm"] - truth) < 8, level["name"]
    for text in (done.output, (tmp_path / "out" / FACTS).read_text()):
        assert "Doe" not in text
        assert "SECRET7" not in text


def test_a_mask_moved_by_one_level_is_an_error_to_be_looked_at(
    patient: Patient, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        main, ["segment", str(patient.series), "--out", str(tmp_path / "first")]
    )
    assert done.exit_code == 0, done.output
    right = tmp_path / "first" / MASK
    words = ["check", str(patient.series), "--out", str(tmp_path / "check")]
    agreed = CliRunner().invoke(main, [*words, "--mask", str(right)])
    assert agreed.exit_code == 0, agreed.output
    assert json.loads(agreed.stdout)["mask"]["comparison"]["agrees"] is True
    source = nib.load(right)
    labels = np.asarray(source.dataobj).astype(int)
    moved = np.where((labels > 18) & (labels < 25), labels - 1, labels)  # L1 becomes T12
    moved[labels == 18] = 0
    nib.save(nifti(moved.astype(np.uint8), source.affine), tmp_path / "moved.nii.gz")
    wrong = CliRunner().invoke(
        main, [*words, "--mask", str(tmp_path / "moved.nii.gz"), "--labels", "verse"]
    )
    assert wrong.exit_code == 3, wrong.output
    assert json.loads(wrong.stdout)["refusal"]["code"] == "mask_disagrees"
    assert (tmp_path / "check" / DISAGREEMENT).is_file()


def test_nothing_like_a_spine_is_refused_in_the_report(tmp_path: Path) -> None:
    shipped()
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 40, (120, 110, 60)).astype(np.int16)
    affine = np.diag([2.5, 2.5, 5.0, 1.0])
    nib.save(nifti(noise, affine), tmp_path / "noise.nii.gz")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "noise.nii.gz")])
    assert done.exit_code == 3, done.output
    report = json.loads(done.stdout)
    assert violations(report, "check") == []
    assert report["refusal"]["code"] == "spine_not_found"
    assert report["mask"] is None
