"""Run the whole study in one command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from monai_vfx.cli.common import FILE, FOLDER, MADE_MASKS_OPTION, writable


@click.command()
@click.argument("plan", metavar="STUDY.yaml", type=FILE)
@click.option("--out", required=True, type=FOLDER, help="Write the study to this folder.")
@click.option("--pdf", is_flag=True, help="Also write the report as PDF (needs WeasyPrint).")
@MADE_MASKS_OPTION
def study(plan: Path, out: Path, pdf: bool, made_masks: str) -> None:
    """Run the paper's whole study on your own cohorts.

    This covers participant flow, models, statistics and report. Run the same command again to
    resume an interrupted study; its results are those of an uninterrupted one.
    """
    from monai_vfx.workflows.study.run import run_study

    click.echo(json.dumps(run_study(plan, writable(out), pdf=pdf, made_masks=made_masks)))
