"""The analyses that the paper does not show, as tables and facts: one function for each."""

from __future__ import annotations

import json
from collections.abc import Iterator

from monai_vfx.analysis.cohort.variables import label as variable_label
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.page import Prose, Table
from monai_vfx.workflows.study.report.cells import (
    DASH,
    SET_LABELS,
    SETS,
    counts,
    estimate,
    label_of,
    number,
    p_value,
)
from monai_vfx.workflows.study.report.folder import StudyFolder
from monai_vfx.workflows.study.report.tables import (
    CONTROL,
    PATIENTS,
    QUANTITIES,
    Row,
    entries,
    lead,
    report_table,
    share,
)

PREDICTORS = {"A": 2, "B": 3, "C": 7, "D": 11}
"""Number of variables of the clinical models, by the paper's letters."""
_FITTED = ("clinical_", "logistic_")


def evaluation_remarks(study: StudyFolder) -> Prose | None:
    """Return the evaluation's notes on a whole set."""
    notes = (
        f"{SET_LABELS[name]}: {note}"
        for name, evaluation in study.evaluations.items()
        for note in evaluation.get("notes") or ()
    )
    found = tuple(notes)
    return Prose(found, "Remarks on the evaluation", listed=True) if found else None


@report_table("time")
def time_table(study: StudyFolder) -> Iterator[Row]:
    """Return discrimination with censoring and death taken into account."""
    for name, score, entry in entries(study):
        found = entry.get("time")
        if found:
            yield lead(name, score, found) | {
                "Censored": number(found["censored"], 0),
                "Deaths": number(found["deaths"], 0),
                "Horizon, years": number(found["horizon_years"], 1),
                "AUROC (IPCW)": estimate(found["auroc"], found["ci"]),
                "AUROC (binary)": number(entry["auroc"]),
                "Brier (IPCW)": number(found["brier"]),
            }


@report_table("subgroups")
def subgroup_table(study: StudyFolder) -> Iterator[Row]:
    """Return the main score's discrimination by group."""
    for name, _, entry in entries(study, study.main):
        for group in entry.get("subgroups") or ():
            yield {
                "Set": SET_LABELS[name],
                "Variable": variable_label(group["variable"]),
                "Group": str(group["value"]),
                PATIENTS: counts(group["n"], group["events"]),
                "AUROC (95 % interval)": estimate(group["auroc"], group["ci"]),
                "Remark": str(group.get("note") or ""),
            }


@report_table("negative_control")
def control_table(study: StudyFolder) -> list[Row]:
    """Return the negative control and the AUROC adjusted for the matched variables."""
    rows = []
    for name, score, entry in entries(study, CONTROL, study.main):
        adjusted = entry.get("adjusted_auroc") or {}
        variables = ", ".join(variable_label(v) for v in adjusted.get("adjusted_for", ()))
        rows.append(
            lead(name, score, entry)
            | {
                "AUROC": estimate(entry["auroc"], entry["auroc_ci"]),
                "Adjusted AUROC": estimate(adjusted.get("auroc"), adjusted.get("ci")),
                "Adjusted for": variables or DASH,
            }
        )
    controlled = any(row["Model"] == label_of(CONTROL) for row in rows)
    adjusted_any = any(row["Adjusted AUROC"] != DASH for row in rows)
    if not controlled:
        study.miss("Negative control", f"no score {CONTROL}")
    if not adjusted_any:
        study.miss("Covariate-adjusted AUROC", "no adjusted_auroc in evaluation.json")
    return rows if controlled or adjusted_any else []


@report_table("seeds")
def spread_table(study: StudyFolder) -> Iterator[Row]:
    """Return how much the AUROC changes when training is repeated from other seeds."""
    frame = study.table("seeds/spread.csv")
    if frame is None:
        return
    for score, values in frame.groupby("score", sort=False)["auroc"]:
        yield {
            "Model": label_of(str(score)),
            "Seeds": str(len(values)),
            "Mean AUROC": number(values.mean()),
            "SD": number(values.std() if len(values) > 1 else None),
            "Minimum": number(values.min()),
            "Maximum": number(values.max()),
        }


@report_table("auroc_comparisons")
def auroc_comparisons(study: StudyFolder) -> Iterator[Row]:
    """Return every test of two AUROCs, so that Holm's correction can be verified."""
    for name, test in _tests(study, "delong"):
        yield {
            "Set": SET_LABELS[name],
            "First": label_of(test["a"]),
            "Second": label_of(test["b"]),
            PATIENTS: counts(test["n"], test["events"]),
            "First − second": estimate(test["difference"], test["difference_ci"]),
            "p": p_value(test["p"]),
            "p (Holm)": p_value(test["p_holm"]),
        }


