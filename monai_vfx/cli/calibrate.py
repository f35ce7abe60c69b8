"""From scores to absolute five-year risks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from monai_vfx.cli.common import FILE, FOLDER, say, writable

if TYPE_CHECKING:
    from monai_vfx.analysis.calibration.model import Kind
    from monai_vfx.core.arrays import Json  # imports numpy


@click.command()
@click.argument("predictions", type=FILE)
@click.option(
    "--score", required=True, help="Column, in 0-1, from models that did not see the patient."
)
@click.option("--label", default="fracture", help="Column, 0 or 1.")
@click.option(
    "--population",
    type=FILE,
    help="Patient table of the whole eligible cohort that cases and controls were sampled from; "
    "with --refit, of the new site.",
)
@click.option(
    "--controls",
    type=click.Choice(["matched", "random", "weighting"]),
    default="matched",
    help="How the controls were sampled; weighting: either, by inverse sampling fractions.",
)
@click.option(
    "--variable",
    "variables",
    multiple=True,
    help="Matched on and known on the day of the CT. Repeatable.  [default: age, sex, bmi]",
)
@click.option("--refit", "refit_of", type=FILE, help="calibration.json to adapt to a new site.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    help="Level of the conformal sets.",
)
@click.option("--out", required=True, type=FOLDER, help="Folder for results.")
def calibrate(
    predictions: Path,
    score: str,
    out: Path,
    controls: str,
    variables: tuple[str, ...],
    **given: Any,
) -> None:
    """Turn a score of PREDICTIONS.csv into an absolute risk, or refit a calibration to a new site.

    Without --population and --refit the patients are taken as unselected.
    """
    writable(out)
    from monai_vfx.analysis.calibration.job import run_calibration
    from monai_vfx.analysis.calibration.risk import MATCHED

    kind = controls if controls == "weighting" else f"{controls}_controls"
    document = run_calibration(
        predictions, score, out, kind=cast("Kind", kind), variables=variables or MATCHED, **given
    )
    keys = ("score", "kind", "refitted", "simulated", "n", "events", "missing")
    line = {key: document[key] for key in keys}
    overall = document["groups"][0]
    line |= {"mean_risk": overall["mean_risk"], "mean_risk_ci": overall["ci"]}
    line["slope"] = document["reliability"]["slope"]
    line["calibration"] = str(out / "calibration.json")
    line["notes"] = document["notes"]
    click.echo(json.dumps(line))
    for note in document["notes"]:
        say(f"note: {note}")
    for group in document["groups"]:
        say(_sentence(group))


def _sentence(group: Json) -> str:
    """Return a group's risk for people."""
    name = f"{group['variable']} {group['value']}" if group["variable"] != "all" else "all"
    if group["mean_risk"] is None:
        return f"{name}: no patient with a score"
    low, high = group["ci"]
    observed = group["observed"]
    return (
        f"{name}: mean risk {group['mean_risk']:.2%} ({low:.2%} to {high:.2%}) from {group['n']} "
        f"patients; observed {observed['events']} of {observed['n']}"
    )
