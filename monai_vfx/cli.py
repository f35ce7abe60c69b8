"""The command ``vfx``: one click command a step.

Nothing heavy is imported before a command needs it: help and refusals answer at once. Results go
to files and one JSON line a case to stdout; progress and messages for people go to stderr.

Exit status: 0 done; 2 wrong use; 3 a case was refused; 1 anything else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NoReturn, ParamSpec

import click

from monai_vfx.errors import CaseRefused, CaseWarning, SettingError, find_cause, find_refusal

P = ParamSpec("P")

WEIGHTS = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
REFUSED = 3

SCHEMES = click.Choice(["verse", "totalsegmentator_v1", "totalsegmentator_v2"])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="monai_vfx")
def main() -> None:
    """Five-year vertebral fracture risk (T12-L4) from a routine abdominal CT.

    Research software, not a medical device. No clinical weights exist: what is trained on
    simulated patients says so in every output.
    """


def _say(message: str) -> None:
    click.echo(message, err=True)


def _warn(warnings: tuple[CaseWarning, ...]) -> None:
    for warning in warnings:
        _say(f"warning {warning.code}: {warning.message}")


def _refuse(refusal: CaseRefused) -> NoReturn:
    _say(f"refused {refusal.code}: {refusal.message}. {refusal.remedy}")
    sys.exit(REFUSED)


def _exit_statuses(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a refusal into exit status 3 and wrong use into 2, also where MONAI wrapped them."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except Exception as error:
            refusal, setting = find_refusal(error), find_cause(error, SettingError)
            if refusal is not None and refusal.code == "internal":
                raise click.ClickException(str(refusal)) from error
            if refusal is not None:
                _refuse(refusal)
            if setting is not None:
                raise click.UsageError(str(setting)) from error
            raise

    return wrapped


def _case_name(_: click.Context, __: click.Parameter, value: str) -> str:
    from monai_vfx.results import check_case_name

    try:
        return check_case_name(value)
    except SettingError as error:
        raise click.BadParameter(str(error)) from error


def _writable(folder: Path) -> Path:
    """Make a folder for results; refuse one that cannot be written before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.UsageError(f"{folder} cannot be written to")
    return folder


