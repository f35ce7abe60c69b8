"""The mask of one case: taken as given, or made; named, drawn and compared.

>>> from pathlib import Path
>>> MaskSource("ct", "masks/a.nii.gz", Path("out")).kind
'given'
>>> MaskSource("ct", "auto", Path("out")).kind
'auto'
"""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_vfx.case.case import Case
from monai_vfx.case.checks.body_size import measure_bodies
from monai_vfx.core.anatomy import LEVELS, MADE_MASKS, VERTEBRAE
from monai_vfx.core.arrays import Json, LabelVolume
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.files import write_json
from monai_vfx.core.results import mask_record
from monai_vfx.core.schemas import violations
from monai_vfx.io.volume import Volume
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.vertebrae.sources.comparison import MIN_MATCHED, disagreement, match_levels
from monai_vfx.vertebrae.sources.writing import segmentation_document, write_label_map

if TYPE_CHECKING:
    from monai_vfx.vertebrae.segmentation.result import VertebraSegmentation

MASK, SEGMENTATION, PICTURE, FACTS = (
    "mask.nii.gz",
    "mask.dcm",
    "segmentation.png",
    "segmentation.json",
)
"""What is left of a mask that is made."""
GIVEN_PICTURE = "mask.png"  # What is left of a mask that is given
DISAGREEMENT = "mask_disagrees.png"
"""What is left of a mask that is given and calls its levels otherwise than the segmentation."""
MADE_FILES = (MASK, SEGMENTATION, PICTURE, FACTS)
PICTURE_SLICES = 14  # Slices that the study's network takes
MIN_AREA = 0.25
"""Share of a body's largest cross-section that such a slice must show, as in ``common.yaml``."""
_NOT_COMPARED: Json = {"agrees": None, "confidence": None, "largest_distance_mm": None}
UNSURE = ("spine_not_found", "level_uncertain", "level_missing", "weights_unreadable")
"""Refusals of the vertebra segmentation that say nothing against a mask that was given."""


