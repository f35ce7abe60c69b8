"""A good case, and for each code that ``vfx check`` can meet the one change that leads to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from phantoms import nifti


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


def _second_phase_within(good: Good) -> None:
    """Put every slice a second time between the first ones, under another acquisition."""
    for number, file in enumerate(good.slices):
        dataset = pydicom.dcmread(file)
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y, z + 1.7]
        dataset.AcquisitionNumber = 2
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.5.{number}"
        dataset.save_as(good.image / f"second_{number}.dcm")


def _move(header: Any) -> None:
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    header.ImagePositionPatient = [x, y, z + 1.2]


def _unknown_syntax(good: Good) -> None:
    for file in good.slices:
        known, unknown = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"
        file.write_bytes(file.read_bytes().replace(known, unknown, 1))


def _nifti_header(change: Callable[[Any], None]) -> Callable[[Good], None]:
    def apply(good: Good) -> None:
        good.image = good.folder / "ct.nii.gz"
        source: Any = nib.load(good.image)
        image = nifti(np.asarray(source.dataobj), source.affine)
        change(image)
        nib.save(image, good.image)

    return apply


def _half_of_a_pair(good: Good) -> None:
    source: Any = nib.load(good.folder / "ct.nii.gz")
    pair: Any = nib.Nifti1Pair(np.asarray(source.dataobj), source.affine)  # type: ignore[no-untyped-call]
    pair.set_sform(source.affine, code=1)
    good.image = good.folder / "pair.hdr"
    nib.save(pair, good.image)
    good.image.with_suffix(".img").unlink()


def _other_qform(image: Any) -> None:
    image.set_qform(image.affine @ np.diag([1.0, 1.0, 1.05, 1.0]), code=1)


def _tissue_as_padding(header: Any) -> None:
    header.add_new("PixelPaddingValue", "US", 1024 + 40)


def _one_body_without_label(labels: np.ndarray) -> np.ndarray:
    """Leave L1's body out and call those above it by the next name."""
    table = np.arange(256, dtype=np.uint8)
    table[[18, 19, 20]] = 19, 20, 0
    return table[labels]


CHANGES: dict[str, Callable[[Good], None]] = {
    # input
    "input_unreadable": _text_as_image,
    "no_image": _texts_only,
    "file_truncated": _cut_last,
    "file_missing": _half_of_a_pair,
    "not_ct": _set("Modality", "MR"),
    "several_series": _second_phase,
    "series_mixed": _set("PixelSpacing", [1.0, 1.0], 0, 3),
    "geometry_missing": lambda good: good.edit(lambda h: h.pop("ImagePositionPatient"), 0, 1),
    "geometry_invalid": _set("PixelSpacing", [1.5]),
    "forms_disagree": _nifti_header(_other_qform),
    "units_not_mm": _nifti_header(lambda image: image.header.set_xyzt_units("meter")),
    "too_few_slices": _without(*range(9, 48)),
    "slices_duplicated": _same_place,
    "phases_overlap": _second_phase_within,
    "slices_missing": _without(20),
    "spacing_uneven": lambda good: good.edit(_move, 20, 21),
    "gantry_tilt": lambda good: good.edit(_tilt),
    "multiframe": lambda good: good.edit(_frames),
    "uid_invalid": _set("SOPInstanceUID", "1.2.3", 5, 7),
    "pixel_format": _set("BitsStored", 17, 5, 6),
    "syntax_unsupported": _unknown_syntax,
    "slices_too_thick": _without(*(n for n in range(48) if n % 3)),
    "not_volume": lambda good: good.edit(_colours),
    "not_hounsfield": _set("RescaleType", "ED"),
    "hu_implausible": _set("RescaleIntercept", 0),
    "size_implausible": _set("PixelSpacing", [0.1, 0.1]),
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
    "levels_gap": _relabel(_one_body_without_label),
    # warnings
    "label_fragments": _relabel(_stray),
    "level_cut": _without_top_of_t12,
    "level_extra": _other_numbers(l5=25),
    "mask_resampled": _relabel(lambda labels: labels, 0.3),
    "mask_partial": _label_beside_the_ct,
    "body_derived": _relabel(_with_arches),
    "slice_thickness": _set("SliceThickness", 5.8),
    "slices_apart": _set("SliceThickness", 2.5),
    "resolution_coarse": _coarse,
    "age_outside_study": _set("PatientAge", "045Y"),
    "monoenergetic": _set("ImageType", ["DERIVED", "PRIMARY", "AXIAL", "VMI"]),
    "padding_ignored": lambda good: good.edit(_tissue_as_padding),
    "position_unusual": _set("PatientPosition", "HFP"),
    "other_series_ignored": _localizer,
}
"""Code → the one change that leads to it."""
