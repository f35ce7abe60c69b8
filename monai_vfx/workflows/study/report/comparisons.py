"""Every comparison and every threshold of a study: what stands behind the tables of the paper."""

from __future__ import annotations

import pandas as pd

from monai_vfx.core.arrays import Json
from monai_vfx.workflows.study.report.blocks import Table
from monai_vfx.workflows.study.report.data import (
    SET_LABELS,
    StudyFolder,
    counts,
    estimate,
    label_of,
    number,
    p_value,
)
from monai_vfx.workflows.study.report.tables import QUANTITIES, evaluation_source, share


def auroc_comparisons(study: StudyFolder) -> Table | None:
    """Return every test of two AUROCs, so that what Holm counted can be counted again."""
    rows = [
        {
            "Set": SET_LABELS[name],
            "First": label_of(test["a"]),
            "Second": label_of(test["b"]),
            "Patients (fractures)": counts(test["n"], test["events"]),
            "First − second": estimate(test["difference"], test["difference_ci"]),
            "p": p_value(test["p"]),
            "p (Holm)": p_value(test["p_holm"]),
        }
        for name, evaluation in study.evaluations.items()
        for test in evaluation.get("comparisons", ())
        if test["test"] == "delong"
    ]
    if not rows:
        return None
    return Table(
        "auroc_comparisons",
        "Supplement Table 9. All differences in AUROC",
        pd.DataFrame(rows),
        evaluation_source(study),
        notes=("Difference with DeLong's 95 % interval, and DeLong's test.",),
        group="Set",
    )


def decision_comparisons(study: StudyFolder) -> Table | None:
    """Return every McNemar test, a line for each pair of scores and threshold rule."""
    lines: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for name, evaluation in study.evaluations.items():
        for test in evaluation.get("comparisons", ()):
            if test["test"] == "mcnemar":
                line = lines.setdefault((name, test["a"], test["b"], test["rule"]), {})
                line |= _mcnemar_cells(test)
    if not lines:
        return None
    rows = [
        {
            "Set": SET_LABELS[name],
            "First": label_of(a),
            "Second": label_of(b),
            "Threshold": rule,
            **cells,
        }
        for (name, a, b, rule), cells in lines.items()
    ]
    return Table(
        "decision_comparisons",
        "Supplement Table 10. All comparisons of decisions",
        pd.DataFrame(rows),
        evaluation_source(study),
        notes=(
            "Alone right: patients that only the first / only the second score calls rightly, of "
            "all patients (accuracy), those with (sensitivity), those without a fracture "
            "(specificity). Exact McNemar test.",
        ),
        group="Set",
    )


def _mcnemar_cells(test: Json) -> dict[str, str]:
    quantity = test["quantity"].capitalize()
    return {
        f"{quantity}: alone right": f"{test['only_a']} / {test['only_b']} of {test['n']}",
        f"{quantity}: p": p_value(test["p"]),
        f"{quantity}: p (Holm)": p_value(test["p_holm"]),
    }


def operating_points(study: StudyFolder) -> Table | None:
    """Return every score at every threshold, predictive values included."""
    rows = [
        {
            "Set": SET_LABELS[name],
            "Model": label_of(score),
            "Rule": point["rule"],
            "Threshold": number(point["threshold"])
            if point["threshold"] is not None
            else "by fold",
            "Chosen on": str(point["chosen_on"]),
            **{q.capitalize(): share(point, q) for q in QUANTITIES},
            "PPV": share(point, "ppv"),
            "NPV": share(point, "npv"),
        }
        for name, evaluation in study.evaluations.items()
        for score in study.scores
        for point in (evaluation["scores"].get(score) or {}).get("operating_points") or ()
    ]
    if not rows:
        study.miss("Operating points", "no threshold was given")
        return None
    return Table(
        "operating_points",
        "Supplement Table 11. Every score at every threshold",
        pd.DataFrame(rows),
        f"{evaluation_source(study)}[].operating_points",
        notes=(
            "Wilson intervals, 95 %. Predictive values hold for the share of fractures in the set: "
            "not for the population where controls were sampled.",
        ),
        group="Set",
    )
