"""Turn scores into absolute five-year risks."""

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
    "--score",
    required=True,
    help="Calibrate this column: values in 0-1 from models that did not see the patient.",
)
@click.option("--label", default="fracture", help="Take the outcome from this column: 0 or 1.")
@click.option(
    "--population",
    type=FILE,
    help="Take the eligible cohort that cases and controls were sampled from out of this patient "
    "table; with --refit, the cohort of the new site.",
)
@click.option(
    "--controls",
    type=click.Choice(["matched", "random", "weighting"]),
    default="matched",
    help="State how controls were sampled; weighting suits both, by inverse sampling fractions.",
)
@click.option(
    "--variable",
    "variables",
    multiple=True,
    help="Name a variable that was matched on and is known on the day of the CT. Repeatable.  "
    "[default: age, sex, bmi]",
)
@click.option("--refit", "refit_of", type=FILE, help="Adapt this calibration.json to a new site.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    help="Set the confidence level of the conformal sets.",
)
@click.option("--out", required=True, type=FOLDER, help="Write the results to this folder.")
def calibrate(
    predictions: Path,
    score: str,
    out: Path,
    controls: str,
    variables: tuple[str, ...],
    **given: Any,
) -> None:
    """Turn a score into an absolute five-year risk.

    PREDICTIONS.csv holds the score and the outcome, one row for each patient. With --refit, an
    existing calibration is adapted to a new site. Without --population and --refit, the patients
    are taken as unselected.
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
