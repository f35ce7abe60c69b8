"""Simulate a hospital, and run the whole job on one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from monai_vfx.cli.common import FOLDER, SEED, writable


@click.command()
@click.argument("out", type=FOLDER)
@click.option(
    "--patients",
    type=click.IntRange(2),
    default=20,
    help="Simulate this number of patients.",
)
@click.option("--seed", type=SEED, default=0, help="Draw the patients with this seed.")
@click.option(
    "--hospital",
    type=click.Choice(["development", "external", "registry"]),
    default="development",
    help="Simulate matched cases and controls, an unmatched hospital, or one before any selection.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["dicom", "nifti"]),
    default="dicom",
    help="Write the CTs in this format.",
)
@click.option(
    "--field-of-view",
    type=click.Choice(["full", "quick"]),
    default="full",
    help="Simulate the whole abdomen, or only the neighbourhood of T12-L4 on a coarse grid.",
)
@click.option(
    "--signal",
    type=click.Choice(["paper", "strong", "no_muscle", "none"]),
    default="paper",
    help="Set how strongly visible bone and muscle quality determine the risk of a fracture.",
)
@click.option(
    "--attainable",
    is_flag=True,
    help="Add the attainable AUROC of every class of models to hospital.json (half a minute).",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Use this number of processes; all cores by default."
)
@click.option(
    "--registry",
    "table_only",
    is_flag=True,
    help="Write only a table, without images: 32,435 CTs with the counts of the study's flow.",
)
@click.pass_context
def simulate(context: click.Context, /, out: Path, table_only: bool, **settings: Any) -> None:
    """Write a hospital of simulated patients with known truth.

    The folder OUT then holds the CTs, their masks and cohort.csv.
    """
    if table_only:
        _check_registry(context)
    if (writable(out) / "cohort.csv").exists():
        raise click.UsageError(f"{out} holds a hospital already: choose another folder")
    table = _write_registry(out, settings["seed"]) if table_only else _simulate(out, **settings)
    click.echo(json.dumps({"cohort": str(table)}))


def _check_registry(context: click.Context) -> None:
    """Refuse options that only images have."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in ("out", "seed", "table_only")
        and context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"--registry has no images: leave out {', '.join(given)}")


def _write_registry(out: Path, seed: int) -> Path:
    from monai_vfx.analysis.cohort.patients_csv import write_patients
    from monai_vfx.simulation.study_flow import draw_study_flow

    write_patients(draw_study_flow(seed), out / "cohort.csv")
    return out / "cohort.csv"


def _simulate(out: Path, patients: int, **settings: Any) -> Path:
    from tqdm import tqdm

    from monai_vfx.simulation.hospital import simulate_hospital

    with tqdm(total=patients, desc="patients", file=sys.stderr) as bar:

        def advance(done: int, _: int) -> None:
            bar.update(done - bar.n)

        return simulate_hospital(out, patients, progress=advance, **settings)


@click.command()
@click.option(
    "--out",
    default=Path("demo_output"),
    type=FOLDER,
    help="Write the results to this folder.",
)
@click.option("--seed", type=SEED, default=0, help="Simulate and train with this seed.")
def demo(out: Path, seed: int) -> None:
    """Run the whole job on a simulated hospital, on a CPU.

    The steps are to train, test, predict, explain and report.
    """
    from monai_vfx.workflows.demo import run_demo

    run_demo(writable(out), seed=seed)
