"""Evaluation of a table of scores: one document, its tables, its figures (``vfx evaluate``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from monai_vfx.analysis.evaluation.figures import (
    calibration_figure,
    decision_figure,
    incidence_figure,
    roc_data,
    roc_panels,
)
from monai_vfx.analysis.evaluation.forest import auroc_forest
from monai_vfx.analysis.evaluation.score_table import Columns, check_table, read_score_table
from monai_vfx.analysis.evaluation.summary import evaluate_scores
from monai_vfx.core.arrays import Json
from monai_vfx.core.files import write_json, write_text
from monai_vfx.core.hashing import digest_of, sha256_of
from monai_vfx.core.results import run_record
from monai_vfx.core.schemas import violations
from monai_vfx.outputs.report.figures import save_figure

FIGURES = ("roc", "auroc", "calibration", "decision", "cumulative_incidence")
CURVES_A_FIGURE = 8
"""So many curves can be told apart; more scores make more figures."""


def run_evaluation(
    table: pd.DataFrame | str | Path,
    label: str,
    scores: Sequence[str],
    out: str | Path,
    **settings: Any,
) -> Json:
    """Evaluate the scores of a table and write document, tables and figures.

    Args:
        table: one row a patient, or the path of such a CSV.
        label: column, 0 or 1.
        scores: columns.
        out: folder for ``evaluation.json``, ``tables/*.csv``, ``figures/*.svg`` and ``.png``, and
            ``run.json``. Files of an earlier run there are replaced.
        **settings: of :func:`.summary.evaluate_scores`; ``thresholds`` may be the path of a CSV.

    Returns:
        The document of ``evaluation.json``.

    Raises:
        SettingError: a column is missing or settings do not fit together.
        CaseRefused: ``cohort_invalid``, naming every bad cell.
    """
    out = Path(out)
    given = settings.pop("thresholds", None)
    digests = {"table": _digest(table), "thresholds": _digest(given)}
    frame = read_score_table(table) if isinstance(table, str | Path) else table
    thresholds = read_score_table(given) if isinstance(given, str | Path) else given
    document = evaluate_scores(frame, label, scores, thresholds=thresholds, **settings)
    broken = violations(document, "evaluation")
    if broken:
        raise ValueError("evaluation breaks its schema: " + "; ".join(broken))
    write_json(out / "evaluation.json", document)
    tables = evaluation_tables(document)
    _clear(out, tables)
    for name, rows in tables.items():
        if rows:
            text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
            write_text(out / "tables" / f"{name}.csv", text)
    for name, figure in _figures(document, check_table(frame, Columns(label, tuple(scores)))):
        save_figure(figure, out / "figures" / name)
    choices = {"label": label, "scores": list(scores), **settings}
    plain = json.loads(json.dumps(choices))  # tuples become lists
    write_json(out / "run.json", run_record("evaluate", plain, digests))
    return document


def evaluation_tables(document: Json) -> dict[str, list[Json]]:
    """Return the tables of an evaluation: name → rows, of which there may be none."""
    scores: Json = document["scores"]

    def of_scores(rows: Callable[[Json], Iterable[Json] | None]) -> list[Json]:
        return [
            {"score": name, **_spread(row)}
            for name, entry in scores.items()
            for row in rows(entry) or ()
        ]

    def comparisons(test: str) -> list[Json]:
        return [_spread(entry) for entry in document["comparisons"] if entry["test"] == test]

    return {
        "scores": [_score_row(name, entry) for name, entry in scores.items()],
        "operating_points": of_scores(lambda entry: entry["operating_points"]),
        "auroc_comparisons": comparisons("delong"),
        "decision_comparisons": comparisons("mcnemar"),
        "calibration_bins": of_scores(lambda entry: (entry["calibration"] or {}).get("bins")),
        "decision_curve": of_scores(lambda entry: entry["decision_curve"]),
        "subgroups": of_scores(lambda entry: entry["subgroups"]),
        "cumulative_incidence": _incidence_rows(document["cumulative_incidence"]),
    }


def _score_row(name: str, entry: Json) -> Json:
    """Return one line a score: everything that is a single number."""
    parts = ("calibration", "adjusted_auroc", "time")
    lists = (*parts, "operating_points", "decision_curve", "subgroups")
    row = {"score": name} | _spread({k: v for k, v in entry.items() if k not in lists})
    for part in parts:
        numbers = {
            f"{part}_{key}": value
            for key, value in (entry[part] or {}).items()
            if key not in ("bins", "notes", "adjusted_for", "confidence")
        }
        row |= _spread(numbers)
    return row


def _spread(entry: Json) -> Json:
    """Give each interval two columns, and each share its value, bounds and counts."""
    row: Json = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            row |= {key: value["value"], f"{key}_ci_low": value["ci"][0]}
            row |= {f"{key}_ci_high": value["ci"][1], f"{key}_successes": value["successes"]}
            row[f"{key}_n"] = value["n"]
        elif key == "ci" or key.endswith("_ci"):  # ici is no interval
            row[f"{key}_low"], row[f"{key}_high"] = value or (None, None)
        else:
            row[key] = value
    return row


def _incidence_rows(curve: Json | None) -> list[Json]:
    if curve is None:
        return []
    columns = {"years": "times", "fracture": "fracture", "fracture_ci": "ci"}
    columns |= {"death": "death", "at_risk": "at_risk"}
    return [
        _spread(dict(zip(columns, cells, strict=True)))
        for cells in zip(*(curve[name] for name in columns.values()), strict=True)
    ]


def _clear(out: Path, tables: Iterable[str]) -> None:
    """Remove the tables and figures of an earlier run, which may have had more of them."""
    for name in tables:
        (out / "tables" / f"{name}.csv").unlink(missing_ok=True)
    for name in FIGURES:
        for path in (out / "figures").glob(f"{name}*"):
            if re.fullmatch(rf"{name}(_\d+)?\.(svg|png)", path.name):
                path.unlink()


def _digest(table: pd.DataFrame | str | Path | None) -> str | None:
    """Return the SHA-256 of a file, or of a table's content as CSV."""
    if table is None:
        return None
    if isinstance(table, str | Path):
        return sha256_of(table)
    return digest_of(table.to_csv(index=False, lineterminator="\n"))


def _figures(document: Json, table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield each figure with its file name; what does not fit into one continues in the next."""
    scores: Json = document["scores"]
    y = table[document["label"]].to_numpy()
    for name, part in _parts("roc", list(scores), CURVES_A_FIGURE):
        curves = [roc_data(score, y, table[score].to_numpy(), scores[score]) for score in part]
        yield name, roc_panels([{"title": "", "curves": curves}])
    for name, part in _parts("auroc", list(scores), 30):
        yield name, auroc_forest({score: scores[score] for score in part})
    # Predictions that are not absolute risks have their calibration in the document only.
    risks = [score for score in scores if scores[score]["decision_curve"]]
    for name, part in _parts("calibration", risks, 12):
        yield name, calibration_figure({score: scores[score]["calibration"] for score in part})
    for name, part in _parts("decision", risks, CURVES_A_FIGURE):
        yield name, decision_figure({score: scores[score]["decision_curve"] for score in part})
    if document["cumulative_incidence"] is not None:
        yield "cumulative_incidence", incidence_figure(document["cumulative_incidence"])


def _parts(name: str, scores: list[str], size: int) -> Iterator[tuple[str, list[str]]]:
    """Yield scores in portions with a name each: roc, then roc_2 and so on."""
    for number, start in enumerate(range(0, len(scores), size), start=1):
        yield (name if number == 1 else f"{name}_{number}"), scores[start : start + size]
