"""Figures of a study's evaluation, drawn from ``evaluation.json`` and the predictions.

The evaluation's own job draws every score under its column's name; here are those of the paper,
under the names that its tables use, both sets side by side where they belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from matplotlib.figure import Figure

from monai_vfx.analysis.cohort.variables import label as variable_label
from monai_vfx.analysis.evaluation.figures import (
    ForestRow,
    RocPanel,
    calibration_figure,
    decision_figure,
    forest_figure,
    incidence_figure,
    roc_data,
    roc_panels,
)
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import RocData
from monai_vfx.workflows.study.report.blocks import Picture
from monai_vfx.workflows.study.report.data import SET_LABELS, StudyFolder, label_of, number
from monai_vfx.workflows.study.report.figures import drawn
from monai_vfx.workflows.study.report.tables import image_scores

MOST_CURVES = 8
"""As many can be told apart."""
ROC_SCORES = (*(f"clinical_{m}" for m in "ABCD"), "frax_major", "imaging_baseline")
"""Beside the image models, in this order, as far as there is room."""
LETTERS = dict(zip(SET_LABELS, "ab", strict=True))


def roc(study: StudyFolder) -> Picture | None:
    """Return Figure 4: image models against clinical ones, both sets side by side."""
    images = image_scores(study)[-2:]
    wanted = [*images, *(s for s in ROC_SCORES if s in study.scores)][:MOST_CURVES]
    panels: list[RocPanel] = []
    files = []
    for name, evaluation in study.evaluations.items():
        curves = _roc_curves(study, name, evaluation, wanted)
        if curves:
            panels.append({"title": SET_LABELS[name], "curves": curves})
            files.append(f"predictions/{name}.csv")
    if not panels:
        study.miss("Figure 4, ROC curves", "predictions/development.csv is not there")
        return None
    svg, png = drawn(roc_panels(panels))
    said = "; ".join(
        f"{panel['title']}: "
        + ", ".join(f"{curve['name']} {curve['auroc']:.3f}" for curve in panel["curves"])
        for panel in panels
    )
    return Picture(
        "roc",
        "Figure 4. ROC curves: image against clinical models",
        f"ROC curves, sensitivity against 1 − specificity. AUROC: {said}.",
        f"{', '.join(files)}; evaluation/…/evaluation.json: scores[].auroc, auroc_ci",
        svg,
        png,
        wide=True,
    )


def _roc_curves(
    study: StudyFolder, name: str, evaluation: Json, wanted: list[str]
) -> list[RocData]:
    """Return the curves of one set, of the scores that can have one."""
    table = study.table(f"predictions/{name}.csv")
    entries = evaluation["scores"]
    if table is None:
        return []
    return [
        roc_data(
            label_of(score).split(" (")[0],
            table[evaluation["label"]].to_numpy(),
            table[score].to_numpy(),
            entries[score],
        )
        for score in wanted
        if score in table and entries.get(score, {}).get("auroc") is not None
    ]


def _by_set(
    study: StudyFolder,
    key: str,
    title: str,
    draw: Callable[[Json], tuple[Figure, str] | None],
    *,
    source: str,
    wide: bool = False,
) -> list[Picture]:
    """Return a figure for each set that ``draw`` finds data in, with what it says it shows."""
    pictures = []
    for name, evaluation in study.evaluations.items():
        found = draw(evaluation)
        if found is None:
            continue
        figure, alt = found
        svg, png = drawn(figure)
        numbered, _, words = title.partition(". ")
        pictures.append(
            Picture(
                f"{key}_{name}",
                f"{numbered}{LETTERS[name]}. {words}, {SET_LABELS[name].lower()}",
                f"{SET_LABELS[name]}: {alt}",
                f"evaluation/{name}/evaluation.json: {source}",
                svg,
                png,
                wide=wide,
            )
        )
    return pictures


def calibration(study: StudyFolder) -> list[Picture]:
    """Return reliability plots of the image models' scores and of the absolute risks."""
    images = image_scores(study)

    def draw(evaluation: Json) -> tuple[Figure, str] | None:
        found = {
            label_of(score): entry["calibration"]
            for score, entry in evaluation["scores"].items()
            if (score in images or score.startswith("risk_")) and entry.get("calibration")
        }
        if not found:
            return None
        said = "; ".join(
            f"{name}: slope {number(c['slope'], 2)}, mean predicted "
            f"{number(c['mean_predicted'])}, observed {number(c['observed'])}"
            for name, c in found.items()
        )
        return calibration_figure(found), f"observed share of fractures against predicted. {said}."

    title = "Supplement Figure 3. Calibration: scores, and risks after correction"
    return _by_set(study, "calibration", title, draw, source="scores[].calibration", wide=True)


def decision(study: StudyFolder) -> list[Picture]:
    """Return decision curves of the scores that are absolute risks."""

    def draw(evaluation: Json) -> tuple[Figure, str] | None:
        found = {
            label_of(score): entry["decision_curve"]
            for score, entry in evaluation["scores"].items()
            if entry.get("decision_curve")
        }
        if not found:
            return None
        found = dict(list(found.items())[:MOST_CURVES])
        said = "net benefit against the risk from which one treats, beside treating all and none"
        return decision_figure(found), f"{said}: {', '.join(found)}."

    title = "Supplement Figure 4. Decision curves"
    return _by_set(study, "decision", title, draw, source="scores[].decision_curve", wide=True)


def incidence(study: StudyFolder) -> list[Picture]:
    """Return the cumulative incidence of fracture, death competing."""

    def draw(evaluation: Json) -> tuple[Figure, str] | None:
        found = evaluation.get("cumulative_incidence")
        if not found:
            return None
        last = f"{100 * found['fracture'][-1]:.1f} % fractured and {100 * found['death'][-1]:.1f} %"
        said = f"cumulative incidence; after {found['times'][-1]:g} years {last} died before."
        return incidence_figure(found), said

    title = "Supplement Figure 5. Cumulative incidence of fracture"
    pictures = _by_set(study, "incidence", title, draw, source="cumulative_incidence")
    if not study.matched:
        return pictures
    note = "Controls were sampled: this is not the incidence among all patients."
    return [
        replace(picture, notes=(note,)) if picture.key.endswith("_development") else picture
        for picture in pictures
    ]


def forest(study: StudyFolder) -> list[Picture]:
    """Return the main score's AUROC by subgroup."""

    def draw(evaluation: Json) -> tuple[Figure, str] | None:
        groups = (evaluation["scores"].get(study.main) or {}).get("subgroups")
        if not groups:
            return None
        rows: list[ForestRow] = [
            ForestRow(
                variable=variable_label(group["variable"]),
                value=str(group["value"]),
                n=group["n"],
                events=group["events"],
                auroc=group["auroc"],
                ci=group["ci"],
                note=group["note"],
            )
            for group in groups
        ]
        said = ", ".join(f"{r['variable']} {r['value']} {number(r['auroc'], 2)}" for r in rows)
        return forest_figure(rows), f"AUROC with 95 % interval by subgroup: {said}."

    title = f"Supplement Figure 6. Subgroups of “{label_of(study.main)}”"
    source = f"scores.{study.main}.subgroups"
    return _by_set(study, "subgroups", title, draw, source=source, wide=True)
