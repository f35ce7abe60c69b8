"""The figures of a study: those its jobs drew, and curves from its evaluation and predictions.

The evaluation's own job draws every score under its column's name; here are the figures of the
paper, with the labels of its tables and both sets side by side where they belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from matplotlib.figure import Figure as Drawing

from monai_vfx.analysis.cohort.variables import label as variable_label
from monai_vfx.analysis.evaluation.figures import (
    RocData,
    RocPanel,
    calibration_figure,
    decision_figure,
    incidence_figure,
    roc_data,
    roc_panels,
)
from monai_vfx.analysis.evaluation.forest import ForestRow, forest_figure
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import figure_files
from monai_vfx.outputs.report.page import Figure
from monai_vfx.workflows.study.report.cells import SET_LABELS, SETS, label_of, number
from monai_vfx.workflows.study.report.folder import StudyFolder
from monai_vfx.workflows.study.report.tables import image_scores

MAX_SVG_BYTES = 1_500_000
"""A larger drawing is embedded as pixels."""
MAX_CURVES = 8
"""More cannot be told apart."""
ROC_SCORES = (*(f"clinical_{m}" for m in "ABCD"), "frax_major", "imaging_baseline")
"""Beside the image models, in this order, up to :data:`MAX_CURVES`."""


def job_figure(
    study: StudyFolder, path: str, *, key: str, title: str, alt: str, wide: bool = False
) -> Figure | None:
    """Return a figure that a job left as SVG or PNG, or None.

    Args:
        study: the folder.
        path: of the figure without ending.
        key: see :class:`~monai_vfx.outputs.report.page.Figure`, as for the rest.
        title: caption.
        alt: text alternative.
        wide: whether it takes the full width.
    """
    svg, png = study.content(path + ".svg"), study.content(path + ".png")
    if svg is not None and len(svg) > MAX_SVG_BYTES and png is not None:
        svg = None
    if svg is None and png is None:
        return None
    return Figure(key, title, alt, path + (".svg" if svg else ".png"), svg, png, wide=wide)


def flows(study: StudyFolder) -> list[Figure | None]:
    """Return Figure 1: the participant flow of each set."""
    found = []
    for n, name in enumerate(side for side in SETS if (study.root / "cohort" / side).is_dir()):
        flow = study.json(f"cohort/{name}/flow.json") or {"steps": []}
        side = SET_LABELS[name].split(" (")[0].lower()
        said = ", ".join(f"{s.get('label') or s['name']}: {s['n']:,}" for s in flow["steps"])
        found.append(
            job_figure(
                study,
                f"cohort/{name}/figures/flow",
                key=f"flow_{name}",
                title=f"Figure 1{'ab'[n]}. Participant flow: {side}",
                alt=f"Participant flow of the {side}. {said}.",
                wide=True,
            )
        )
    return found


def balance(study: StudyFolder) -> Figure | None:
    """Return the love plot of the matching."""
    return job_figure(
        study,
        "cohort/development/figures/love",
        key="love",
        title="Supplement Figure 2. Balance before and after matching",
        alt="Love plot: standardised mean difference of each variable before and after matching; "
        "the numbers are in the table of balance",
    )


def input_images(study: StudyFolder) -> Figure | None:
    """Return the slices that the networks of both image classes read."""
    found = job_figure(
        study,
        "gallery/inputs",
        key="inputs",
        title="Supplement Figure 1. Input images of both classes",
        alt="Axial CT slices as read by the networks, bone only beside bone + muscle",
        wide=True,
    )
    if found is None:
        study.miss("Supplement Figure 1, input images", "gallery/inputs.png is not there")
    return found


def heat_maps(study: StudyFolder) -> list[Figure]:
    """Return Figure 3: heat maps of a few patients, identified by number only."""
    figures = []
    for n, entry in enumerate((study.json("gallery/gallery.json") or {}).get("pictures") or (), 1):
        path, case = f"gallery/{entry['png']}", entry["case_number"]
        png = study.content(path)
        if png is None:
            study.miss(f"Figure 3, patient {case}", f"{entry['png']} is not there")
            continue
        side, outcome = SET_LABELS[entry["set"]].split(" (")[0], entry["fracture"]
        title = (
            f"Figure 3.{n}. {side}, case {case}, {'with' if outcome else 'without'} fracture, "
            f"score {entry['score']:.2f}"
        )
        figures.append(Figure(f"gradcam_{n:02d}", title, entry["alt"], path, png=png, wide=True))
    if not figures:
        study.miss("Figure 3, GradCAM", "gallery/gallery.json lists no figure")
    return figures


def roc(study: StudyFolder) -> Figure | None:
    """Return Figure 4: image models against clinical ones, both sets side by side."""
    images = image_scores(study)[-2:]
    wanted = [*images, *(s for s in ROC_SCORES if s in study.scores)][:MAX_CURVES]
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
    svg, png = figure_files(roc_panels(panels))
    said = "; ".join(
        f"{panel['title']}: "
        + ", ".join(f"{curve['name']} {curve['auroc']:.3f}" for curve in panel["curves"])
        for panel in panels
    )
    return Figure(
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
    if table is None:
        return []
    entries = {score: evaluation["scores"].get(score) or {"auroc": None} for score in wanted}
    return [
        roc_data(label_of(score).split(" (")[0], table[evaluation["label"]], table[score], entry)
        for score, entry in entries.items()
        if score in table and entry["auroc"] is not None
    ]


def _by_set(
    study: StudyFolder,
    key: str,
    title: str,
    source: str,
    draw: Callable[[Json], tuple[Drawing, str] | None],
    *,
    wide: bool = True,
) -> list[Figure]:
    """Return a figure for each set in which ``draw`` finds data, with its text alternative."""
    figures = []
    ordinal, _, words = title.partition(". ")
    for letter, (name, label) in zip("ab", SET_LABELS.items(), strict=True):
        found = draw(study.evaluations[name]) if name in study.evaluations else None
        if found is None:
            continue
        drawing, alt = found
        svg, png = figure_files(drawing)
        figures.append(
            Figure(
                f"{key}_{name}",
                f"{ordinal}{letter}. {words}, {label.lower()}",
                f"{label}: {alt}",
                f"evaluation/{name}/evaluation.json: {source}",
                svg,
                png,
                wide=wide,
            )
        )
    return figures


def calibration(study: StudyFolder) -> list[Figure]:
    """Return reliability plots of the image models' scores and of the absolute risks."""
    images = image_scores(study)

    def draw(evaluation: Json) -> tuple[Drawing, str] | None:
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
    return _by_set(study, "calibration", title, "scores[].calibration", draw)


