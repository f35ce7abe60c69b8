"""The analyses that the paper does not show, as tables, from follow-up to the leakage audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from monai_vfx.analysis.cohort.variables import label as variable_label
from monai_vfx.core.arrays import Json
from monai_vfx.workflows.study.report.blocks import Table
from monai_vfx.workflows.study.report.data import (
    DASH,
    SET_LABELS,
    SETS,
    StudyFolder,
    counts,
    estimate,
    label_of,
    number,
)
from monai_vfx.workflows.study.report.tables import CONTROL

PREDICTORS = {"A": 2, "B": 3, "C": 7, "D": 11}
"""Variables of the clinical models, by the paper's letters."""


def entries_with(study: StudyFolder, key: str) -> Iterator[tuple[str, str, Json, Any]]:
    """Yield (set, score, entry, entry[key]) for the scores that have this part."""
    for name, evaluation in study.evaluations.items():
        for score in study.scores:
            entry = evaluation["scores"].get(score)
            if entry is not None and entry.get(key):
                yield name, score, entry, entry[key]


def time_table(study: StudyFolder) -> Table | None:
    """Return discrimination with censoring and death taken into account."""
    rows = [
        {
            "Set": SET_LABELS[name],
            "Model": label_of(score),
            "Patients (fractures)": counts(found["n"], found["events"]),
            "Censored": number(found["censored"], 0),
            "Deaths": number(found["deaths"], 0),
            "Horizon, years": number(found["horizon_years"], 1),
            "AUROC (IPCW)": estimate(found["auroc"], found["ci"]),
            "AUROC (binary)": number(entry["auroc"]),
            "Brier (IPCW)": number(found["brier"]),
        }
        for name, score, entry, found in entries_with(study, "time")
    ]
    if not rows:
        study.miss("Time analyses", "no follow-up times were evaluated")
        return None
    return Table(
        "time",
        "Supplement Table 5. Discrimination at the horizon, censoring weighted",
        pd.DataFrame(rows),
        "evaluation/{development,external}/evaluation.json: scores[].time",
        notes=(
            "IPCW: patients are weighted by the inverse probability of not being censored; death "
            "without fracture counts as an event of another kind.",
        ),
        group="Set",
    )


def subgroup_table(study: StudyFolder) -> Table | None:
    """Return the main score's discrimination apart by group."""
    rows = [
        {
            "Set": SET_LABELS[name],
            "Variable": variable_label(group["variable"]),
            "Group": str(group["value"]),
            "Patients (fractures)": counts(group["n"], group["events"]),
            "AUROC (95 % interval)": estimate(group["auroc"], group["ci"]),
            "Remark": str(group.get("note") or ""),
        }
        for name, score, _, found in entries_with(study, "subgroups")
        if score == study.main
        for group in found
    ]
    if not rows:
        study.miss("Subgroups", f"no subgroups of {study.main} in evaluation.json")
        return None
    return Table(
        "subgroups",
        f"Supplement Table 6. Subgroups: {label_of(study.main)}",
        pd.DataFrame(rows),
        f"evaluation/{{development,external}}/evaluation.json: scores.{study.main}.subgroups",
        notes=("Groups were not planned to be compared with each other: no p-values.",),
        group="Set",
    )


def control_table(study: StudyFolder) -> Table | None:
    """Return the negative control and the AUROC with the matched variables adjusted for."""
    rows = []
    for name, evaluation in study.evaluations.items():
        for score in (CONTROL, study.main):
            entry = evaluation["scores"].get(score)
            if entry is None:
                continue
            adjusted = entry.get("adjusted_auroc") or {}
            rows.append(
                {
                    "Set": SET_LABELS[name],
                    "Model": label_of(score),
                    "Patients (fractures)": counts(entry["n"], entry["events"]),
                    "AUROC": estimate(entry["auroc"], entry["auroc_ci"]),
                    "Adjusted AUROC": estimate(adjusted.get("auroc"), adjusted.get("ci")),
                    "Adjusted for": ", ".join(
                        variable_label(v) for v in adjusted.get("adjusted_for", ())
                    )
                    or DASH,
                }
            )
    if not any(row["Model"] == label_of(CONTROL) for row in rows):
        study.miss("Negative control", f"no score {CONTROL}")
    if not any(row["Adjusted AUROC"] != DASH for row in rows):
        study.miss("Covariate-adjusted AUROC", "no adjusted_auroc in evaluation.json")
    if not rows or set(study.absent) >= {"Negative control", "Covariate-adjusted AUROC"}:
        return None
    return Table(
        "negative_control",
        "Supplement Table 7. Negative control and adjustment for matched variables",
        pd.DataFrame(rows),
        f"evaluation/{{development,external}}/evaluation.json: scores.{CONTROL}, adjusted_auroc",
        notes=(
            "In a matched development set the control lies at 0.5 or, out of fold, somewhat below: "
            "the matched variables tell cases and controls apart no more. The same holds for the "
            "clinical models A and B, which an image model therefore beats by design. An external "
            "set is not matched.",
        ),
        group="Set",
    )


