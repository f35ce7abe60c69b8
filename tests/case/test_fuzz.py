"""Damaged files lead to a result or a code: the fuzz run, and its findings made small."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import fuzzing
import numpy as np
import pydicom
import pytest
from fuzz_mutations import nested_sequences
from fuzz_seeds import PATIENT, SEEDS, Seed, build_seeds

from monai_vfx.case.case import check_report
from monai_vfx.case.mask.load import load_masks
from monai_vfx.core.codes import REFUSALS
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import open_volume


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    build_seeds(folder)
    return folder


# -- the run ---------------------------------------------------------------------------------


def _run(count: int) -> list[fuzzing.Outcome]:
    found = list(fuzzing.run(range(count), workers=2))
    assert sorted(outcome.number for outcome in found) == list(range(count))
    findings = [outcome for outcome in found if outcome.is_finding]
    assert not findings, findings[0]
    assert max(outcome.peak_mib for outcome in found) < fuzzing.MEMORY / 2**20
    return found


def test_two_hundred_damaged_inputs_give_results_or_codes() -> None:
    found = _run(200)
    codes = {code for outcome in found if outcome.kind == "code" for code in _codes(outcome)}
    assert codes <= {*REFUSALS, "wrong use"}
    assert len(codes) > 8
    assert {outcome.seed for outcome in found} == {seed.name for seed in SEEDS}


@pytest.mark.slow
def test_twenty_thousand_damaged_inputs_give_results_or_codes() -> None:
    _run(20_000)


def _codes(outcome: fuzzing.Outcome) -> list[str]:
    return [line.partition(":")[0] for line in outcome.text.splitlines()]


def test_good_inputs_are_read(seeds: Path) -> None:
    for seed in SEEDS:
        told = fuzzing.read(seed, seeds / seed.name)
        # No table is good for all four readers.
        assert len(told) < 4 if seed.form == "table" else told == [], (seed, told)


def test_a_case_is_a_function_of_its_number(seeds: Path, tmp_path: Path) -> None:
    for number in range(3 * len(SEEDS)):
        made = []
        for name in ("one", "other"):
            folder = tmp_path / f"{number}_{name}"
            folder.mkdir()
            _, done = fuzzing.prepare(number, seeds, folder)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            made.append((done, [(f.relative_to(folder), f.read_bytes()) for f in files]))
        assert made[0] == made[1]


# -- what the run can see --------------------------------------------------------------------


_SAID = {7: ["file_truncated: no pixels (MemoryError)"], 8: ["file_truncated: cut"]}


def _misbehaves(seed: Seed, folder: Path) -> list[str]:
    """Do to each seed what a reader must not do, but to the last."""
    match [each.name for each in SEEDS].index(seed.name):
        case 0:
            raise KeyError(seed.name)
        case 1:
            return [str(len(bytearray(7 << 30)))]
        case 2:
            logging.getLogger("some.library").error("bad file of %s", PATIENT)
        case 3:
            warnings.warn(f"in {folder}", stacklevel=1)
        case 4:
            end = time.process_time() + 0.7
            while time.process_time() < end:
                pass
        case 5:
            time.sleep(60)
        case 6:
            os._exit(9)
        case number:
            return _SAID.get(number, [])
    return []


def test_what_goes_wrong_is_found() -> None:
    found = [*fuzzing.run(range(10), workers=1, reader=_misbehaves, seconds=0.5)]
    assert [(each.kind, each.text.splitlines()[-1]) for each in found[:3]] == [
        ("traceback", "KeyError: 'series'"),
        ("traceback", "MemoryError"),
        ("told", f"bad file of {PATIENT}"),
    ]
    assert [each.kind for each in found[3:7]] == ["told", "hang", "hang", "crash"]
    assert [each.kind for each in found[7:]] == ["memory", "code", "result"]
    assert [each.is_finding for each in found] == [True] * 8 + [False] * 2
    assert found[6].text == "exit status 9"


# -- what was found --------------------------------------------------------------------------


def _line(name: bytes, new: bytes) -> Callable[[Path], None]:
    """Return what puts a line in the place of the header line that begins so."""

    def change(file: Path) -> None:
        lines = file.read_bytes().split(b"\n")
        at = next(n for n, line in enumerate(lines) if line.startswith(name))
        lines[at] = new
        file.write_bytes(b"\n".join(lines))

    return change


def _field(offset: int, value: float, kind: str = "f") -> Callable[[Path], None]:
    """Return what sets a field of a NIfTI header, within a gzip as well."""

    def change(file: Path) -> None:
        packed = file.name.endswith(".gz")
        content = bytearray(gzip.decompress(file.read_bytes()) if packed else file.read_bytes())
        struct.pack_into(f"<{kind}", content, offset, value)
        file.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))

    return change


def _middle(file: Path) -> None:
    """Write over bytes of the packed voxels."""
    content = bytearray(file.read_bytes())
    at = len(content) // 2
    content[at : at + 8] = b"\xff" * 8
    file.write_bytes(content)


def _without_numbers(file: Path) -> None:
    """Take the number of every region out of an RTSTRUCT's contours."""
    plan = pydicom.dcmread(file)
    for item in plan.ROIContourSequence:
        del item.ReferencedROINumber
    plan.save_as(file)


