"""The whole study in one command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from monai_vfx.cli.common import FILE, FOLDER, MADE_MASKS_OPTION, writable


@click.command()
@click.argument("plan", metavar="STUDY.yaml", type=FILE)
@click.option("--out", required=True, type=FOLDER, help="Folder of the study.")
@click.option("--pdf", is_flag=True, help="Also write the report as PDF (needs WeasyPrint).")
@MADE_MASKS_OPTION
def study(plan: Path, out: Path, pdf: bool, made_masks: str) -> None:
    """Run everything in the paper on your cohorts: flow, models, statistics, report.

    A study that was stopped resumes, and ends in the same numbers.
    """
    from monai_vfx.workflows.study.run import run_study

    click.echo(json.dumps(run_study(plan, writable(out), pdf=pdf, made_masks=made_masks)))
