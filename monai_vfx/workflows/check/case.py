"""One case through the whole check: header, mask, voxels, facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_vfx.analysis.measures.measured import measured_facts
from monai_vfx.case.case import Case, check_report
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicomweb.transfer import local_image
from monai_vfx.vertebrae.sources.source import MASK, SEGMENTATION, MaskSource
from monai_vfx.workflows.manifest import CaseInput


def check_one(
    row: CaseInput,
    folder: Path,
    *,
    mask: str | None = "auto",
    scheme: str | None = None,
    compare_mask: bool = True,
    segmentation: bool = True,
    picture: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Json, CaseRefused | None]:
    """Check one case.

    Args:
        row: the case.
        folder: for a mask that is made and its preview.
        mask: who makes the mask of a row without one (:data:`monai_vfx.core.anatomy.MADE_MASKS`).
        scheme: label scheme of a mask that is given.
        compare_mask: whether the levels of a given mask are compared with the vertebra
            segmentation's.
        segmentation: whether a mask that is made of a DICOM series is written as DICOM SEG, too,
            which holds the patient's name.
        picture: whether a mask that is given is drawn, too.
        tell: called with a line about what was retrieved from a PACS.

    Returns:
        The report (``data_schemas/check.schema.json``), and the refusal if there is one. A mask
        that was made for a refused case is removed again; its preview stays.
    """
    with local_image(row.image, row.series_uid, tell) as image:
        source = MaskSource(
            image,
            mask if row.mask is None else row.mask,
            folder,
            series_uid=row.series_uid,
            compare=compare_mask,
            segmentation=segmentation,
            picture=picture,
        )

        def review(case: Case) -> Json:
            reviewed = source.review(case)
            path = source.path
            facts, warnings = measured_facts(case, Path(path)) if path is not None else ({}, ())
            found = [{"code": w.code, "message": w.message} for w in warnings]
            return {**reviewed, "warnings": reviewed["warnings"] + found, "facts": facts}

        report, refusal = check_report(
            image,
            source,
            case_id=row.case_id,
            series_uid=row.series_uid,
            scheme=scheme if source.kind == "given" else None,
            review=review,
            expected=row.expected,
        )
    if refusal is not None and source.kind != "given":
        for name in (MASK, SEGMENTATION):  # what is refused must not look like a result
            (source.folder / name).unlink(missing_ok=True)
    return report, refusal
