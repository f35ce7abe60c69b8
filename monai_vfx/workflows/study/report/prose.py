"""The prose of a study's report: summary, cautions, methods and model card, from templates.

Every sentence of ``templates/*.j2`` is assembled from the study's numbers and settings, and is
true whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.page import text_environment
from monai_vfx.workflows.study.report.cells import (
    counts,
    estimate,
    label_of,
    number,
    p_value,
    percent,
)
from monai_vfx.workflows.study.report.folder import StudyFolder, comparison
from monai_vfx.workflows.study.report.tables import COMPARATORS, FUSIONS, image_scores

SIGNIFICANCE_LEVEL = 0.05
HORIZON_YEARS = 5
CLINICAL_CONTENTS = {
    "A": "age and sex",
    "B": "A and BMI",
    "C": "B and glucocorticoids, alcohol, smoking, possible secondary osteoporosis",
    "D": "C and type 2 diabetes, HIV, hepatitis C, renal failure",
}
MASK_MAKERS = {
    "auto": "the vertebra segmentation of this package",
    "totalsegmentator": "TotalSegmentator",
    "spine-segment": "spine-segment",
}
UNSET_TRAINING = {
    **{"weight_decay": 0.0, "encoder_rate": 1.0, "warmup_epochs": 0, "schedule": "none"},
    **{"gradient_clip": 0.0, "pretrained": None, "bfloat16": False},
    **{"learning_rate": None, "batch_size": None, "max_epochs": None},
}
"""Settings of a training before they existed: without effect."""
AUGMENTATIONS = {
    "augment_shift_mm": "shifts up to {:g} mm",
    "augment_rotate_deg": "rotations up to {:g}°",
    "augment_flip": "left-right flips with probability {:g}",
    "augment_hu": "HU shifts up to {:g}",
    "augment_noise_hu": "noise with an SD up to {:g} HU",
}


def summary(study: StudyFolder) -> list[str]:
    """Return the key results in sentences."""
    return _lines(
        "summary.j2",
        study,
        others=image_scores(study)[:-1],
        rivals=(
            (COMPARATORS, "clinical models, FRAX scores and imaging baselines"),
            (FUSIONS, "models that combine image and clinical variables"),
        ),
        against=lambda evaluation, other: _against(evaluation, study.main, other),
        tally=lambda evaluation, scores: _tally(evaluation, study.main, scores),
        risks=tuple(_risks(study)),
        level=SIGNIFICANCE_LEVEL,
    )


def cautions(study: StudyFolder) -> list[str]:
    """Return what a reader must see before any number."""
    return _lines("cautions.j2", study)


def methods(study: StudyFolder) -> list[tuple[str, list[str]]]:
    """Return the methods with the study's own settings: (heading, paragraphs)."""
    settings = study.settings
    lines = _lines(
        "methods.j2",
        study,
        rules=settings.get("eligibility") or {},
        matching={"method": None, "caliper": None} | (settings.get("matching") or {}),
        training=lambda sidecar: UNSET_TRAINING | sidecar["training"],
        augmentations=_augmentations,
        made_masks=study.made_masks,
        makers=MASK_MAKERS,
        fusions=[n.removeprefix("fusion_") for n in study.sidecars if n.startswith("fusion_")],
        letters=settings.get("clinical") or [],
        contents=CLINICAL_CONTENTS,
        folds=settings.get("folds"),
        seed=study.about.get("seed", settings.get("seed")),
        samples=_bootstrap_samples(study),
        calibration=study.json("calibration/calibration.json"),
        censored=_censored(study),
        years=HORIZON_YEARS,
    )
    parts: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("## "):
            paragraphs = parts.setdefault(line.removeprefix("## "), [])
        else:
            paragraphs.append(line)
    return [(heading, paragraphs) for heading, paragraphs in parts.items() if paragraphs]


def model_card(study: StudyFolder) -> list[tuple[str, str]]:
    """Return what a user of the weights must know, as (name, text)."""
    sidecar = study.sidecars.get(study.main.removeprefix("image_"))
    lines = _lines("model_card.j2", study, sidecar=sidecar)
    return [(name, text) for name, _, text in (line.partition(" | ") for line in lines)]


def _lines(template: str, study: StudyFolder, **context: Any) -> list[str]:
    """Render a template and return its lines, blank ones left out."""
    environment = text_environment("monai_vfx.workflows.study.report")
    environment.filters |= {
        "label": label_of,
        "number": number,
        "percent": percent,
        "setting": _setting,
        "thousands": "{:,}".format,
    }
    text = environment.get_template(template).render(
        main=study.main,
        matched=study.matched,
        simulated=study.simulated,
        evaluations=study.evaluations,
        sidecars=study.sidecars,
        counts=counts,
        estimate=estimate,
        p_words=_p_words,
        **context,
    )
    return [" ".join(line.split(" ")).strip() for line in text.splitlines() if line.strip()]


def _setting(value: object) -> str:
    if value is None:
        return "not stated"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _p_words(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _against(evaluation: Json, main: str, other: str) -> Json | None:
    """Return the test of two image models with the difference as main − other."""
    test = comparison(evaluation, main, other)
    if test is None or test["a"] == main:
        return test
    bounds = test.get("difference_ci")
    turned = None if bounds is None else sorted(-bound for bound in bounds)
    return {**test, "difference": -test["difference"], "difference_ci": turned}


def _tally(evaluation: Json, main: str, scores: Sequence[str]) -> tuple[int, int, int]:
    """Return how many comparisons favour the main score, the other score, and how many exist."""
    tests = [test for score in scores if (test := _against(evaluation, main, score)) is not None]
    clear = [test["difference"] for test in tests if test["p_holm"] < SIGNIFICANCE_LEVEL]
    return sum(d > 0 for d in clear), sum(d < 0 for d in clear), len(tests)


def _risks(study: StudyFolder) -> Iterator[tuple[str, str, Json]]:
    """Yield (set, score, calibration) of the first calibrated risk of each set."""
    for name, evaluation in study.evaluations.items():
        for score, entry in evaluation["scores"].items():
            found = entry.get("calibration")
            if found and found["kind"] == "risk":
                yield name, score, found
                break


def _augmentations(training: Json) -> list[str]:
    """Return the random changes of the images in training, in words."""
    return [words.format(training[n]) for n, words in AUGMENTATIONS.items() if training.get(n)]


def _bootstrap_samples(study: StudyFolder) -> list[int]:
    entries = (e for document in study.evaluations.values() for e in document["scores"].values())
    return sorted({e["bootstrap_samples"] for e in entries if e.get("bootstrap_samples")})


def _censored(study: StudyFolder) -> tuple[int, int] | None:
    """Return the patients of the whole cohort, and how many left early without a fracture."""
    table = study.table("cohort/development/analysed.csv")
    if table is None or "follow_up_years" not in table:
        return None
    early = table["follow_up_years"].astype(float) < HORIZON_YEARS
    return len(table), int((early & (table["fracture"].astype(int) == 0)).sum())
