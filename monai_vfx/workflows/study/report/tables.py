"""The tables of the paper, filled from a study's files, with intervals, counts and tests added.

Added to the paper's layout: DeLong's and the bootstrap interval, patients and fractures at every
AUROC, and p-values after Holm. No number is computed here; cells are the files' numbers, rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, wraps
from importlib import resources

import pandas as pd
import yaml

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.page import Table
from monai_vfx.workflows.study.report.cells import (
    DASH,
    SET_LABELS,
    SETS,
    counts,
    estimate,
    interval,
    label_of,
    number,
    p_value,
)
from monai_vfx.workflows.study.report.folder import StudyFolder, comparison, main_rule

QUANTITIES = ("accuracy", "sensitivity", "specificity")
COMPARATORS = (
    *(f"clinical_{m}" for m in "ABCD"),
    *(f"logistic_{m}" for m in "ABCD"),
    "frax_major",
    "frax_hip",
    "imaging_baseline",
)
"""Scores of Table 4 beside the image model."""
FUSIONS = (*(f"fusion_{m}" for m in "ABCD"), *(f"late_fusion_{m}" for m in "ABCD"))
"""Scores of Supplement Table 1 beside the image model."""
CONTROL = "matched_only"

Row = dict[str, str]
Rows = Callable[[StudyFolder], Iterable[Row]]


@cache
def read_data(name: str) -> Json:
    """Return ``data/<name>.yaml``."""
    folder = resources.files("monai_vfx.workflows.study.report")
    document: Json = yaml.safe_load(folder.joinpath(f"data/{name}.yaml").read_text("utf-8"))
    return document


def report_table(key: str) -> Callable[[Rows], Callable[[StudyFolder], Table | None]]:
    """Turn a generator of rows into the builder of a table with the captions of ``tables.yaml``.

    A column ``Set`` becomes subheadings. The builder returns None if there are no rows, and records
    the part of the report as absent.
    """

    def decorate(rows: Rows) -> Callable[[StudyFolder], Table | None]:
        @wraps(rows)
        def build(study: StudyFolder) -> Table | None:
            captions, found = read_data("tables")[key], list(rows(study))
            if not found:
                if "absent" in captions:
                    study.miss(*captions["absent"])
                return None
            title = captions["title"].replace("{label}", label_of(study.main))
            source = captions["source"].replace("{evaluations}", _files(study))
            notes = (captions["note"],) if "note" in captions else ()
            frame = pd.DataFrame(found)
            group = "Set" if "Set" in frame else None
            return Table(key, title, frame, source.replace("{main}", study.main), notes, group)

        return build

    return decorate


def _files(study: StudyFolder) -> str:
    return ", ".join(f"evaluation/{name}/evaluation.json" for name in study.evaluations)


def lead(name: str, score: str, entry: Json | None = None) -> Row:
    """Return the first cells of a row: set and score, and the counts of ``entry``."""
    row = {"Set": SET_LABELS[name], "Model": label_of(score)}
    return row if entry is None else row | {PATIENTS: counts(entry["n"], entry["events"])}


def entries(study: StudyFolder, *scores: str) -> Iterator[tuple[str, str, Json]]:
    """Yield (set, score, entry) of the given scores, by default of all."""
    for name, evaluation in study.evaluations.items():
        for score in scores or study.scores:
            entry = evaluation["scores"].get(score)
            if entry is not None:
                yield name, score, entry


PATIENTS = "Patients (fractures)"


@report_table("key_results")
def key_results(study: StudyFolder) -> Iterator[Row]:
    """Return AUROCs of the main scores in both sets, the table of the summary."""
    wanted = [*image_scores(study), *(s for s in COMPARATORS if not s.startswith("logistic_"))]
    for score in [*wanted, CONTROL]:
        if score not in study.scores:
            continue
        row = {"Model": label_of(score)}
        for name, heading in SET_LABELS.items():
            entry = (study.evaluations.get(name) or {"scores": {}})["scores"].get(score) or {}
            row[f"{heading}: AUROC"] = estimate(entry.get("auroc"), entry.get("auroc_ci"))
            row[f"{heading}: patients (fractures)"] = counts(entry.get("n"), entry.get("events"))
        yield row


def image_scores(study: StudyFolder) -> list[str]:
    """Return the image models that Table 3 compares, the main one last."""
    images = [s for s in study.scores if s.startswith("image_") and s != "image_hazard"]
    return [s for s in images if s != study.main] + [s for s in images if s == study.main]


def table_3(study: StudyFolder) -> Table | None:
    """Return bone-only against bone + muscle: measures down, sets and models across."""
    scores = image_scores(study)
    if len(scores) < 2:
        study.miss("Table 3", "fewer than two image models have scores")
        return None
    columns: dict[str, list[str]] = {
        "Measure": [
            "Patients (fractures)",
            "AUROC (DeLong interval)",
            "AUROC, bootstrap interval",
            *(name.capitalize() for name in QUANTITIES),
        ]
    }
    for name, evaluation in study.evaluations.items():
        columns |= _table_3_set(SET_LABELS[name], evaluation, scores)
    return Table(
        "table3",
        "Table 3. Image models: bone only against bone + muscle",
        pd.DataFrame(columns),
        f"{_files(study)}: scores, comparisons",
        notes=(_how_tested(label_of(study.main)), *_rule_notes(study, scores)),
    )


def _table_3_set(heading: str, evaluation: Json, scores: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of one set."""
    main = scores[-1]
    columns = {
        f"{heading}: {label_of(score)}": _measures(evaluation["scores"].get(score))
        for score in scores
    }
    for other in scores[:-1]:
        against = "" if len(scores) == 2 else f", {label_of(other)}"
        tests = [None, comparison(evaluation, other, main), None]
        tests += [_mcnemar(evaluation, other, main, quantity) for quantity in QUANTITIES]
        for title, key in (("p", "p"), ("p (Holm)", "p_holm")):
            cells = [
                "" if n in (0, 2) else p_value((t or {}).get(key)) for n, t in enumerate(tests)
            ]
            columns[f"{heading}: {title}{against}"] = cells
    return columns