def _far_away(file: Path) -> None:
    """Move one contour by a kilometre."""
    plan = pydicom.dcmread(file)
    contour = plan.ROIContourSequence[2].ContourSequence[0]
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    points[:, 0] += 1e6
    contour.ContourData = [f"{value:.3f}" for value in points.ravel()]
    plan.save_as(file)


def _deep(file: Path) -> None:
    """Put sequences within sequences, two thousand deep."""
    content = file.read_bytes()
    at = content.index(b"\x08\x00\x60\x00CS")  # before Modality
    file.write_bytes(content[:at] + nested_sequences(2000) + content[at:])


def _line_of_voxels(file: Path) -> None:
    """Leave one axis, in a header with a qform beside its sform."""
    _field(QFORM, 1, "h")(file)
    _field(DIM, 1, "h")(file)


LONG = b"A" * 5000
DIM, VOX_OFFSET, SCL_SLOPE, QFORM = 40, 108, 112, 252

FOUND: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    # ITK's readers ended the process
    "a long word in a NRRD": ("nrrd", "input_unreadable", _line(b"kinds", b"kinds: " + LONG)),
    "a long number of axes": (
        "nhdr",
        "input_unreadable",
        _line(b"dimension", b"dimension: " + LONG),
    ),
    "long sizes": ("nrrd_gz", "input_unreadable", _line(b"sizes", b"sizes: " + LONG)),
    "1e308 axes": ("mha", "input_unreadable", _line(b"NDims", b"NDims = 1e308")),
    # ITK's inflating went on for ever
    "a damaged stream in a MetaImage": ("mha_gz", "file_truncated", _middle),
    "a damaged stream in a NRRD": ("nrrd_gz", "file_truncated", _middle),
    # parts of a DICOM mask that were taken for granted, or for near, or for shallow
    "contours without numbers": ("mask_rtstruct", "mask_unreadable", _without_numbers),
    "a contour a kilometre away": ("mask_rtstruct", "mask_unreadable", _far_away),
    "deep sequences": ("mask_rtstruct", "file_truncated", _deep),
    # nibabel raised what nobody expected
    "voxels at infinity": ("nifti", "input_unreadable", _field(VOX_OFFSET, float("inf"))),
    "voxels beyond a file": ("nifti_gz", "input_unreadable", _field(VOX_OFFSET, 1e30)),
    "a quaternion that turns nothing": ("nifti", "geometry_invalid", _field(260, 1e30)),
    "a line with two places": ("nifti", "not_volume", _line_of_voxels),
    "labels at infinity": ("mask_nii", "mask_unreadable", _field(VOX_OFFSET, float("inf"))),
    "labels beyond a file": ("mask_gz", "mask_unreadable", _field(VOX_OFFSET, 1e30)),
}
"""What was found: the seed, the code it has now, and the least change that leads to it."""


def _read(folder: Path, seed: Seed) -> None:
    volume = open_volume(folder / seed.image)
    volume.read()
    load_masks(folder / seed.mask, volume.shape, volume.affine)


@pytest.mark.parametrize("name", FOUND)
def test_what_the_run_has_found_has_a_code(name: str, seeds: Path, tmp_path: Path) -> None:
    seed_name, code, change = FOUND[name]
    seed = next(seed for seed in SEEDS if seed.name == seed_name)
    folder = Path(shutil.copytree(seeds / seed.name, tmp_path / "case_id"))
    change(folder / (seed.image if seed.mask == "mask.nii" else seed.mask))
    with pytest.raises(CaseRefused) as refused:
        _read(folder, seed)
    assert refused.value.code == code


def test_a_level_that_reaches_no_foreground_is_missing(seeds: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seeds / "mask_folder", tmp_path / "case_id"))
    _field(SCL_SLOPE, 1e-30)(folder / "labels" / "vertebrae_L1.nii")
    _, refusal = check_report(folder / "ct.nii", folder / "labels", case_id="a")
    assert refusal is not None
    assert refusal.code == "level_missing"
    assert "L1" in refusal.message


def test_a_field_in_other_bytes_than_utf_8_is_left_aside(seeds: Path, tmp_path: Path) -> None:
    seed = next(seed for seed in SEEDS if seed.name == "mask_mha")
    folder = Path(shutil.copytree(seeds / seed.name, tmp_path / "case_id"))
    _line(b"Anatomical", b"Anatomie\xff = RAI")(folder / seed.mask)
    _read(folder, seed)


def test_pydicom_names_no_file_and_no_value(
    seeds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(seeds / "implicit", tmp_path / "Xanthippe"))
    file = next((folder / "ct").iterdir())
    content = file.read_bytes()
    at = content.index(b"\x28\x00\x30\x00")  # PixelSpacing, of a length that is not stated
    file.write_bytes(content[: at + 4] + b"\xff" * 4 + content[at + 8 :])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(CaseRefused):
            open_volume(folder / "ct")
    assert not heard
    assert not caplog.records
