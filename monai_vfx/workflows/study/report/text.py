"""The sentences of a study's report: each is put together from the numbers and true in any case."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from monai_vfx.core.arrays import Json
from monai_vfx.workflows.study.report.blocks import Table
from monai_vfx.workflows.study.report.data import (
    SET_LABELS,
    SETS,
    StudyFolder,
    comparison,
    counts,
    estimate,
    interval,
    label_of,
    number,
    p_value,
    percent,
)
from monai_vfx.workflows.study.report.tables import COMPARATORS, CONTROL, FUSIONS, image_scores

USUAL_EXTERNAL = 0.75
"""AUROC; later studies of the question report external five-year values of 0.70-0.74."""
LEVEL = 0.05


def short_set(name: str) -> str:
    """Return a set's name within a sentence."""
    return {"development": "development set", "external": "external set"}[name]


def key_results(study: StudyFolder) -> Table | None:
    """Return AUROCs of the main scores in both sets, the table of the summary."""
    wanted = [*image_scores(study), *(s for s in COMPARATORS if not s.startswith("logistic_"))]
    rows = []
    for score in [*wanted, CONTROL]:
        if score not in study.scores:
            continue
        row = {"Model": label_of(score)}
        for name in SETS:
            entry = (study.evaluations.get(name) or {"scores": {}})["scores"].get(score) or {}
            heading = SET_LABELS[name]
            row[f"{heading}: AUROC"] = estimate(entry.get("auroc"), entry.get("auroc_ci"))
            row[f"{heading}: patients (fractures)"] = counts(entry.get("n"), entry.get("events"))
        rows.append(row)
    if not rows:
        return None
    return Table(
        "key_results",
        "Key results: AUROC with 95 % DeLong interval",
        pd.DataFrame(rows),
        "evaluation/{development,external}/evaluation.json: scores[].auroc, auroc_ci, n, events",
    )


def summary(study: StudyFolder) -> list[str]:
    """Return the key results in sentences."""
    sentences = [_participants(study, name) for name in SETS if name in study.evaluations]
    if "external" not in study.evaluations:
        sentences.append("There is no external set: nothing here shows how the models travel.")
    for name, evaluation in study.evaluations.items():
        entry = evaluation["scores"].get(study.main)
        if entry is not None:
            sentences.append(_discrimination(study.main, name, entry))
    for name, evaluation in study.evaluations.items():
        sentences += [
            _against(evaluation, name, study.main, other) for other in image_scores(study)[:-1]
        ]
        sentences += [
            _tally(evaluation, name, study.main, scores, words)
            for scores, words in (
                (COMPARATORS, "clinical models, FRAX scores and imaging baselines"),
                (FUSIONS, "models that join image and clinical variables"),
            )
        ]
    sentences += [_calibration(study, name) for name in study.evaluations]
    return [sentence for sentence in sentences if sentence]


def _participants(study: StudyFolder, name: str) -> str:
    n, events = study.evaluations[name]["n"], study.evaluations[name]["events"]
    share = f" ({percent(events / n)})" if n else ""
    sampled = " Controls were sampled: this share is no risk."
    return (
        f"The {short_set(name)} holds {n:,} patients, {events:,} of them with a vertebral fracture "
        f"within five years{share}.{sampled if study.matched and name == 'development' else ''}"
    )


def _discrimination(score: str, name: str, entry: Json) -> str:
    """Say how well a score ranks, whatever the answer."""
    if entry["auroc"] is None:
        return (
            f"In the {short_set(name)} the discrimination of “{label_of(score)}” cannot be "
            f"estimated: {counts(entry['n'], entry['events'])} patients (fractures)."
        )
    low, high = entry["auroc_ci"]
    verdict = ""
    if low <= 0.5 <= high:
        verdict = " The interval includes 0.5: no better than chance has not been ruled out."
    elif high < 0.5:
        verdict = " It lies below 0.5: the score ranks patients the wrong way round."
    return (
        f"“{label_of(score)}” reached an AUROC of {number(entry['auroc'])} (95 % interval "
        f"{interval(entry['auroc_ci'])[1:-1].replace('–', ' to ')}) in the {short_set(name)}, from "
        f"{entry['events']:,} fractures among {entry['n']:,} patients.{verdict}"
    )