def _measures(entry: Json | None) -> list[str]:
    """Return n, AUROC and the main operating point of one score, as cells."""
    if entry is None:
        return [DASH] * (3 + len(QUANTITIES))
    point = main_rule(entry)
    return [
        counts(entry["n"], entry["events"]),
        estimate(entry["auroc"], entry.get("auroc_ci")),
        interval(entry.get("bootstrap_ci")),
        *(share(point, quantity) for quantity in QUANTITIES),
    ]


def share(point: Json | None, quantity: str) -> str:
    """Return sensitivity or the like of an operating point as a cell."""
    found = None if point is None else point.get(quantity)
    return DASH if found is None else estimate(found["value"], found["ci"])


def _mcnemar(evaluation: Json, a: str, b: str, quantity: str) -> Json | None:
    """Return McNemar's test at the rule that the tables show."""
    point = main_rule(evaluation["scores"].get(b) or {})
    return comparison(evaluation, a, b, quantity, None if point is None else point["rule"])


def table_4(study: StudyFolder) -> Table | None:
    """Return the image model against clinical models, FRAX and the imaging baseline."""
    others = [s for s in COMPARATORS if s in study.scores and s != study.main]
    scores = [study.main, *others]
    if len(scores) < 2 or study.main not in study.scores:
        study.miss("Table 4", "no clinical model, FRAX score or imaging baseline has scores")
        return None
    title = "Table 4. Image model against clinical models, FRAX and imaging baseline"
    if study.main in COMPARATORS:
        title = "Table 4. Clinical models, FRAX and imaging baseline"
    return _model_table(study, "table4", title, scores)


def supplement_table_1(study: StudyFolder) -> Table | None:
    """Return the image model against image and clinical variables together."""
    scores = [study.main, *(s for s in FUSIONS if s in study.scores)]
    if len(scores) < 2 or study.main not in study.scores:
        study.miss("Supplement Table 1", "no fusion of image and clinical variables has scores")
        return None
    title = "Supplement Table 1. Image model alone against image and clinical variables"
    return _model_table(study, "supplement_table1", title, scores)


def further_scores(study: StudyFolder) -> Table | None:
    """Return the scores that no table of the paper has a place for; none is left out."""
    placed = {*image_scores(study), *COMPARATORS, *FUSIONS, CONTROL}
    rest = [s for s in study.scores if s not in placed]
    if not rest:
        return None
    scores = [study.main, *(s for s in rest if s != study.main)]
    return _model_table(study, "further_scores", "Supplement Table 3. Further scores", scores)


def _model_table(study: StudyFolder, key: str, title: str, scores: Sequence[str]) -> Table:
    """Return scores down, measures across, one block a set; the first score is the reference."""
    reference = scores[0]
    rows = [
        {"Set": SET_LABELS[name], **_model_row(evaluation, score, reference)}
        for name, evaluation in study.evaluations.items()
        for score in scores
        if score in evaluation["scores"]
    ]
    notes = (_how_tested(label_of(reference)), *_rule_notes(study, scores))
    return Table(
        key, title, pd.DataFrame(rows), f"{_files(study)}: scores, comparisons", notes, group="Set"
    )


