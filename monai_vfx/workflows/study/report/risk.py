"""Absolute risk in a study: calibration, correction for sampling, prediction sets, outliers."""

from __future__ import annotations

from collections.abc import Iterator

from monai_vfx.analysis.cohort.variables import label as variable_label
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.page import Facts, Prose
from monai_vfx.workflows.study.report.cells import (
    SET_LABELS,
    counts,
    estimate,
    label_of,
    number,
    percent,
)
from monai_vfx.workflows.study.report.folder import StudyFolder
from monai_vfx.workflows.study.report.tables import PATIENTS, Row, entries, lead, report_table


@report_table("calibration")
def calibration_table(study: StudyFolder) -> Iterator[Row]:
    """Return how well scores and risks agree with the outcomes."""
    for name, score, entry in entries(study):
        found = entry.get("calibration")
        if found:
            yield lead(name, score, entry) | {
                "Read as": "absolute risk" if found["kind"] == "risk" else "score",
                "Slope": estimate(found["slope"], found["slope_ci"], 2),
                "Intercept": estimate(found["intercept"], found["intercept_ci"], 2),
                "Brier": number(found["brier"]),
                "ICI": number(found["ici"]),
                "Mean predicted": number(found["mean_predicted"]),
                "Observed": number(found["observed"]),
            }


def calibration_remarks(study: StudyFolder) -> Prose | None:
    """Return the evaluation's notes on single calibrations."""
    notes = (
        f"{SET_LABELS[name]}, {label_of(score)}: {note}"
        for name, score, entry in entries(study)
        for note in (entry.get("calibration") or {}).get("notes") or ()
    )
    found = tuple(dict.fromkeys(notes))
    return Prose(found, "Remarks on the calibration", listed=True) if found else None


def correction_facts(study: StudyFolder) -> Facts | None:
    """Return the basis of the correction to absolute risk."""
    title, path = "Correction to absolute risk", "calibration/calibration.json"
    found = study.json(path)
    if found is None:
        reason = study.json("calibration/uncalibrated.json") or {}
        study.miss(title, str(reason.get("reason") or f"{path} is not there"))
        return None
    pairs = [
        ("Score", label_of(found["score"])),
        ("Kind", str(found["kind"]).replace("_", " ")),
        ("Fitted on", f"{counts(found['n'], found['events'])} patients (fractures)"),
        ("Left out, score or variable missing", str(found["missing"])),
        (
            "Whole cohort",
            f"{counts(found['population_n'], found['population_events'])} patients (fractures)",
        ),
        ("Slope of the logit of the score", number(found["coefficients"][1])),
        ("Intercept", number(found["coefficients"][0])),
        ("Further terms", ", ".join(variable_label(t["name"]) for t in found["terms"]) or "none"),
    ]
    if found["offset"] is not None:
        low, mean, high = (number(value, 2) for value in found["offset"])
        pairs.append(("Offset of the logit", f"mean {mean}, from {low} to {high}"))
    return Facts(tuple(pairs), title, path)


def _fitted(study: StudyFolder, name: str, title: str) -> Json | None:
    """Return ``calibration/<name>.json``; where it gives a reason instead, note that."""
    path = f"calibration/{name}.json"
    document: Json | None = study.json(path)
    if document is None or document.get("reason"):
        study.miss(title, (document or {}).get("reason") or f"{path} is not there")
        return None
    return document


def conformal_facts(study: StudyFolder) -> Facts | None:
    """Return how often the prediction sets are decisive, and how often they contain the outcome."""
    title = "Conformal prediction sets of the external patients"
    found = _fitted(study, "conformal", title)
    if found is None:
        return None
    pairs = (
        ("Score", label_of(found["score"])),
        ("Nominal coverage, each outcome", percent(found["confidence"])),
        (PATIENTS, counts(found["n"], found["events"])),
        *(
            (f"Set: {name}", f"{count:,} of {found['n']:,} patients")
            for name, count in found["sets"].items()
        ),
        *(
            (f"Coverage, patients with: {name}", percent(covered))
            for name, covered in found["coverage"].items()
        ),
    )
    return Facts(pairs, title, "calibration/conformal.json")


def outlier_facts(study: StudyFolder) -> Facts | None:
    """Return how many external patients lie outside the training distribution."""
    title = "External patients outside the training distribution"
    found = _fitted(study, "outliers", title)
    if found is None:
        return None
    pairs = (
        ("Flagged", f"{found['flagged']:,} of {found['n']:,} patients"),
        ("Threshold", f"the {found['quantile']:g} quantile of the training distances"),
        ("Training patients by fold", ", ".join(str(size) for size in found["training_n"])),
        ("Rule", "Mahalanobis distance of the network's features; most folds must agree"),
    )
    return Facts(pairs, title, "calibration/outliers.json")
