"""One CT: check, predict, explain."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from monai_vfx.cli.common import (
    EXISTING,
    FOLDER,
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
from monai_vfx.errors import CaseRefused, CaseWarning, find_refusal


@click.command()
@case_options
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Result file."
)
@click.option(
    "--out", type=FOLDER, help="Folder for a mask that is made and the picture to check it by."
)
@exit_statuses
def check(
    image: Path,
    mask: str | Path,
    compare_mask: bool,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    json_file: Path | None,
    out: Path | None,
) -> None:
    """Pre-flight: would this CT be accepted, and if not, why.

    IMAGE is a DICOM folder, zip, tar, DICOMDIR or file, NIfTI or NRRD. Of several series the one
    that suits best is taken, and why each other one was not is said. Needs no weights; warnings
    that depend on a model's crop appear at prediction.
    """
    from monai_vfx.mask_sources import MaskSource
    from monai_vfx.preflight import check_report
    from monai_vfx.results import write_json

    with TemporaryDirectory(prefix="vfx_") as scratch:
        folder = Path(scratch) if out is None else writable(out)
        source = MaskSource(image, mask, folder, series_uid=series_uid, compare=compare_mask)
        report, refusal = check_report(
            image,
            source,
            case=case_name,
            series_uid=series_uid,
            scheme=scheme if source.kind == "given" else None,
            review=source.review,
        )
    if json_file is not None:
        writable(json_file.parent)
        write_json(json_file, report)
    click.echo(json.dumps(report))
    _tell_series(report["series"])
    warn(tuple(CaseWarning(**warning) for warning in report["warnings"]))
    if refusal is not None:
        refuse(refusal)
    say(f"accepted: {', '.join(report['levels'])} in {report['slices']} slices")


def _tell_series(series: dict[str, Any] | None) -> None:
    """Say which series was taken, why each other one was not, and what else there is."""
    if series is None or (len(series["candidates"]) < 2 and not series["other_files"]):
        return
    for one in series["candidates"]:
        number = "no number" if one["number"] is None else f"number {one['number']}"
        about = f"{number}, patient {one['patient']}, {one['slices']} slices"
        fate = "taken" if one["chosen"] else f"not taken ({one['lost_by'] or 'input refused'})"
        say(f"series {one['series_uid']} ({about}): {fate}")
    if series["other_files"]:
        counts = (f"{count} {kind}" for kind, count in series["other_files"].items())
        say(f"other files: {', '.join(counts)}")


@click.command()
@case_options
@click.option(
    "--weights",
    required=True,
    multiple=True,
    type=WEIGHTS,
    help="Checkpoint of vfx train. Repeat for an ensemble: the score is the mean.",
)
@click.option(
    "--clinical",
    type=TABLE,
    help="Table of one row (age, sex …), where the weights or the calibration need it.",
)
@click.option(
    "--calibration",
    type=TABLE,
    help="calibration.json of vfx calibrate: adds the absolute five-year risk.",
)
@click.option("--out", required=True, type=FOLDER, help="Folder for the results.")
@click.option("--explain/--no-explain", default=False, help="Also write the GradCAM heat map.")
@exit_statuses
def predict(
    image: Path,
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
        explain=explain,
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
@exit_statuses
def explain(
    image: Path,
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
        explain=True,
        beside=beside,
        layer=layer,
    )


@click.command()
@click.argument("image", type=EXISTING)
@click.option("--series", "series_uid", help="SeriesInstanceUID, if there are several.")
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with other weights of the localiser.  [default: those of the package]",
)
@click.option("--out", required=True, type=FOLDER, help="Folder for mask, picture and facts.")
@exit_statuses
def localise(image: Path, series_uid: str | None, weights: Path | None, out: Path) -> None:
    """Find and name the vertebrae of a CT: OUT/mask.nii.gz, localiser.png, localisation.json.

    Of a DICOM series also mask.dcm (DICOM SEG). This is the mask that the other commands make by
    themselves; correct it where it is wrong, and give it to them with --mask.
    """
    from monai_vfx.mask_sources.source import localise_case

    document = localise_case(image, writable(out), series_uid=series_uid, weights=weights)
    answer(document)
    warn(tuple(CaseWarning(**warning) for warning in document["warnings"]))
    if document["refusal"] is not None:
        refuse(CaseRefused(**document["refusal"]))
    say(f"confidence {document['confidence']:.3f}; look at {out / 'localiser.png'}")


def _run_case(
    image: Path,
    mask: str | Path,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    *,
    out: Path,
    **settings: Any,
) -> None:
    """Run the cheap checks, then the bundle; leave a record of a refusal too."""
    from monai_vfx.preflight import check_image, load_case
    from monai_vfx.results import Prediction, write_json
    from monai_vfx.weights import read_sidecar

    writable(out)
    try:
        for weights in filter(None, (*settings["weights"], settings.get("beside"))):
            read_sidecar(weights)
        if isinstance(mask, Path):
            load_case(image, mask, series_uid=series_uid, scheme=scheme)
        else:
            check_image(image, series_uid)
        from monai_vfx.workflow import predict as run  # MONAI, only for what may pass

        prediction = run(
            image,
            mask,
            out=out,
            case=case_name,
            series_uid=series_uid,
            scheme=scheme,
            **settings,
        )
    except Exception as error:
        refusal = find_refusal(error)
        if refusal is None:
            raise
        document = Prediction.refused(case_name, refusal).to_json()
        write_json(_place_for_refusal(out), document)
        answer(document)
        raise
    click.echo(json.dumps(prediction.to_json()))
    warn(prediction.warnings)
    say(f"results: {out}")


def _place_for_refusal(out: Path) -> Path:
    """Return where a refusal is recorded: never over an earlier result."""
    earlier = out / "prediction.json"
    if earlier.exists() and json.loads(earlier.read_text(encoding="utf-8"))["status"] == "ok":
        say(f"{earlier} holds an earlier result and stays; the refusal is in refused.json")
        return out / "refused.json"
    return earlier