def spread_table(study: StudyFolder) -> Table | None:
    """Return how much the AUROC moves when training is repeated from other seeds."""
    frame = study.table("seeds/spread.csv")
    if frame is None:
        study.miss("Spread over seeds", "the networks were trained from one seed only")
        return None
    rows = [
        {
            "Model": label_of(str(score)),
            "Seeds": str(len(values)),
            "Mean AUROC": number(values.mean()),
            "SD": number(values.std() if len(values) > 1 else None),
            "Least": number(values.min()),
            "Greatest": number(values.max()),
        }
        for score, values in frame.groupby("score", sort=False)["auroc"]
    ]
    return Table(
        "seeds",
        "Supplement Table 8. Spread of the development AUROC over training seeds",
        pd.DataFrame(rows),
        "seeds/spread.csv",
        notes=("This is how repeatable training is. It is no confidence interval.",),
    )


def refusal_table(study: StudyFolder) -> Table | None:
    """Return how many cases each step refused, and why; without names."""
    rows = [
        {"Step": step, "Code": entry["code"], "Case": entry["case_id"], "Message": entry["message"]}
        for step, entries in _refusals(study)
        for entry in entries
    ]
    if not rows:
        return None
    shown = [
        {
            "Step": str(step),
            "Code": str(code),
            "Cases": str(group["Case"].nunique()),
            "Message (of the first)": str(group["Message"].iloc[0]),
        }
        for (step, code), group in pd.DataFrame(rows).groupby(["Step", "Code"], sort=False)
    ]
    return Table(
        "refused",
        "Supplement Table 12. Refused cases",
        pd.DataFrame(shown),
        "imaging/*_refused.csv, image/*/fold_*/**/refused.jsonl",
        notes=("One case may be refused by several steps. Names stand in the files alone.",),
    )


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


def audit_table(study: StudyFolder) -> Table | None:
    """Return the leakage audit: each rule, how often it held, and every breach."""
    document = study.json("audit/leakage.json")
    checks = (document or {}).get("checks") or []
    if not checks:
        study.miss("Leakage audit", "audit/leakage.json is not there")
        return None
    rows = []
    for name in dict.fromkeys(check["name"] for check in checks):
        same = [check for check in checks if check["name"] == name]
        failed = [check for check in same if not check["passed"]]
        first = same[0]["detail"] + (f" (and {len(same) - 1} more)" if len(same) > 1 else "")
        rows.append(
            {
                "Rule": name,
                "Result": "FAILED" if failed else "passed",
                "Checks": str(len(same)),
                "Failed": str(len(failed)),
                "Detail": "; ".join(check["detail"] for check in failed) or first,
            }
        )
    return Table(
        "leakage",
        "Supplement Table 13. Leakage audit",
        pd.DataFrame(rows),
        "audit/leakage.json: checks",
        notes=("Each check recomputes from the study's files what must hold if nothing leaked.",),
    )


def failed_checks(study: StudyFolder) -> list[str]:
    """Return what the leakage audit found wrong."""
    checks = (study.json("audit/leakage.json") or {}).get("checks") or []
    return [f"{check['name']}: {check['detail']}" for check in checks if not check["passed"]]


def sample_size_table(study: StudyFolder) -> Table | None:
    """Return fractures per predictor of the clinical models, and the width of each interval."""
    rows = []
    for name, evaluation in study.evaluations.items():
        for score in study.scores:
            entry = evaluation["scores"].get(score)
            if entry is None:
                continue
            bounds = entry.get("auroc_ci")
            predictors = PREDICTORS.get(score[-1]) if score[:-1] in _FITTED else None
            per = None
            if predictors is not None and name == "development":
                per = min(entry["events"], entry["n"] - entry["events"]) / predictors
            rows.append(
                {
                    "Set": SET_LABELS[name],
                    "Model": label_of(score),
                    "Patients (fractures)": counts(entry["n"], entry["events"]),
                    "Candidate predictors": DASH if predictors is None else str(predictors),
                    "Events per predictor": number(per, 1),
                    "Half width of the AUROC's interval": number(
                        None if bounds is None else (bounds[1] - bounds[0]) / 2
                    ),
                }
            )
    if not rows:
        study.miss("Sample size", "no evaluation is there")
        return None
    return Table(
        "sample_size",
        "Supplement Table 14. Sample size",
        pd.DataFrame(rows),
        "evaluation/{development,external}/evaluation.json: scores[].n, events, auroc_ci",
        notes=(
            "Events per predictor: the smaller of the two classes over the number of variables, "
            "all folds together; each fold's fit sees fewer. Networks have no such number.",
        ),
        group="Set",
    )


_FITTED = ("clinical_", "logistic_")
