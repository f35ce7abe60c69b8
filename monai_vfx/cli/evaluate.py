"""Scores, from here or from anywhere: how good they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monai_vfx.cli.common import FILE, FOLDER, SEED, say, writable
from monai_vfx.core.errors import SettingError

if TYPE_CHECKING:
    from monai_vfx.core.arrays import Json  # imports numpy


@click.command()
@click.argument("table", type=FILE)
@click.option("--label", required=True, help="Column of the outcome, 0 or 1.")
@click.option("--score", "scores", multiple=True, required=True, help="Column. Repeatable.")
@click.option(
    "--risk",
    "risks",
    multiple=True,
    help="A score that is an absolute risk in 0-1: calibrate it, draw its decision curve.",
)
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share with a fracture, for the decision curve of a table of sampled controls.",
)
@click.option("--time", help="Column of years of follow-up.")
@click.option("--event", help="Column: 0 censored, 1 fracture, 2 death.")
@click.option(
    "--horizon",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    help="Years, of the analyses over time.",
)
@click.option("--subgroup", "subgroups", multiple=True, help="Column. Repeatable.")
@click.option("--adjust", "covariates", multiple=True, help="Column to adjust for. Repeatable.")
@click.option("--reference", help="Compare the other scores with this one, not all pairs.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    help="Of a cut point: youden, sensitivity_0.80, risk_0.20. Repeatable.  "
    "[default: youden, sensitivity_0.80]",
)
@click.option(
    "--thresholds",
    type=FILE,
    help="Cut points chosen elsewhere: CSV with score, fold, rule, threshold, chosen_on.",
)
@click.option("--bootstrap", type=click.IntRange(100), default=2000)
@click.option("--seed", type=SEED, default=0)
@click.option("--out", required=True, type=FOLDER, help="Folder for results.")
def evaluate(
    table: Path,
    label: str,
    scores: tuple[str, ...],
    risks: tuple[str, ...],
    prevalence: float | None,
    time: str | None,
    event: str | None,
    horizon: float,
    subgroups: tuple[str, ...],
    covariates: tuple[str, ...],
    reference: str | None,
    rules: tuple[str, ...],
    thresholds: Path | None,
    bootstrap: int,
    seed: int,
    out: Path,
) -> None:
    """Judge any scores: FILE.csv with a label (0 or 1) and scores, one row a patient.

    AUROCs with intervals, paired tests, decisions, calibration, subgroups, analyses over time.
    """
    from monai_vfx.analysis.evaluation.score_table import Columns, check_table, read_score_table

    settings: dict[str, Any] = {"rules": rules} if rules else {}
    if reference is not None:
        settings["comparisons"] = _against(reference, scores)
    # Faults are named before a folder is made or figures are loaded.
    check_table(
        read_score_table(table), Columns(label, scores, risks, time, event, subgroups, covariates)
    )
    writable(out)
    from monai_vfx.analysis.evaluation.job import run_evaluation

    document = run_evaluation(
        table,
        label,
        scores,
        out,
        thresholds=thresholds,
        subgroups=subgroups,
        adjust_for=covariates,
        time=time,
        event=event,
        horizon_years=horizon,
        risk_scores=risks,
        prevalence=prevalence,
        bootstrap=bootstrap,
        seed=seed,
        **settings,
    )
    click.echo(json.dumps(_line(document)))
    for row in _readable(document):
        say(row)


def _against(reference: str, scores: tuple[str, ...]) -> list[tuple[str, str]]:
    if reference not in scores:
        raise SettingError(f"reference {reference!r} is none of the scores: {', '.join(scores)}")
    return [(reference, name) for name in scores if name != reference]


def _line(document: Json) -> Json:
    """Return the one line for other programs."""
    keys = ("n", "events", "missing", "auroc", "auroc_ci")
    return {
        "n": document["n"],
        "events": document["events"],
        "scores": {
            name: {key: entry[key] for key in keys} for name, entry in document["scores"].items()
        },
    }


def _readable(document: Json) -> list[str]:
    """Return the short table for people."""
    width = max(len("score"), *(len(name) for name in document["scores"]))
    lines = [f"{'score':{width}}  AUROC (95 % interval)     fractures / patients  no score"]
    for name, entry in document["scores"].items():
        low, high = entry["auroc_ci"]
        counts = f"{entry['events']} / {entry['n']}"
        lines.append(
            f"{name:{width}}  {entry['auroc']:.3f} ({low:.3f} to {high:.3f})    "
            f"{counts:>20}  {entry['missing']:>8}"
        )
    tests = [entry for entry in document["comparisons"] if entry["test"] == "delong"]
    lines += [
        f"{test['a']} - {test['b']}: {test['difference']:+.3f}, p {test['p']:.3g}, "
        f"Holm {test['p_holm']:.3g} ({test['events']} / {test['n']})"
        for test in tests
    ]
    return lines + [f"note: {note}" for note in document["notes"]]
