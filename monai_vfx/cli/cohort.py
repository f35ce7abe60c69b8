"""Select the patients that models are trained and tested on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from monai_vfx.cli.common import (
    EXCLUDE_WARNINGS,
    FILE,
    FOLDER,
    GATE,
    REFUSED,
    SEED,
    check_gate,
    say,
    writable,
)

if TYPE_CHECKING:  # these import numpy
    from monai_vfx.core.arrays import Json
    from monai_vfx.core.tables import FaultyTable


@click.command()
@click.argument("table", type=FILE)
@click.option("--out", required=True, type=FOLDER, help="Write tables and figures to this folder.")
@click.option(
    "--settings",
    type=FILE,
    help="Read the sections eligibility and matching, or one of them, from this YAML.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change one setting, such as min_age=55, need_image_quality=false, method=none or "
    "ratio=2. Repeatable; an unknown name lists all settings.",
)
@click.option(
    "--folds",
    type=click.IntRange(0),
    default=10,
    help="Draw this number of cross-validation folds; 0 for a set that is only tested on.",
)
@click.option("--seed", type=SEED, default=0, help="Use this seed for matching and folds.")
@GATE
@EXCLUDE_WARNINGS
def cohort(
    table: Path,
    out: Path,
    settings: Path | None,
    assignments: tuple[str, ...],
    folds: int,
    seed: int,
    gate: Path | None,
    exclude_warnings: tuple[str, ...],
) -> None:
    """Select cases and controls from a patient table.

    TABLE is checked, the rules of eligibility are applied, controls are matched to cases, and folds
    are drawn. All faults of the table are listed at once, on stderr and in OUT/faults.csv (exit
    status 3).
    """
    from monai_vfx.analysis.cohort.check_table import read_gate
    from monai_vfx.analysis.cohort.job import run_cohort
    from monai_vfx.analysis.cohort.settings import read_settings
    from monai_vfx.core.tables import FaultyTable

    check_gate(gate, exclude_warnings)
    eligibility, matching = read_settings(settings, assignments)
    try:
        result = run_cohort(
            table,
            writable(out),
            eligibility,
            matching,
            folds=folds or None,
            seed=seed,
            gate=None if gate is None else read_gate(gate, exclude_warnings),
        )
    except FaultyTable as refusal:
        _refuse(refusal, out)
    _tell(result["flow"])
    click.echo(
        json.dumps(
            {
                "status": "ok",
                "counts": result["counts"],
                "matched": result["matched"],
                "steps": [
                    {name: step[name] for name in ("name", "n", "events")}
                    for step in result["flow"]["steps"]
                ],
                "files": {name: str(out / path) for name, path in result["files"].items()},
            }
        )
    )


def _tell(flow: Json) -> None:
    """Print the participant flow in words."""
    for step in flow["steps"]:
        for entry in step["excluded"]:
            say(f"  - {entry['n']:,}: {entry['reason']}")
        others = step["n"] - step["events"]
        say(
            f"{step['label']}: {step['n']:,} ({step['events']:,} with, {others:,} without fracture)"
        )


def _refuse(refusal: FaultyTable, out: Path) -> NoReturn:
    """List what is wrong: the first faults for people, all of them for programs."""
    from monai_vfx.core.tables import MAX_LISTED_FAULTS

    faults, listing = refusal.faults, out / "faults.csv"
    for fault in faults[:MAX_LISTED_FAULTS]:
        say(str(fault))
    more = len(faults) - MAX_LISTED_FAULTS
    if more > 0:
        say(f"and {more:,} more: see {listing}")
    say(f"refused {refusal.code}: {len(faults):,} faults. {refusal.remedy}")
    document = {
        "status": "refused",
        "refusal": refusal.to_json() | {"message": f"{len(faults)} faults"},
        "faults": [vars(fault) for fault in faults],
        "files": {"faults": str(listing)},
    }
    click.echo(json.dumps(document))
    sys.exit(REFUSED)
