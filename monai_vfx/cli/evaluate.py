"""Evaluate scores of any origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monai_vfx.cli.common import FILE, FOLDER, SEED, say, writable
from monai_vfx.core.errors import SettingError

if TYPE_CHECKING:
    from monai_vfx.core.arrays import Json  # imports numpy


_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("table", type=FILE, required=False)
@click.option("--label", help="Take the outcome from this column: 0 or 1.")
@click.option("--score", "scores", multiple=True, help="Evaluate this column. Repeatable.")
@click.option(
    "--risk",
    "risk_scores",
    multiple=True,
    help="Treat this score as an absolute risk in 0-1, with calibration and a decision curve. "
    "Repeatable.",
)
@click.option(
    "--prevalence",
    type=_SHARE,
    help="State the share of patients with a fracture, for the decision curve where controls were "
    "sampled, and for --plan.",
)
@click.option("--time", help="Take the years of follow-up from this column.")
@click.option(
    "--event",
    help="Take the event from this column: 0 censored, 1 fracture, 2 death.",
)
@click.option(
    "--horizon",
    "horizon_years",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    help="Evaluate over time at this number of years.",
)
@click.option(
    "--subgroup",
    "subgroups",
    multiple=True,
    help="Evaluate the subgroups of this column. Repeatable.",
)
@click.option(
    "--adjust",
    "adjust_for",
    multiple=True,
    help="Adjust the AUROC for this column. Repeatable.",
)
@click.option("--reference", help="Compare the other scores with this one instead of all pairs.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    help="Choose cut points by this rule: youden, or for example sensitivity_0.80 or risk_0.20. "
    "Repeatable.  [default: youden, sensitivity_0.80]",
)
@click.option(
    "--thresholds",
    type=FILE,
    help="Use the cut points of this CSV: score, fold, rule, threshold, chosen_on.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(100),
    default=2000,
    help="Draw this number of bootstrap samples.",
)
@click.option("--seed", type=SEED, default=0, help="Draw the bootstrap samples with this seed.")
@click.option("--out", type=FOLDER, help="Write the results to this folder.")
@click.option("--plan", is_flag=True, help="Compute the sample size of a study; needs no TABLE.")
@click.option("--auroc", type=_SHARE, help="With --plan: expect this AUROC.")
@click.option(
    "--parameters",
    type=click.IntRange(1),
    help="With --plan: count so many candidate parameters; a category of k levels has k - 1.",
)
@click.option(
    "--patients",
    type=click.IntRange(1),
    help="With --plan: also state what this number of patients allows.",
)
def evaluate(table: Path | None, out: Path | None, plan: bool, **settings: Any) -> None:
    """Evaluate scores against an outcome, or plan a sample size.

    TABLE is a CSV with the outcome (0 or 1) and one or more scores of any origin, one row for each
    patient. Results are AUROCs with intervals, paired tests, decisions at cut points, calibration,
    subgroups and analyses over time. With --plan, the number of patients that a study needs is
    computed instead.
    """
    planned = {name: settings.pop(name) for name in ("auroc", "parameters", "patients")}
    if plan:
        _plan(out, settings["prevalence"], **planned)
        return
    given = {"TABLE": table, "--label": settings["label"], "--score": settings["scores"]}
    missing = [name for name, value in {**given, "--out": out}.items() if not value]
    if missing or table is None or out is None:
        raise SettingError(f"missing {', '.join(missing)}")
    from monai_vfx.analysis.evaluation.score_table import Columns, check_table, read_score_table

    reference, scores = settings.pop("reference"), settings["scores"]
    if reference is not None:
        settings["comparisons"] = _against(reference, scores)
    if not settings["rules"]:
        del settings["rules"]
    names = ("label", "scores", "risk_scores", "time", "event", "subgroups", "adjust_for")
    # Faults are named before a folder is made or figures are loaded.
    check_table(read_score_table(table), Columns(*(settings[name] for name in names)))
    writable(out)
    from monai_vfx.analysis.evaluation.job import run_evaluation

    document = run_evaluation(table, settings.pop("label"), settings.pop("scores"), out, **settings)
    click.echo(json.dumps(_line(document)))
    for row in _readable(document):
        say(row)


def _plan(
    out: Path | None,
    prevalence: float | None,
    auroc: float | None,
    parameters: int | None,
    patients: int | None,
) -> None:
    """Write the sample size of a study."""
    if prevalence is None or auroc is None or parameters is None:
        raise SettingError("--plan needs --prevalence, --auroc and --parameters")
    from monai_vfx.analysis.evaluation.sample_size import plan_study
    from monai_vfx.core.files import write_json

    document = plan_study(parameters, prevalence, auroc, patients)
    if out is not None:
        writable(out)
        write_json(out / "plan.json", document)
    click.echo(json.dumps(document))
    need, judge = document["development"], document["external"]
    say(
        f"to develop a model: {need['n']} patients with {need['events']} fractures "
        f"({need['events_per_parameter']:.1f} a parameter)"
    )
    say(
        f"to know an AUROC of {auroc:g} to within {judge['half_width']:g}: {judge['n']} patients "
        f"with {judge['events']} fractures"
    )
    if document["given"] is not None:
        have = document["given"]
        say(
            f"{have['n']} patients have {have['events']:.0f} fractures "
            f"({have['events_per_parameter']:.1f} a parameter), expected shrinkage "
            f"{have['shrinkage']:.2f}"
        )


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
