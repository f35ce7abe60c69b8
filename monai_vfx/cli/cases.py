"""One CT: predict, explain, segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from monai_vfx.cli.common import (
    CALIBRATION_OPTION,
    DEIDENTIFY_OPTION,
    EXPORT_OPTION,
    FOLDER,
    IMAGE_ARGUMENT,
    MEMBERS_OPTION,
    SERIES_OPTION,
    STORE_OPTION,
    TABLE,
    WEIGHTS,
    answer,
    case_options,
    exit_statuses,
    refuse,
    say,
    warn,
    writable,
)
from monai_vfx.core.errors import CaseRefused, CaseWarning, SettingError, find_refusal
from monai_vfx.io.dicomweb import PacsAddress, local_image, store


@click.command()
@case_options
@MEMBERS_OPTION
@click.option(
    "--clinical",
    type=TABLE,
    help="Table of one row (age, sex …), where the weights or the calibration need it.",
)
@CALIBRATION_OPTION
@click.option("--out", required=True, type=FOLDER, help="Folder for the results.")
@click.option("--explain/--no-explain", default=False, help="Also write the GradCAM heat map.")
@EXPORT_OPTION
@DEIDENTIFY_OPTION
@STORE_OPTION
@exit_statuses
def predict(
    image: Path | PacsAddress,
    mask: str | Path,
    compare_mask: bool,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    weights: tuple[Path, ...],
    clinical: Path | None,
    calibration: Path | None,
    out: Path,
    explain: bool,
    export: tuple[str, ...],
    deidentify: bool,
    service: PacsAddress | None,
) -> None:
    """Score one CT: OUT/prediction.json, with --explain also gradcam.nii.gz and gradcam.png."""
    _run_case(
        image,
        mask,
        scheme,
        series_uid,
        case_name,
        compare_mask=compare_mask,
        weights=weights,
        clinical=clinical,
        calibration=calibration,
        out=out,
        service=service,
        explain=explain,
        export=export,
        deidentify=deidentify,
    )


@click.command()
@case_options
@click.option("--weights", required=True, type=WEIGHTS, help="Checkpoint of vfx train.")
@click.option("--clinical", type=TABLE, help="Table of one row, where the weights need it.")
@click.option(
    "--beside",
    type=WEIGHTS,
    help="A second checkpoint (bone only, say) drawn beside the first, as in the paper's Figure 3.",
)
@click.option(
    "--layer",
    type=click.Choice(["layer1", "layer2", "layer3", "layer4"]),
    default="layer3",
    show_default=True,
    help="Encoder stage for GradCAM.",
)
@click.option("--out", required=True, type=FOLDER, help="Folder for the results.")
@EXPORT_OPTION
@DEIDENTIFY_OPTION
@STORE_OPTION
@exit_statuses
def explain(
    image: Path | PacsAddress,
    mask: str | Path,
    compare_mask: bool,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    weights: Path,
    clinical: Path | None,
    beside: Path | None,
    layer: str,
    out: Path,
    export: tuple[str, ...],
    deidentify: bool,
    service: PacsAddress | None,
) -> None:
    """Show where the network looks: GradCAM and attention on the CT's grid, and as pictures."""
    _run_case(
        image,
        mask,
        scheme,
        series_uid,
        case_name,
        compare_mask=compare_mask,
        weights=(weights,),
        clinical=clinical,
        out=out,
        service=service,
        explain=True,
        beside=beside,
        layer=layer,
        export=export,
        deidentify=deidentify,
    )


