"""Fit clinical models and imaging baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from monai_vfx.cli.common import FILE, FOLDER, SEED, say, writable


@click.command()
@click.argument("table", type=FILE)
@click.option(
    "--out", required=True, type=FOLDER, help="Write scores, models and figures to this folder."
)
@click.option("--external", type=FILE, help="Only test on this second table.")
@click.option("--models", default="ABCD", help="Fit these of the models A to D.")
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Draw this number of folds for a table without a column fold.  [default: 10]",
)
@click.option("--seed", type=SEED, default=0, help="Draw the folds with this seed.")
@click.option("--imaging", is_flag=True, help="Also measure bone and muscle on the CTs.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    help="Measure the CTs in this number of processes.",
)
def clinical(table: Path, out: Path, **settings: Any) -> None:
    """Cross-validate the clinical models A to D.

    TABLE is a patient table. Each model is fitted by XGBoost and by logistic regression. Scores are
    probabilities in the sample that the model was trained on, not five-year risks.
    """
    writable(out)
    from monai_vfx.analysis.clinical.job import run_clinical

    document = run_clinical(
        table, out, progress=lambda what, done, of: say(f"{what}: {done} of {of}"), **settings
    )
    line = {key: document[key] for key in ("n", "events", "folds", "simulated", "images_refused")}
    line["auroc"] = _aurocs(document)
    line["external"] = document["external"] and {
        "n": document["external"]["n"],
        "events": document["external"]["events"],
        "auroc": _aurocs(document["external"]),
    }
    click.echo(json.dumps(line))


def _aurocs(document: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
    """Return score → [AUROC, lower bound, upper bound], or null if it has no AUROC."""
    return {
        name: score["auroc"] and [score["auroc"], *score["auroc_ci"]]  # type: ignore[misc]
        for name, score in document["scores"].items()
    }
