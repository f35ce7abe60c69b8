"""Absolute risk in a study: calibration, the correction for sampling, sets, and unlike cases."""

from __future__ import annotations

import pandas as pd

from monai_vfx.analysis.cohort.variables import label as variable_label
from monai_vfx.core.arrays import Json
from monai_vfx.workflows.study.report.blocks import Facts, Table
from monai_vfx.workflows.study.report.data import (
    SET_LABELS,
    StudyFolder,
    counts,
    estimate,
    label_of,
    number,
    percent,
)
from monai_vfx.workflows.study.report.supplement import entries_with


def calibration_table(study: StudyFolder) -> Table | None:
    """Return how well scores and risks agree with what happened."""
    rows = [
        {
            "Set": SET_LABELS[name],
            "Model": label_of(score),
            "Patients (fractures)": counts(entry["n"], entry["events"]),
            "Read as": "absolute risk" if found["kind"] == "risk" else "score",
            "Slope": estimate(found["slope"], found["slope_ci"], 2),
            "Intercept": estimate(found["intercept"], found["intercept_ci"], 2),
            "Brier": number(found["brier"]),
            "ICI": number(found["ici"]),
            "Mean predicted": number(found["mean_predicted"]),
            "Observed": number(found["observed"]),
        }
        for name, score, entry, found in entries_with(study, "calibration")
    ]
    if not rows:
        study.miss("Calibration", "no calibration in evaluation.json")
        return None
    return Table(
        "calibration",
        "Supplement Table 4. Calibration",
        pd.DataFrame(rows),
        "evaluation/{development,external}/evaluation.json: scores[].calibration",
        notes=(
            "Slope 1 and intercept 0 are ideal; ICI: mean absolute distance from the smoothed "
            "calibration curve. A score of a network trained on sampled controls is no risk: its "
            "mean is not meant to equal the observed share.",
            *dict.fromkeys(
                f"{SET_LABELS[name]}, {label_of(score)}: {note}"
                for name, score, _, found in entries_with(study, "calibration")
                for note in found.get("notes") or ()
            ),
        ),
        group="Set",
    )


def correction_facts(study: StudyFolder) -> Facts | None:
    """Return what the correction to absolute risk rests on."""
    title, path = "The correction to absolute risk", "calibration/calibration.json"
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
    """Return how often the prediction sets decide, and how often they hold the truth."""
    title = "Conformal prediction sets of the external patients"
    found = _fitted(study, "conformal", title)
    if found is None:
        return None
    pairs = [
        ("Score", label_of(found["score"])),
        ("Nominal coverage, each outcome", percent(found["confidence"])),
        ("Patients (fractures)", counts(found["n"], found["events"])),
    ]
    pairs += [
        (f"Set: {name}", f"{count:,} of {found['n']:,} patients")
        for name, count in found["sets"].items()
    ]
    pairs += [
        (f"Set holds the truth, patients with: {name}", percent(share))
        for name, share in found["coverage"].items()
    ]
    return Facts(tuple(pairs), title, "calibration/conformal.json")


def outlier_facts(study: StudyFolder) -> Facts | None:
    """Return how many external patients are unlike those the network was trained on."""
    title = "External patients unlike those the network was trained on"
    found = _fitted(study, "outliers", title)
    if found is None:
        return None
    sizes = ", ".join(str(size) for size in found["training_n"])
    pairs = (
        ("Flagged", f"{found['flagged']:,} of {found['n']:,} patients"),
        ("Flagged beyond", f"the {found['quantile']:g} quantile of the training distances"),
        ("Training patients by fold", sizes),
        ("Rule", "Mahalanobis distance of the network's features; most folds must agree"),
    )
    return Facts(pairs, title, "calibration/outliers.json")
