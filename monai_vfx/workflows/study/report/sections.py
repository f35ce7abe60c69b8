"""The sections of a study's report, in the order of a paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd
import yaml

from monai_vfx.workflows.study.report import comparisons, curves, figures, risk, supplement, tables
from monai_vfx.workflows.study.report.blocks import (
    Block,
    Facts,
    Picture,
    Prose,
    Section,
    Table,
    Verbatim,
)
from monai_vfx.workflows.study.report.checklists import CHECKLISTS, checklist_table
from monai_vfx.workflows.study.report.data import SET_LABELS, SETS, StudyFolder, label_of
from monai_vfx.workflows.study.report.methods import methods, model_card
from monai_vfx.workflows.study.report.text import key_results, summary

Blocks = list[Block | None]


def all_sections(study: StudyFolder) -> list[Section]:
    """Return the sections that have content; what has none is named in the last but one.

    Args:
        study: the folder; what is read, and what is missing, is noted in it.
    """
    sections = [
        Section(key, title, tuple(block for block in build(study) if block is not None))
        for key, title, build in _RESULTS
    ]
    sections = [section for section in sections if section.blocks]
    answered = {section.key: section.title for section in sections}
    answered |= {"provenance": "Provenance"}
    if "external" in study.evaluations:
        answered["external"] = f"{SET_LABELS['external']} in all tables"
    checklists = tuple(checklist_table(name, answered) for name in CHECKLISTS)
    sections.append(Section("checklists", "Reporting checklists", checklists))
    if study.absent:
        sections.append(Section("absent", "Not part of this study", (_absent(study),)))
    used = tuple(_provenance(study, sections))
    return [*sections, Section("provenance", "Provenance", used)]


def _summary(study: StudyFolder) -> Blocks:
    sentences = summary(study)
    if not sentences:
        study.miss("Key results", "evaluation/development/evaluation.json is not there")
    return [Prose(tuple(sentences), listed=True) if sentences else None, key_results(study)]


def _participants(study: StudyFolder) -> Blocks:
    flows = []
    for n, name in enumerate(side for side in SETS if (study.root / "cohort" / side).is_dir()):
        flow = study.json(f"cohort/{name}/flow.json") or {"steps": []}
        side = SET_LABELS[name].split(" (")[0]
        said = ", ".join(f"{s.get('label') or s['name']}: {s['n']:,}" for s in flow["steps"])
        flows.append(
            figures.job_figure(
                study,
                f"cohort/{name}/figures/flow",
                key=f"flow_{name}",
                title=f"Figure 1{'ab'[n]}. Participant flow: {side.lower()}",
                alt=f"Participant flow of the {side.lower()}. {said}.",
                wide=True,
            )
        )
    return [*flows, tables.flow_table(study), *tables.participants(study)]


def _matching(study: StudyFolder) -> Blocks:
    love = figures.job_figure(
        study,
        "cohort/development/figures/love",
        key="love",
        title="Supplement Figure 2. Balance before and after matching",
        alt="Love plot: standardised mean difference of each variable before and after matching; "
        "the numbers are in the table of balance",
    )
    return [love, tables.balance_table(study)]


def _inputs(study: StudyFolder) -> Blocks:
    png = study.content("gallery/inputs.png")
    if png is None:
        study.miss("Supplement Figure 1, input images", "gallery/inputs.png is not there")
        return []
    return [
        Picture(
            "inputs",
            "Supplement Figure 1. Input images of both classes",
            "Axial CT slices as the networks see them, bone only beside bone + muscle",
            "gallery/inputs.png",
            None,
            png,
            wide=True,
        )
    ]


def _calibration(study: StudyFolder) -> Blocks:
    return [
        *curves.calibration(study),
        risk.calibration_table(study),
        risk.correction_facts(study),
    ]


def _decision(study: StudyFolder) -> Blocks:
    found = curves.decision(study)
    if not found:
        study.miss("Decision curves", "no score is an absolute risk")
    return [*found]


def _time(study: StudyFolder) -> Blocks:
    found = curves.incidence(study)
    if not found:
        study.miss("Cumulative incidence", "no follow-up times were evaluated")
    return [*found, supplement.time_table(study)]


def _subgroups(study: StudyFolder) -> Blocks:
    return [*curves.forest(study), supplement.subgroup_table(study)]


def _uncertainty(study: StudyFolder) -> Blocks:
    return [risk.conformal_facts(study), risk.outlier_facts(study)]


def _comparisons(study: StudyFolder) -> Blocks:
    remarks = [
        f"{SET_LABELS[name]}: {note}"
        for name, evaluation in study.evaluations.items()
        for note in evaluation.get("notes") or ()
    ]
    said = Prose(tuple(remarks), "Remarks of the evaluation", listed=True) if remarks else None
    return [
        comparisons.auroc_comparisons(study),
        comparisons.decision_comparisons(study),
        said,
    ]


def _refused(study: StudyFolder) -> Blocks:
    table = supplement.refusal_table(study)
    if table is not None:
        return [table]
    return [Prose(("No case was refused: no step left a list of refusals with an entry.",))]


def _methods(study: StudyFolder) -> Blocks:
    return [Prose(tuple(paragraphs), heading) for heading, paragraphs in methods(study)]


def _model_card(study: StudyFolder) -> Blocks:
    return [Facts(tuple(model_card(study)))] if study.scores else []


def _one(build: Callable[[StudyFolder], Block | None]) -> Callable[[StudyFolder], Blocks]:
    """Make a section of a single block."""
    return lambda study: [build(study)]


_RESULTS: tuple[tuple[str, str, Callable[[StudyFolder], Iterable[Block | None]]], ...] = (
    ("summary", "Summary", _summary),
    ("participants", "Participants", _participants),
    ("matching", "Matching", _matching),
    ("network", "Network", _one(figures.architecture)),
    ("inputs", "Input images", _inputs),
    ("image-models", "Image models", _one(tables.table_3)),
    ("clinical-models", "Image against clinical models", _one(tables.table_4)),
    ("fusion", "Image and clinical variables together", _one(tables.supplement_table_1)),
    ("roc", "ROC curves", _one(curves.roc)),
    ("further", "Further scores", _one(tables.further_scores)),
    ("calibration", "Calibration", _calibration),
    ("decision", "Decision curves", _decision),
    ("time", "Time to fracture", _time),
    ("subgroups", "Subgroups", _subgroups),
    ("control", "Negative control", _one(supplement.control_table)),
    ("gradcam", "Where the networks look", figures.gallery),
    ("uncertainty", "Prediction sets and unlike cases", _uncertainty),
    ("seeds", "Spread over seeds", _one(supplement.spread_table)),
    ("comparisons", "All comparisons", _comparisons),
    ("operating-points", "All thresholds", _one(comparisons.operating_points)),
    ("refused", "Refused cases", _refused),
    ("audit", "Leakage audit", _one(supplement.audit_table)),
    ("sample-size", "Sample size", _one(supplement.sample_size_table)),
    ("methods", "Methods", _methods),
    ("model-card", "Model card", _model_card),
)
"""Anchor, heading and builder of each section with content of the study."""


def _absent(study: StudyFolder) -> Table:
    rows = [{"Part": part, "Why": reason} for part, reason in study.absent.items()]
    return Table(
        "absent",
        "Parts that this report could show and this study has no data for",
        pd.DataFrame(rows),
        "the study's folder",
    )


def _provenance(study: StudyFolder, sections: Iterable[Section]) -> Iterable[Block]:
    """Yield what made this report: study, versions, settings, and every file it rests on."""
    about = study.about
    yield Facts(
        (
            ("Study", str(about.get("name"))),
            ("Seed", str(about.get("seed"))),
            ("Patients", "simulated" if study.simulated else "as in the study's tables"),
            ("Main score", f"{label_of(study.main)} ({study.main})"),
            *((f"Version, {k}", str(v)) for k, v in (about.get("versions") or {}).items()),
        ),
        "This study",
        "study.json",
    )
    yield Verbatim(
        "Settings in force (study.json: settings)",
        yaml.safe_dump(study.settings, sort_keys=False, allow_unicode=True),
    )
    origins = [
        {
            "Table or figure": block.title,
            "File in report/": _file(block),
            "Numbers from": block.source,
        }
        for section in sections
        for block in section.blocks
        if isinstance(block, Table | Picture)
    ]
    yield Table(
        "origins",
        "Where each table and figure comes from",
        pd.DataFrame(origins),
        "this report",
    )
    files = [{"File of the study": k, "SHA-256": v} for k, v in sorted(study.used.items())]
    yield Table("files", "Files read for this report", pd.DataFrame(files), "the study's folder")


def _file(block: Table | Picture) -> str:
    if isinstance(block, Table):
        return f"tables/{block.key}.csv"
    return f"figures/{block.key}" + (".svg, .png" if block.svg and block.png else ".png")
