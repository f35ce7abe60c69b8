"""Clinical models and imaging baselines."""

from __future__ import annotations

import json
from pathlib import Path

import click

from monai_vfx.cli.common import FILE, FOLDER, SEED, say, writable


@click.command()
@click.argument("table", type=FILE)
@click.option("--out", required=True, type=FOLDER, help="Folder for scores, models and figures.")
@click.option("--external", type=FILE, help="Second table, only tested on.")
@click.option("--models", default="ABCD", help="Which of the models A to D.")
@click.option(
    "--folds", type=click.IntRange(2), help="Folds of a table without them.  [default: 10]"
)
@click.option("--seed", type=SEED, default=0, help="Of the folds.")
@click.option("--imaging", is_flag=True, help="Also measure bone and muscle on the CTs.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    help="Processes that measure CTs.",
)
def clinical(
    table: Path,
    out: Path,
    external: Path | None,
    models: str,
    folds: int | None,
    seed: int,
    imaging: bool,
    workers: int,
) -> None:
    """Cross-validate clinical models A-D on FILE.csv: XGBoost, and logistic regression beside it.

    Scores are probabilities in the sample they were trained on, not five-year risks.
    """
    writable(out)
    from monai_vfx.analysis.clinical.job import run_clinical

    document = run_clinical(
        table,
        out,
        models,
        folds,
        seed,
        external=external,
        imaging=imaging,
        workers=workers,
        progress=lambda what, done, of: say(f"{what}: {done} of {of}"),
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
    """Return score → [AUROC, lower, upper bound], null where there is none."""
    return {
        name: score["auroc"] and [score["auroc"], *score["auroc_ci"]]  # type: ignore[misc]
        for name, score in document["scores"].items()
    }