class MaskSource:
    """Where one case's mask comes from.

    Called with the CT it gives the mask's path (:data:`monai_vfx.case.case.MaskMaker`); a mask that
    has to be made is made then. :meth:`review` follows once the case is accepted.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        mask: path of a label map or folder; ``auto``: the vertebra segmentation makes one;
            ``totalsegmentator``, ``spine-segment``: that tool does; None: there is none.
        folder: where a mask that is made and its picture are written. It is made if missing.
        series_uid: which series, where the image holds several.
        compare: whether the levels of a mask that the segmentation did not make are compared with
            what it finds.
        segmentation: whether a mask that is made of a DICOM series is written as DICOM SEG, too;
            that file holds the patient's name, as the series does.
        hide: takes the patient out of that file.
        weights: folder with the vertebra segmentation's weights; those of the package by default.
        picture: whether a mask that is given is drawn, too.

    Attributes:
        record: what ``prediction.json`` says of the mask; complete after :meth:`review`.
        warnings: what a reader of the result must know; likewise.
        settled: whether :meth:`review` has completed them.
    """

    def __init__(
        self,
        image: str | PathLike[str],
        mask: str | PathLike[str] | None,
        folder: str | PathLike[str],
        *,
        series_uid: str | None = None,
        compare: bool = True,
        segmentation: bool = True,
        hide: Deidentifier | None = None,
        weights: str | PathLike[str] | None = None,
        picture: bool = False,
    ) -> None:
        self.picture = picture
        self.image = Path(image)
        made = isinstance(mask, str) and mask in MADE_MASKS
        self.kind = str(mask) if made else "given"
        self.folder = Path(folder)
        self.series_uid = series_uid
        self.compare = compare
        self.segmentation = segmentation
        self.hide = hide
        self.weights = None if weights is None else Path(weights)
        self.path = None if mask is None else self.folder / MASK if made else Path(mask)
        self.warnings: tuple[CaseWarning, ...] = ()
        self.record = mask_record(self.kind)
        self.settled = False
        self._found: VertebraSegmentation | None = None

    def __call__(self, volume: Volume) -> Path:
        """Return the mask's path; make the mask if that is asked for.

        Raises:
            CaseRefused: ``mask_required`` without a mask; what the segmentation or the tool raises.
            MissingDependencyError: a tool is asked for and not installed.
        """
        if self.path is None:
            raise CaseRefused("mask_required", "no mask was given for this CT")
        if self.kind == "auto":
            self.keep(volume, self._run_segmentation(volume))
        elif self.kind != "given":
            from monai_vfx.vertebrae.sources.tools import run_tool

            self.record["tool"] = run_tool(self.kind, volume, self.path)
        return self.path

    def review(self, case: Case) -> Json:
        """Complete the record of an accepted case: draw a mask that was made, compare a given one.

        The record is returned as ``mask``, with its ``warnings``.

        Raises:
            CaseRefused: ``mask_disagrees``; what reading the CT raises.
        """
        if not self.record["levels"]:
            self.record["levels"] = mask_record(self.kind, case.masks.levels)["levels"]
        if self._found is not None:
            self._draw_made(case, self._found)
        elif self.compare:
            self._compare(case)
        if self.record["tool"] is not None:
            self._write_segmentation(case.volume, case.masks.labels, self.record["tool"])
            title = f"Vertebrae by {self.record['tool']}"
            self._draw(case, case.masks.labels, self.folder / PICTURE, title)
        elif self.kind == "given" and self.picture:
            self._draw_given(case)
        self.settled = True
        return {"mask": self.record, "warnings": [asdict(w) for w in self.warnings]}

    def keep(self, volume: Volume, found: VertebraSegmentation) -> None:
        """Write what the segmentation found in a CT: label map, DICOM SEG, and what it rests on."""
        self._found = found
        self.folder.mkdir(parents=True, exist_ok=True)
        write_label_map(self.folder / MASK, found.labels, volume.affine)
        document = segmentation_document(found)
        broken = violations(document, "segmentation")
        if broken:
            raise ValueError("segmentation breaks its schema: " + "; ".join(broken))
        write_json(self.folder / FACTS, document)
        self.warnings = (*found.warnings, *_count_warning(found))
        self._write_segmentation(volume, found.labels, "monai_vfx vertebra segmentation")
        self.record |= {
            "confidence": document["confidence"],
            "threshold": document["threshold"],
            "levels": [
                {"name": level["name"], "probability": level["probability"]}
                for level in document["levels"]
            ],
            "weights_sha256": document["weights_sha256"],
        }

    def _run_segmentation(self, volume: Volume) -> VertebraSegmentation:
        from monai_vfx.vertebrae.segmentation.locate import (
            segment,
        )  # torch, only where it is needed

        return segment(volume, weights=self.weights)

    def _write_segmentation(self, volume: Volume, labels: LabelVolume, made_by: str) -> None:
        if self.segmentation and volume.file_format == "dicom":
            from monai_vfx.outputs.hospital.dicom_headers import NotDerivable
            from monai_vfx.outputs.hospital.dicom_seg import write_segmentation

            target = self.folder / SEGMENTATION
            try:
                write_segmentation(
                    target, labels, self.image, self.series_uid, made_by, hide=self.hide
                )
            except NotDerivable as error:
                text = f"no mask.dcm: {error}"
                self.warnings = (*self.warnings, CaseWarning("segmentation_not_written", text))

    def _draw_made(self, case: Case, found: VertebraSegmentation) -> None:
        title = (
            f"Vertebra segmentation: T12-L4 are named correctly with probability "
            f"{found.confidence:.3f} (accepted from {found.threshold:.2f})"
        )
        notes = {level.name: f"{level.probability:.3f}" for level in found.levels}
        self._draw(case, found.labels, self.folder / PICTURE, title, notes)

    def _draw_given(self, case: Case) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        taken = "bodies as given" if case.masks.body_source == "given" else "bodies derived"
        agrees = (self.record["comparison"] or {}).get("agrees")
        checked = (
            "levels agree with the vertebra segmentation's" if agrees else "levels not compared"
        )
        title = f"The mask that was given (labels: {case.masks.scheme}): {taken}; {checked}"
        present = {
            VERTEBRAE[level]: np.argwhere(case.masks.labels == VERTEBRAE[level]).astype(float)
            for level in LEVELS
        }
        notes = {
            level: f"{body.height_mm:.0f} mm high, {body.volume_ml:.0f} ml"
            for level, body in measure_bodies(present, case.volume.affine).items()
        }
        notes |= dict.fromkeys(case.masks.cut, "cut")
        self._draw(case, case.masks.labels, self.folder / GIVEN_PICTURE, title, notes)

    def _compare(self, case: Case) -> None:
        try:
            found = self._run_segmentation(case.volume)
        except CaseRefused as refusal:
            if refusal.code not in UNSURE:
                raise
            self.record["comparison"] = dict(_NOT_COMPARED)
            self._not_compared(refusal.message)
            return
        self.compare_with(case, found)

    def compare_with(self, case: Case, found: VertebraSegmentation) -> None:
        """Set the levels of a mask against what the vertebra segmentation found in the same CT.

        Raises:
            CaseRefused: ``mask_disagrees``; the picture :data:`DISAGREEMENT` shows where.
        """
        comparison = _NOT_COMPARED | {"confidence": round(found.confidence, 4)}
        self.record["comparison"] = comparison
        self.warnings = (*self.warnings, *_count_warning(found))
        matches = match_levels(case.masks.labels, case.volume.affine, found.levels)
        differ = disagreement(matches, found)
        if differ is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            notes = {m.given: f"(segmentation: {m.found or 'no body here'})" for m in matches}
            title = f"{differ[0].upper()}{differ[1:]}"
            self._draw(case, case.masks.labels, self.folder / DISAGREEMENT, title, notes)
            raise CaseRefused("mask_disagrees", differ)
        distances = [m.distance_mm for m in matches if m.distance_mm is not None]
        if len(distances) < MIN_MATCHED:
            self._not_compared(
                f"the vertebra segmentation found a body at {len(distances)} of the mask's "
                f"{len(LEVELS)} levels"
            )
            return
        comparison |= {"agrees": True, "largest_distance_mm": max(distances)}

    def _not_compared(self, why: str) -> None:
        text = f"the levels of the mask could not be compared: {why}"
        self.warnings = (*self.warnings, CaseWarning("mask_not_compared", text))

    def _draw(
        self,
        case: Case,
        labels: LabelVolume,
        path: Path,
        title: str,
        notes: dict[str, str] | None = None,
    ) -> None:
        from monai_vfx.outputs.report.segmentation_preview import PreviewSlices, write_preview
        from monai_vfx.transforms.loading import locate_bodies
        from monai_vfx.transforms.slices import equidistant_indices

        bodies = locate_bodies(case, case.region(), MIN_AREA, include_discs=False)
        taken = equidistant_indices(len(bodies.indices), PICTURE_SLICES)
        slices = PreviewSlices(bodies.centres[taken], bodies.levels[taken])
        write_preview(case.volume, labels, path, title=title, notes=notes, slices=slices)


def _count_warning(found: VertebraSegmentation) -> tuple[CaseWarning, ...]:
    """Warn where the segmentation is sure of the names and all the same counts not five bodies."""
    count = found.evidence.get("lumbar_count")
    if count in (None, 5):
        return ()
    text = f"the segmentation sees {count} bodies between the last one with ribs and the sacrum"
    return (CaseWarning("lumbar_count", f"{text}; five are usual"),)