def _against(evaluation: Json, name: str, main: str, other: str) -> str:
    """Say how two image models compare."""
    test = comparison(evaluation, main, other)
    if test is None:
        return ""
    sign = 1 if test["a"] == main else -1
    difference = sign * test["difference"]
    bounds = test.get("difference_ci")
    if bounds is not None:
        bounds = sorted(sign * bound for bound in bounds)
    word = "higher" if difference > 0 else "lower" if difference < 0 else "the same"
    size = f"by {number(abs(difference))} " if difference else ""
    clear = (
        "The difference is clear after Holm's correction."
        if test["p_holm"] < LEVEL
        else "After Holm's correction the difference is not clear."
    )
    return (
        f"In the {short_set(name)} the AUROC of “{label_of(main)}” is {word} {size}against "
        f"“{label_of(other)}” (difference {estimate(difference, bounds)}; "
        f"{_p_words(test['p'])}, after Holm {_p_words(test['p_holm'])}; "
        f"{test['events']:,} fractures among {test['n']:,} patients). {clear}"
    )


def _p_words(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _tally(evaluation: Json, name: str, main: str, scores: Sequence[str], words: str) -> str:
    """Count the comparisons for and against the main score; none is picked out."""
    tests = [t for s in scores if (t := comparison(evaluation, main, s)) is not None]
    if not tests:
        return ""
    signs = [(1 if t["a"] == main else -1) * t["difference"] for t in tests]
    clear = [t["p_holm"] < LEVEL for t in tests]
    ahead = sum(c and s > 0 for c, s in zip(clear, signs, strict=True))
    behind = sum(c and s < 0 for c, s in zip(clear, signs, strict=True))
    return (
        f"Of {len(tests)} comparisons of “{label_of(main)}” with {words} in the "
        f"{short_set(name)}, {ahead} favour it after Holm's correction, {behind} favour the other "
        f"model, and {len(tests) - ahead - behind} decide nothing."
    )


def _calibration(study: StudyFolder, name: str) -> str:
    """Say how the calibrated risk fits in one set."""
    for score, entry in study.evaluations[name]["scores"].items():
        found = entry.get("calibration")
        if found and found["kind"] == "risk":
            return (
                f"“{label_of(score)}”, corrected for the sampling of controls, in the "
                f"{short_set(name)}: mean predicted {percent(found['mean_predicted'])}, "
                f"observed {percent(found['observed'])}; calibration slope "
                f"{estimate(found['slope'], found['slope_ci'], 2)}."
            )
    return ""


def cautions(study: StudyFolder) -> list[str]:
    """Return what a reader must see before any number."""
    found = []
    for name, evaluation in study.evaluations.items():
        entry = evaluation["scores"].get(study.main) or {}
        value = entry.get("auroc")
        if not study.simulated and name == "external" and (value or 0) > USUAL_EXTERNAL:
            found.append(
                f"The external AUROC of {number(value)} is above what later studies of this "
                "question report (0.70 to 0.74): look for leakage and for selection first."
            )
        if 0 < evaluation["events"] < 100 or 0 < evaluation["n"] - evaluation["events"] < 100:
            fewer = min(evaluation["events"], evaluation["n"] - evaluation["events"])
            found.append(
                f"The {short_set(name)} has only {fewer} patients in its smaller class: at least "
                "100 are advised for judging a prediction model."
            )
        if not evaluation["events"]:
            found.append(
                f"The {short_set(name)} has no fracture: nothing can be said of discrimination."
            )
    return found