def decision(study: StudyFolder) -> list[Figure]:
    """Return decision curves of the scores that are absolute risks."""

    def draw(evaluation: Json) -> tuple[Drawing, str] | None:
        found = {
            label_of(score): entry["decision_curve"]
            for score, entry in evaluation["scores"].items()
            if entry.get("decision_curve")
        }
        if not found:
            return None
        found = dict(list(found.items())[:MAX_CURVES])
        said = "net benefit against the risk threshold, beside treating all and treating none"
        return decision_figure(found), f"{said}: {', '.join(found)}."

    title = "Supplement Figure 4. Decision curves"
    figures = _by_set(study, "decision", title, "scores[].decision_curve", draw)
    if not figures:
        study.miss("Decision curves", "no score is an absolute risk")
    return figures


def incidence(study: StudyFolder) -> list[Figure]:
    """Return the cumulative incidence of fracture, death competing."""

    def draw(evaluation: Json) -> tuple[Drawing, str] | None:
        found = evaluation.get("cumulative_incidence")
        if not found:
            return None
        last = f"{100 * found['fracture'][-1]:.1f} % fractured and {100 * found['death'][-1]:.1f} %"
        said = f"cumulative incidence; after {found['times'][-1]:g} years {last} died before."
        return incidence_figure(found), said

    title = "Supplement Figure 5. Cumulative incidence of fracture"
    figures = _by_set(study, "incidence", title, "cumulative_incidence", draw, wide=False)
    if not figures:
        study.miss("Cumulative incidence", "no follow-up times were evaluated")
    note = ("Controls were sampled: this is not the incidence among all patients.",)
    return [
        replace(figure, notes=note) if study.matched and "development" in figure.key else figure
        for figure in figures
    ]


def forest(study: StudyFolder) -> list[Figure]:
    """Return the main score's AUROC by subgroup."""

    def draw(evaluation: Json) -> tuple[Drawing, str] | None:
        groups = (evaluation["scores"].get(study.main) or {}).get("subgroups")
        if not groups:
            return None
        keys = ("n", "events", "auroc", "ci", "note")
        rows: list[ForestRow] = [
            {key: group[key] for key in keys}  # type: ignore[misc]
            | {"variable": variable_label(group["variable"]), "value": str(group["value"])}
            for group in groups
        ]
        said = ", ".join(f"{r['variable']} {r['value']} {number(r['auroc'], 2)}" for r in rows)
        return forest_figure(rows), f"AUROC with 95 % interval by subgroup: {said}."

    title = f"Supplement Figure 6. Subgroups of “{label_of(study.main)}”"
    return _by_set(study, "subgroups", title, f"scores.{study.main}.subgroups", draw)
