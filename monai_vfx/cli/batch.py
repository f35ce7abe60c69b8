"""Many cases in one command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from monai_vfx.cli.common import (
    CALIBRATION_OPTION,
    COMPARE_OPTION,
    EXPORT_OPTION,
    FOLDER,
    MADE_MASKS_OPTION,
    MEMBERS_OPTION,
    REFUSED,
    STORE_OPTION,
    TABLE,
    exit_statuses,
    say,
    writable,
)
from monai_vfx.io.dicomweb.address import PacsAddress


@click.command()
@click.argument("manifest", metavar="MANIFEST.csv", type=TABLE)
@MEMBERS_OPTION
@CALIBRATION_OPTION
@click.option("--out", required=True, type=FOLDER, help="Folder for the results.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that work at once; each holds the networks in memory.",
)
@click.option("--explain/--no-explain", default=False, help="Also write the GradCAM heat maps.")
@MADE_MASKS_OPTION
@COMPARE_OPTION
@EXPORT_OPTION
@STORE_OPTION
@exit_statuses
def batch(
    manifest: Path,
    weights: tuple[Path, ...],
    calibration: Path | None,
    out: Path,
    workers: int,
    explain: bool,
    made_masks: str,
    compare_mask: bool,
    export: tuple[str, ...],
    service: PacsAddress | None,
) -> None:
    """Score many CTs: OUT/CASE/prediction.json each, OUT/predictions.csv over all.

    The manifest's columns are case and image (a path, or dicomweb://…/studies/UID), and where
    wanted mask, series_uid and clinical (a one-row table). A case that is refused stops no other;
    the exit status is 3 if there was one. Run the same command again to go on after a stop, or to
    try the refused cases once more.
    """
    from monai_vfx.workflows.many import predict_batch

    counts = predict_batch(
        manifest,
        weights=weights,
        out=writable(out),
        workers=workers,
        tell=say,
        calibration=calibration,
        explain=explain,
        mask=made_masks,
        compare_mask=compare_mask,
        export=export,
        service=service,
    )
    click.echo(json.dumps(counts))
    if counts["refused"]:
        say(f"{counts['refused']} of {counts['cases']} cases are refused: {out / 'refused.jsonl'}")
        sys.exit(REFUSED)
