"""One CT segmented, and many one after the other as the vertebra segmentation's bundle does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from monai_vfx.case.case import check_case, load_case
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, find_refusal
from monai_vfx.core.files import read_json, write_json
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.vertebrae.sources.source import FACTS, MADE_FILES, MASK, SEGMENTATION, MaskSource
from monai_vfx.vertebrae.sources.writing import refused_segmentation

_LOG = logging.getLogger(__name__)


def segment_case(
    image: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    series_uid: str | None = None,
    weights: str | PathLike[str] | None = None,
    deidentify: bool = False,
) -> Json:
    """Name the vertebrae of one CT and leave mask, picture and ``segmentation.json``.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        folder: for the files; what an earlier run left of them goes.
        series_uid: which series, where the image holds several.
        weights: folder with the vertebra segmentation's weights; those of the package by default.
        deidentify: leave the patient out of ``mask.dcm``.

    Returns:
        What ``segmentation.json`` holds (``data_schemas/segmentation.schema.json``); with
        ``refusal`` and without levels where the CT is refused.
    """
    folder = Path(folder)
    for name in MADE_FILES:
        (folder / name).unlink(missing_ok=True)
    hide = Deidentifier() if deidentify else None
    source = MaskSource(image, "auto", folder, series_uid=series_uid, weights=weights, hide=hide)
    try:
        case = load_case(image, source, series_uid=series_uid)
        check_case(case)
        source.review(case)
    except CaseRefused as refusal:
        (folder / MASK).unlink(missing_ok=True)  # what is refused must not look like a result
        (folder / SEGMENTATION).unlink(missing_ok=True)
        refused = refused_segmentation(refusal)
        refused = refused if hide is None else hide.document(refused)
        write_json(folder / FACTS, refused)
        return refused
    document: Json = read_json(folder / FACTS)
    document["warnings"] += [asdict(w) for w in case.warnings if w not in source.warnings]
    document = document if hide is None else hide.document(document)
    write_json(folder / FACTS, document)
    return document


class SegmentStep:
    """The step of MONAI's evaluator (``iteration_update``): segment each CT of a batch.

    Leaves ``CASE/segmentation.json`` in the output folder and, unless the case is refused, its mask
    and picture. Both networks' weights are those of the package by default.
    """

    def __init__(
        self, output_dir: str | PathLike[str], weights: str | PathLike[str] | None = None
    ) -> None:
        self.output_dir = Path(output_dir)
        self.weights = weights

    def __call__(self, engine: object, batch: Sequence[Mapping[str, Any]]) -> list[Json]:
        """Return the document of each case, with its name under ``case_id``.

        Cases have their name ``case_id``, the path of the ``image`` and, where this holds several,
        a ``series``.
        """
        return [{"case_id": item["case_id"], **self._one(item)} for item in batch]

    def _one(self, item: Mapping[str, Any]) -> Json:
        folder = self.output_dir / str(item["case_id"])
        try:
            return segment_case(
                item["image"], folder, series_uid=item.get("series"), weights=self.weights
            )
        except Exception as error:  # one bad case must not stop the others
            refusal = find_refusal(error)
            if refusal is None:
                _LOG.exception("case %s", item["case_id"])
                refusal = CaseRefused(
                    "internal", f"{type(error).__name__} in the vertebra segmentation"
                )
            document = refused_segmentation(refusal)
            write_json(folder / FACTS, document)
            return document


def as_list(items: list[Json]) -> list[Json]:
    """Return a batch of cases as it is (``collate_fn``): their CTs differ in size.

    >>> as_list([{"case_id": "a", "image": "a.nii.gz"}])
    [{'case_id': 'a', 'image': 'a.nii.gz'}]
    """
    return items