@report_table("decision_comparisons")
def decision_comparisons(study: StudyFolder) -> list[Row]:
    """Return every McNemar test, a row for each pair of scores and threshold rule."""
    rows: dict[tuple[str, str, str, str], Row] = {}
    for name, test in _tests(study, "mcnemar"):
        row = rows.setdefault((name, test["a"], test["b"], test["rule"]), {})
        quantity = test["quantity"].capitalize()
        row |= {
            "Set": SET_LABELS[name],
            "First": label_of(test["a"]),
            "Second": label_of(test["b"]),
            "Threshold": test["rule"],
            f"{quantity}: only one correct": f"{test['only_a']} / {test['only_b']} of {test['n']}",
            f"{quantity}: p": p_value(test["p"]),
            f"{quantity}: p (Holm)": p_value(test["p_holm"]),
        }
    return list(rows.values())


def _tests(study: StudyFolder, kind: str) -> Iterator[tuple[str, Json]]:
    for name, evaluation in study.evaluations.items():
        for test in evaluation.get("comparisons", ()):
            if test["test"] == kind:
                yield name, test


@report_table("operating_points")
def operating_points(study: StudyFolder) -> Iterator[Row]:
    """Return every score at every threshold, predictive values included."""
    for name, score, entry in entries(study):
        for point in entry.get("operating_points") or ():
            threshold = point["threshold"]
            yield lead(name, score) | {
                "Rule": point["rule"],
                "Threshold": "by fold" if threshold is None else number(threshold),
                "Chosen on": str(point["chosen_on"]),
                **{q.capitalize(): share(point, q) for q in QUANTITIES},
                "PPV": share(point, "ppv"),
                "NPV": share(point, "npv"),
            }


@report_table("refused")
def refusal_table(study: StudyFolder) -> list[Row]:
    """Return how many cases each step refused, and why; without names."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for step, refused in _refusals(study):
        for entry in refused:
            groups.setdefault((step, entry["code"]), []).append(entry)
    return [
        {
            "Step": step,
            "Code": code,
            "Cases": str(len({entry["case_id"] for entry in found})),
            "Message (of the first)": found[0]["message"],
        }
        for (step, code), found in groups.items()
    ]


def refusals(study: StudyFolder) -> Table | Prose:
    """Return the table of refused cases, or a sentence that none was refused."""
    nothing = Prose(("No case was refused: no step left a list of refusals with an entry.",))
    return refusal_table(study) or nothing


def _refusals(study: StudyFolder) -> Iterator[tuple[str, list[Json]]]:
    """Yield (step, refused cases) of every list of refusals in the folder."""
    for side in SETS:
        frame = study.table(f"imaging/{side}_refused.csv", text=True)
        if frame is not None:
            rows = ({str(k): v for k, v in row.items()} for row in frame.to_dict("records"))
            yield f"Measuring, {side}", list(rows)
    for path in sorted((study.root / "image").glob("*/fold_*/**/refused.jsonl")):
        content = study.content(str(path.relative_to(study.root))) or b""
        model = path.relative_to(study.root / "image").parts[0]
        side = "external" if path.parent.name == "external" else "development"
        entries = [json.loads(line) for line in content.decode("utf-8").splitlines() if line]
        if entries:
            yield f"{label_of(f'image_{model}')}, {side}", entries


@report_table("leakage")
def audit_table(study: StudyFolder) -> Iterator[Row]:
    """Return the leakage audit: each rule, how often it held, and every violation."""
    checks = _checks(study)
    for name in dict.fromkeys(check["name"] for check in checks):
        same = [check for check in checks if check["name"] == name]
        failed = [check["detail"] for check in same if not check["passed"]]
        first = same[0]["detail"] + (f" (and {len(same) - 1} more)" if len(same) > 1 else "")
        yield {
            "Rule": name,
            "Result": "FAILED" if failed else "passed",
            "Checks": str(len(same)),
            "Failed": str(len(failed)),
            "Detail": "; ".join(failed) or first,
        }


def failed_checks(study: StudyFolder) -> list[str]:
    """Return the violations that the leakage audit found."""
    return [f"{c['name']}: {c['detail']}" for c in _checks(study) if not c["passed"]]


def _checks(study: StudyFolder) -> list[Json]:
    return (study.json("audit/leakage.json") or {}).get("checks") or []


@report_table("sample_size")
def sample_size_table(study: StudyFolder) -> Iterator[Row]:
    """Return fractures per predictor of the clinical models, and the width of each interval."""
    for name, score, entry in entries(study):
        bounds = entry.get("auroc_ci")
        predictors = PREDICTORS.get(score[-1]) if score[:-1] in _FITTED else None
        per = None
        if predictors is not None and name == "development":
            per = min(entry["events"], entry["n"] - entry["events"]) / predictors
        yield lead(name, score, entry) | {
            "Candidate predictors": DASH if predictors is None else str(predictors),
            "Events per predictor": number(per, 1),
            "Half width of the AUROC's interval": number(
                None if bounds is None else (bounds[1] - bounds[0]) / 2
            ),
        }