@click.command()
@IMAGE_ARGUMENT
@SERIES_OPTION
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with other weights of the vertebra segmentation.  [default: those of the package]",
)
@click.option("--out", required=True, type=FOLDER, help="Folder for mask, picture and facts.")
@DEIDENTIFY_OPTION
@STORE_OPTION
@exit_statuses
def segment(
    image: Path | PacsAddress,
    series_uid: str | None,
    weights: Path | None,
    out: Path,
    deidentify: bool,
    service: PacsAddress | None,
) -> None:
    """Find and name the vertebrae of a CT: OUT/mask.nii.gz, segmentation.png, segmentation.json.

    Of a DICOM series also mask.dcm (DICOM SEG). This is the mask that the other commands make by
    themselves; correct it where it is wrong, and give it to them with --mask.
    """
    from monai_vfx.vertebrae.sources.source import SEGMENTATION, segment_case

    _exports(image, (), service, deidentify)
    writable(out)
    with local_image(image, series_uid, say) as local:
        document = segment_case(
            local, out, series_uid=series_uid, weights=weights, deidentify=deidentify
        )
    answer(document)
    warn(tuple(CaseWarning(**warning) for warning in document["warnings"]))
    if document["refusal"] is not None:
        refuse(CaseRefused(**document["refusal"]))
    _store(out, service, (SEGMENTATION,))
    say(f"confidence {document['confidence']:.3f}; look at {out / 'segmentation.png'}")


def _run_case(
    image: Path | PacsAddress,
    mask: str | Path,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    *,
    out: Path,
    service: PacsAddress | None,
    **settings: Any,
) -> None:
    """Run the cheap checks, then the bundle; leave a record of a refusal too."""
    from monai_vfx.case.case import check_image, load_case
    from monai_vfx.core.files import write_json
    from monai_vfx.core.results import Prediction, place_for_refusal
    from monai_vfx.model.checkpoint import read_sidecar
    from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
    from monai_vfx.outputs.hospital.export import OBJECTS

    settings["export"] = _exports(image, settings["export"], service, settings["deidentify"])
    writable(out)
    try:
        for weights in filter(None, (*settings["weights"], settings.get("beside"))):
            read_sidecar(weights)
        with local_image(image, series_uid, say) as local:
            if isinstance(mask, Path):
                load_case(local, mask, series_uid=series_uid, scheme=scheme)
            else:
                check_image(local, series_uid)
            from monai_vfx.workflows import predict as run  # MONAI, only for what may pass

            prediction = run(
                local,
                mask,
                out=out,
                case_id=case_name,
                series_uid=series_uid,
                scheme=scheme,
                **settings,
            )
        _store(out, service, OBJECTS)
    except Exception as error:
        refusal = find_refusal(error)
        if refusal is None:
            raise
        document = Prediction.refused(case_name, refusal).to_json()
        if settings["deidentify"]:
            document = Deidentifier().document(document)
        place = place_for_refusal(out)
        write_json(place, document)
        if place.name != "prediction.json":
            say(f"{out / 'prediction.json'} holds a result and stays; the refusal is in {place}")
        answer(document)
        raise
    click.echo(json.dumps(prediction.to_json()))
    warn(prediction.warnings)
    say(f"results: {out}")


def _exports(
    image: Path | PacsAddress,
    kinds: tuple[str, ...],
    service: PacsAddress | None,
    deidentify: bool,
) -> tuple[str, ...]:
    """Return what is to be written: what is asked for, and what a PACS is to hold.

    Raises:
        SettingError: that cannot be written of this image, or must not go into a PACS.
    """
    from monai_vfx.outputs.hospital.export import check_export

    if service is not None and deidentify:
        raise SettingError(
            "--store puts results into the patient's study and --deidentify takes them out: "
            "leave one out"
        )
    if service is not None:
        kinds = tuple(dict.fromkeys((*kinds, "dicom")))
    if isinstance(image, Path):
        check_export(kinds, image)
    return kinds


def _store(out: Path, service: PacsAddress | None, names: tuple[str, ...]) -> None:
    """Store the DICOM objects of the results, where that is asked for."""
    if service is None:
        return
    files = [out / name for name in names if (out / name).exists()]
    store(files, service)
    say(f"{len(files)} objects stored at {service.host}")
