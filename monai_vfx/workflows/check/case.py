"""One case through the whole pre-flight: header, mask, voxels, facts."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from monai_vfx.analysis.measures.measured import measured_facts
from monai_vfx.case.case import Case, check_report
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom.facts import Expected
from monai_vfx.vertebrae.sources import MaskSource
from monai_vfx.vertebrae.sources.source import MASK, SEGMENTATION


def check_one(
    image: str | PathLike[str],
    mask: str | PathLike[str] | None,
    folder: str | PathLike[str],
    *,
    case_id: str,
    series_uid: str | None = None,
    scheme: str | None = None,
    compare: bool = True,
    segmentation: bool = True,
    picture: bool = False,
    expected: Expected | None = None,
) -> tuple[Json, CaseRefused | None]:
    """Check one case.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        mask: label map or folder; or who makes it, in ``folder``
            (:data:`monai_vfx.core.anatomy.MADE_MASKS`).
        folder: for a mask that is made and its picture.
        case_id: the caller's name for the case.
        series_uid: which series, where the image holds several.
        scheme: label scheme of a mask that is given.
        compare: whether the levels of a given mask are compared with the vertebra segmentation's.
        segmentation: whether a mask that is made of a DICOM series is written as DICOM SEG, too,
            which holds the patient's name.
        picture: whether a mask that is given is drawn, too.
        expected: what a table says of the case.

    Returns:
        The report (``data_schemas/check.schema.json``), and the refusal if there is one. A mask
        that was made for a refused case is removed again; its picture stays.
    """
    source = MaskSource(
        image,
        mask,
        folder,
        series_uid=series_uid,
        compare=compare,
        segmentation=segmentation,
        picture=picture,
    )

    def review(loaded: Case) -> Json:
        reviewed = source.review(loaded)
        path = source.path
        facts, warnings = measured_facts(loaded, Path(path)) if path is not None else ({}, ())
        found = [{"code": w.code, "message": w.message} for w in warnings]
        return {**reviewed, "warnings": reviewed["warnings"] + found, "facts": facts}

    report, refusal = check_report(
        image,
        source,
        case_id=case_id,
        series_uid=series_uid,
        scheme=scheme if source.kind == "given" else None,
        review=review,
        expected=expected,
    )
    if refusal is not None and source.kind != "given":
        for name in (MASK, SEGMENTATION):  # what is refused must not look like a result
            (source.folder / name).unlink(missing_ok=True)
    return report, refusal