def _case_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where a case lies."""
    for option in reversed(
        (
            click.argument("image", type=EXISTING),
            click.option(
                "--mask",
                type=EXISTING,
                help="Label map (NIfTI, NRRD) or folder of per-structure files.",
            ),
            click.option(
                "--labels",
                "scheme",
                type=SCHEMES,
                help="Label scheme of the mask; by default from its names, else from its ids.",
            ),
            click.option("--series", "series_uid", help="SeriesInstanceUID, if there are several."),
            click.option(
                "--case",
                "case_name",
                default="case",
                show_default=True,
                callback=_case_name,
                help="Name of the case in the results; the patient's identity is never used.",
            ),
        )
    ):
        command = option(command)
    return command


@main.command()
@_case_options
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Result file."
)
@_exit_statuses
def check(
    image: Path,
    mask: Path | None,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    json_file: Path | None,
) -> None:
    """Pre-flight: would this CT be accepted, and if not, why.

    IMAGE is a DICOM folder, zip or file, NIfTI or NRRD. Needs no weights; warnings that depend on
    a model's crop appear at prediction.
    """
    from monai_vfx.preflight import check_report
    from monai_vfx.results import write_json

    report, refusal = check_report(
        image, mask, case=case_name, series_uid=series_uid, scheme=scheme
    )
    if json_file is not None:
        _writable(json_file.parent)
        write_json(json_file, report)
    click.echo(json.dumps(report))
    _warn(tuple(CaseWarning(**warning) for warning in report["warnings"]))
    if refusal is not None:
        _refuse(refusal)
    _say(f"accepted: {', '.join(report['levels'])} in {report['slices']} slices")


@main.command()
@_case_options
@click.option("--weights", required=True, type=WEIGHTS, help="Checkpoint of vfx train.")
@click.option("--out", required=True, type=FOLDER, help="Folder for the results.")
@click.option("--explain/--no-explain", default=False, help="Also write the GradCAM heat map.")
@_exit_statuses
def predict(
    image: Path,
    mask: Path | None,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    weights: Path,
    out: Path,
    explain: bool,
) -> None:
    """Score one CT: OUT/prediction.json, with --explain also gradcam.nii.gz and gradcam.png."""
    _run_case(image, mask, scheme, series_uid, case_name, weights=weights, out=out, explain=explain)


@main.command()
@_case_options
@click.option("--weights", required=True, type=WEIGHTS, help="Checkpoint of vfx train.")
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
@_exit_statuses
def explain(
    image: Path,
    mask: Path | None,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    weights: Path,
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
        weights=weights,
        out=out,
        explain=True,
        beside=beside,
        layer=layer,
    )


def _run_case(
    image: Path,
    mask: Path | None,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    *,
    out: Path,
    **settings: Any,
) -> None:
    """Run the cheap checks, then the bundle; leave a record of a refusal too."""
    from monai_vfx.preflight import load_case
    from monai_vfx.results import Prediction, write_json
    from monai_vfx.weights import read_sidecar

    _writable(out)
    try:
        for weights in filter(None, (settings["weights"], settings.get("beside"))):
            read_sidecar(weights)
        load_case(image, mask, series_uid=series_uid, scheme=scheme)
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
        click.echo(json.dumps(document))
        raise
    click.echo(json.dumps(prediction.to_json()))
    _warn(prediction.warnings)
    _say(f"results: {out}")


def _place_for_refusal(out: Path) -> Path:
    """Return where a refusal is recorded: never over an earlier result."""
    earlier = out / "prediction.json"
    if earlier.exists() and json.loads(earlier.read_text(encoding="utf-8"))["status"] == "ok":
        _say(f"{earlier} holds an earlier result and stays; the refusal is in refused.json")
        return out / "refused.json"
    return earlier


@main.command()
@click.argument("cohort", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=FOLDER, help="Folder for checkpoints and curves.")
@click.option("--fold", type=click.IntRange(0), help="Train this fold only (from 0).")
@click.option("--folds", type=click.IntRange(2), help="Number of folds.  [default: 10]")
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    help="Settings laid over the paper's: bone_only, cpu_small or a YAML file. Repeatable.",
)
@click.option("--epochs", type=click.IntRange(1), help="Number of epochs.")
@click.option(
    "--pretrained",
    help="First weights of the encoder: imagenet (a download), none, or a local file.",
)
@click.option("--seed", type=int, help="Of folds, weights and draws.  [default: 0]")
@_exit_statuses
def train(
    cohort: Path,
    out: Path,
    fold: int | None,
    folds: int | None,
    overlays: tuple[str, ...],
    epochs: int | None,
    pretrained: str | None,
    seed: int | None,
) -> None:
    """Train on your own cohort: COHORT.csv with case, image, mask and fracture (0 or 1).

    A run that was stopped goes on where its last checkpoint left it.
    """
    from monai_vfx.cohort import read_cohort

    read_cohort(cohort)  # faults are named before anything heavy is loaded
    _writable(out)
    from monai_vfx.workflow import default_folds
    from monai_vfx.workflow import train as run

    folds = folds or default_folds(overlays)
    settings: dict[str, Any] = {}
    if pretrained is not None:
        settings["pretrained"] = None if pretrained == "none" else pretrained
    for number in range(folds) if fold is None else (fold,):
        trained = run(
            cohort,
            out=out if fold is not None else out / f"fold_{number}",
            fold=number,
            folds=folds,
            overlays=overlays,
            epochs=epochs,
            seed=seed,
            **settings,
        )
        click.echo(json.dumps({"fold": number, **trained}))


@main.command()
@click.argument("out", type=FOLDER)
@click.option("--patients", type=click.IntRange(2), default=20, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--hospital",
    type=click.Choice(["development", "external"]),
    default="development",
    show_default=True,
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["dicom", "nifti"]),
    default="dicom",
    show_default=True,
)
@click.option(
    "--field-of-view",
    type=click.Choice(["full", "quick"]),
    default="full",
    show_default=True,
    help="Whole abdomen, or only the neighbourhood of T12-L4 on a coarse grid.",
)
@click.option(
    "--signal",
    type=click.Choice(["paper", "strong"]),
    default="paper",
    show_default=True,
    help="How strongly bone and muscle drive fracture.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes; all cores by default.")
def simulate(
    out: Path,
    patients: int,
    seed: int,
    hospital: Literal["development", "external"],
    file_format: Literal["dicom", "nifti"],
    field_of_view: Literal["full", "quick"],
    signal: Literal["paper", "strong"],
    workers: int | None,
) -> None:
    """Write a hospital of simulated patients with known truth: CT, masks, cohort.csv."""
    from tqdm import tqdm

    from monai_vfx.simulation import simulate_hospital

    if (_writable(out) / "cohort.csv").exists():
        raise click.UsageError(f"{out} holds a hospital already: choose another folder")
    with tqdm(total=patients, desc="patients", file=sys.stderr) as bar:

        def advance(done: int, _: int) -> None:
            bar.update(done - bar.n)

        table = simulate_hospital(
            out,
            patients,
            seed=seed,
            hospital=hospital,
            file_format=file_format,
            field_of_view=field_of_view,
            signal=signal,
            workers=workers,
            progress=advance,
        )
    click.echo(json.dumps({"cohort": str(table)}))


@main.command()
@click.option("--out", default=Path("demo_output"), show_default=True, type=FOLDER)
@click.option("--seed", type=int, default=0, show_default=True)
@_exit_statuses
def demo(out: Path, seed: int) -> None:
    """Do the whole job on a simulated hospital, on a CPU: train, test, predict, explain, report."""
    from monai_vfx.demo import run_demo

    run_demo(_writable(out), seed=seed)