def _model_row(evaluation: Json, score: str, reference: str) -> dict[str, str]:
    entry = evaluation["scores"][score]
    cells = _measures(entry)
    test = comparison(evaluation, score, reference) or {}
    row = {
        "Model": label_of(score),
        "Patients (fractures)": cells[0],
        "AUROC: value (DeLong)": cells[1],
        "AUROC: bootstrap": cells[2],
        "AUROC: p": p_value(test.get("p")),
        "AUROC: p (Holm)": p_value(test.get("p_holm")),
    }
    for quantity, cell in zip(QUANTITIES, cells[3:], strict=True):
        found = _mcnemar(evaluation, score, reference, quantity) or {}
        row[f"{quantity.capitalize()}: value (Wilson)"] = cell
        row[f"{quantity.capitalize()}: p (Holm)"] = p_value(found.get("p_holm"))
    return row


def _how_tested(reference: str) -> str:
    return (
        f"Intervals are 95 %. p against “{reference}” on the same patients: DeLong's test for "
        "AUROC, exact McNemar test for the shares. Holm: over all tests of the same kind, set, "
        "threshold rule and quantity. A dash: no such number."
    )


def _rule_notes(study: StudyFolder, scores: Sequence[str]) -> tuple[str, ...]:
    """Say where thresholds come from and who is missing, set by set."""
    notes = []
    for name, evaluation in study.evaluations.items():
        entries = [evaluation["scores"][s] for s in scores if s in evaluation["scores"]]
        points = [point for e in entries if (point := main_rule(e)) is not None]
        if points:
            origins = sorted({f"{p['rule']}, chosen on {p['chosen_on']}" for p in points})
            notes.append(f"{SET_LABELS[name]}: threshold by {'; '.join(origins)}.")
        lacking = [
            f"{label_of(s)} {evaluation['scores'][s]['missing']}"
            for s in scores
            if (evaluation["scores"].get(s) or {}).get("missing")
        ]
        if lacking:
            notes.append(
                f"{SET_LABELS[name]}: patients without a score, not counted: {', '.join(lacking)}."
            )
    return tuple(notes)


def participants(study: StudyFolder) -> list[Table]:
    """Return Tables 1 and 2 as the cohort's job wrote them."""
    tables = []
    for key, path, title in (
        ("table1", "cohort/table1.csv", "Table 1. Participants: development against external set"),
        (
            "table2",
            "cohort/development/table2.csv",
            "Table 2. Development set: fracture against none",
        ),
    ):
        frame = study.table(path, text=True)
        if frame is None:
            study.miss(title.split(".")[0], f"{path} is not there")
            continue
        notes = ("Mean ± SD or n (%); SMD: standardised mean difference, second minus first.",)
        tables.append(Table(key, title, _baseline(frame), path, notes))
    return tables


def _baseline(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a baseline table of the cohort's job with headings for people."""
    columns = [str(name) for name in frame.columns]
    groups = columns[columns.index("missing") + 1 : columns.index("p")]
    names = {"0": "No fracture", "1": "Fracture"}
    shown = {"Characteristic": frame["label"]}
    shown |= {names.get(group, str(group).capitalize()): frame[group] for group in groups}
    shown |= {"Missing": frame["missing"], "p": frame["p"], "Test": frame["test"]}
    if "smd" in frame:
        shown["SMD"] = frame["smd"]
    return pd.DataFrame(shown)


_BALANCE = (
    ("n", "known", 0),
    ("missing", "missing", 0),
    ("cases", "cases", 2),
    ("others", "others", 2),
    ("smd", "SMD", 3),
    ("variance_ratio", "VR", 2),
)
"""Column of ``balance.csv`` without its ending, heading, digits."""


@report_table("balance")
def balance_table(study: StudyFolder) -> Iterator[Row]:
    """Return how similar cases and controls are before and after matching."""
    frame = study.table("cohort/development/balance.csv")
    for row in [] if frame is None else frame.to_dict("records"):
        yield {"Variable": str(row["label"])} | {
            f"{when.capitalize()} matching: {title}": number(row[f"{part}_{when}"], digits)
            for when in ("before", "after")
            for part, title, digits in _BALANCE
        }


@report_table("flow")
def flow_table(study: StudyFolder) -> Iterator[Row]:
    """Return the participant flow of each set as numbers, every exclusion counted."""
    for name in SETS:
        for step in (study.json(f"cohort/{name}/flow.json") or {}).get("steps", ()):
            excluded = step.get("excluded") or []
            yield {
                "Set": SET_LABELS[name].split(" (")[0],
                "Step": step.get("label") or step["name"],
                "Excluded": "; ".join(f"{e['reason']}: {e['n']:,}" for e in excluded) or DASH,
                "Patients": f"{step['n']:,}",
                "Fractures": number(step.get("events"), 0),
            }
