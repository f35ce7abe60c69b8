"""Predict, explain and segment one CT or many."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from monai_vfx.cli.common import (
    CASE_ID,
    COMPARE,
    DEIDENTIFY,
    FILE,
    IMAGE,
    LABELS,
    MASK,
    OUT,
    SERIES,
    STORE,
    WORKERS,
    answer,
    answer_many,
    options,
    refuse,
    say,
    warn,
    writable,
)
from monai_vfx.core.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.io.dicomweb.address import PacsAddress

PREDICTION = options(
    *(IMAGE, MASK, COMPARE, LABELS, SERIES, CASE_ID),
    click.option(
        "--weights",
        required=True,
        multiple=True,
        type=FILE,
        help="Score with this checkpoint of vfx train. Repeat it for an ensemble, which gives the "
        "mean score.",
    ),
    click.option(
        "--clinical",
        type=FILE,
        help="Read clinical variables (age, sex …) from this table of one row, if the weights or "
        "the calibration need them.",
    ),
    click.option(
        "--calibration",
        type=FILE,
        help="Add the absolute five-year risk according to this calibration.json of vfx calibrate.",
    ),
    *(OUT, WORKERS),
    click.option(
        "--export",
        multiple=True,
        type=click.Choice(["dicom", "fhir"]),
        help="Also write DICOM objects (SEG, montage, heat map, report) or a FHIR RiskAssessment. "
        "Repeat for both.",
    ),
    *(DEIDENTIFY, STORE),
)


@click.command()
@PREDICTION
@click.option("--explain/--no-explain", default=False, help="Also write the GradCAM heat maps.")
def predict(**settings: Any) -> None:
    """Score one CT, or every CT of a manifest.

    IMAGE is a DICOM folder, zip, tar or file, a NIfTI or NRRD file, or a study or series in a PACS
    (dicomweb://HOST:PORT/PATH/studies/UID). Results are OUT/prediction.json and, with --explain,
    gradcam.nii.gz and gradcam.png.

    IMAGE can also be a MANIFEST.csv with the columns case_id and image, and optionally mask,
    series_uid, clinical, age, sex and scan_date. Results are then OUT/CASE/… and
    OUT/predictions.csv. A refused case does not stop the others; the exit status is 3 if any case
    was refused. Run the same command again to resume.
    """
    _predict(**settings)


@click.command()
@PREDICTION
@click.option(
    "--beside",
    type=FILE,
    help="Draw the heat map of this second checkpoint (for example bone only) beside the first, as "
    "in the paper's Figure 3.",
)
@click.option(
    "--layer",
    type=click.Choice(["layer1", "layer2", "layer3", "layer4"]),
    default="layer3",
    help="Explain this stage of the encoder by GradCAM.",
)
def explain(**settings: Any) -> None:
    """Show where the network looks, by GradCAM and attention.

    This is vfx predict with heat maps on the CT's own grid.
    """
    _predict(explain=True, **settings)


def _predict(
    image: Path | PacsAddress,
    out: Path,
    mask: str | Path,
    case_id: str,
    series_uid: str | None,
    clinical: Path | None,
    workers: int,
    **settings: Any,
) -> None:
    from monai_vfx.core.results import Prediction
    from monai_vfx.outputs.hospital.export import check_export
    from monai_vfx.workflows.jobs import PredictCases
    from monai_vfx.workflows.manifest import CaseInput
    from monai_vfx.workflows.many import attempt, run_manifest
    from monai_vfx.workflows.predictor import Predictor

    many = _is_manifest(image, mask, series_uid, case_id, clinical)
    made, given = (mask, None) if isinstance(mask, str) else ("auto", mask)
    if isinstance(image, Path) and not many:  # before the weights are loaded
        kinds = settings["export"] if settings["service"] is None else ("dicom",)
        check_export(kinds, image)
    writable(out)
    predictor = Predictor(mask=made, tell=say, **settings)
    job = PredictCases(predictor=predictor, out=out, one=not many)
    if many:
        answer_many(run_manifest(job, cast(Path, image), workers, say), out)
        return
    document = attempt(job, CaseInput(case_id, image, given, series_uid, clinical))
    answer(document)
    prediction = Prediction.from_json(document)
    if prediction.refusal is not None:
        if (out / "refused.json").exists():
            say(f"{out / 'prediction.json'} holds a result and stays; see {out / 'refused.json'}")
        raise CaseRefused.from_json(document["refusal"])
    warn(prediction.warnings)
    say(f"results: {out}")


@click.command()
@options(IMAGE, SERIES, OUT, WORKERS)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Use the weights of the vertebra segmentation in this folder instead of those supplied.",
)
@options(DEIDENTIFY, STORE)
def segment(
    image: Path | PacsAddress, series_uid: str | None, out: Path, workers: int, **settings: Any
) -> None:
    """Find and name the vertebrae of one CT or of a manifest.

    Results are OUT/mask.nii.gz, segmentation.png and segmentation.json, and for a DICOM series also
    mask.dcm (DICOM SEG). For a MANIFEST.csv they are in OUT/CASE, and OUT/segmentations.csv lists
    all cases. The other commands make the same mask when none is given; correct it where it is
    wrong, and pass it to them with --mask.
    """
    from monai_vfx.outputs.hospital.export import check_export
    from monai_vfx.workflows.jobs import SegmentCases
    from monai_vfx.workflows.manifest import CaseInput
    from monai_vfx.workflows.many import attempt, run_manifest

    many = _is_manifest(image, "auto", series_uid, "case", None)
    job = SegmentCases(out=out, one=not many, **settings)
    if isinstance(image, Path) and not many and settings["service"] is not None:
        check_export(("dicom",), image)  # before the folder is made
    writable(out)
    if many:
        answer_many(run_manifest(job, cast(Path, image), workers, say), out)
        return
    document = attempt(job, CaseInput("case", image, series_uid=series_uid))
    answer(document)
    warn(tuple(CaseWarning(**warning) for warning in document["warnings"]))
    if document["refusal"] is not None:
        refuse(CaseRefused.from_json(document["refusal"]))
    say(f"confidence {document['confidence']:.3f}; look at {out / 'segmentation.png'}")


def _is_manifest(
    image: Path | PacsAddress,
    mask: str | Path,
    series_uid: str | None,
    case_id: str,
    clinical: Path | None,
) -> bool:
    """Tell a manifest from a CT; what a manifest says itself cannot be given beside it."""
    if not isinstance(image, Path) or image.suffix.lower() != ".csv":
        return False
    if isinstance(mask, Path) or series_uid or case_id != "case" or clinical:
        raise SettingError(
            "--mask PATH, --series, --case-id and --clinical belong to one CT: a manifest has "
            "columns for them"
        )
    return True
