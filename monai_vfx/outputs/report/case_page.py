"""The page of one case: score, slices with heat map, quality of the model, and limitations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from monai_vfx.core.arrays import Json
from monai_vfx.core.files import write_text
from monai_vfx.outputs.report.figures import figure_png, learning_curve
from monai_vfx.outputs.report.page import (
    Banner,
    Block,
    Facts,
    Figure,
    Part,
    Prose,
    Section,
    Table,
    Verbatim,
    data_uri,
    render,
)
from monai_vfx.outputs.report.slice_montage import (
    HEAT_COLOURS,
    INPUT_HU,
    WINDOW_HU,
    Stack,
    View,
    Window,
    check_view,
    grey,
    png,
)

SIMULATED = Banner(
    "Simulated weights – not a clinical result.",
    "The network was trained on simulated patients. Its score demonstrates the software; it says "
    "nothing about a real person.",
    tone="warn",
)


def write_case_page(
    path: str | Path,
    *,
    prediction: Json,
    image: Stack | None = None,
    heat: Stack | None = None,
    heat_name: str = "GradCAM",
    second: View | None = None,
    names: tuple[str, str] = ("bone + muscle", "bone only"),
    history: Sequence[Mapping[str, float | None]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    roc: Drawing | None = None,
    evaluated_on: str = "",
    facts: Mapping[str, str] | None = None,
    window_hu: Window = INPUT_HU,
    second_window_hu: Window | None = None,
) -> Path:
    """Write the page of one case as one HTML file.

    Parts without data are left out, the limitations never. The file shows the case's name as
    ``prediction`` has it, and nothing else about the patient.

    Args:
        path: of the HTML file.
        prediction: a document of ``data_schemas/prediction.schema.json``, ``ok`` or ``refused``.
        image: (H, W, D), network input in [-1, 1], as
            :func:`monai_vfx.outputs.report.slice_montage.montage` takes it; D is the number of
            slices of ``prediction``.
        heat: (H, W, D), in [0, 1].
        heat_name: method of the heat map, such as ``GradCAM, layer3``.
        second: another image class of the same slices with its heat map.
        names: of the two image classes; shown when there are two.
        history: of the training, see :func:`monai_vfx.outputs.report.figures.learning_curve`.
        evaluation: ``auroc``, ``auroc_ci``, ``n`` and ``events`` of the model on other patients.
        roc: their ROC curve.
        evaluated_on: who these patients were ("200 unseen simulated patients").
        facts: further rows of the table about the model, name → value.
        window_hu: HU that -1 and 1 of ``image`` stand for; in the sidecar of the weights.
        second_window_hu: of ``second``; by default the same.

    Returns:
        ``path``.

    Raises:
        ValueError: arrays do not fit each other or the prediction.
    """
    views = [] if image is None else [(names[0], image, heat, window_hu)]
    if second is not None:
        views.append((names[1], *second, second_window_hu or window_hu))
    shown = [_view(*view, prediction["slices"]) for view in views]
    heated = heat is not None or (second is not None and second[1] is not None)
    sections = (
        Section("result", "Score", tuple(_result(prediction))),
        Section("warnings", "Warnings", tuple(_warnings(prediction))),
        Section(
            "slices",
            "What the network saw" + (", and where it looked" if heated else ""),
            (_slices(shown, heat_name if heated else ""),) if shown else (),
        ),
        Section(
            "model-quality",
            "How the model was trained and tested",
            (*_tested(evaluation, roc, evaluated_on, prediction), *_trained(history)),
        ),
        Section("slice-table", "Slices", tuple(_slice_table(prediction["slices"]))),
        Section("model", "Model", tuple(_model(prediction, facts or {}))),
        Section(
            "limits",
            "Limitations",
            (Part("limits.html.j2", {"simulated": prediction["simulated_weights"]}),),
        ),
    )
    text = render(
        f"Vertebral fracture risk: case {prediction['case_id']}",
        tuple(_banners(prediction)),
        sections,
        kind="Case report",
        subtitle="Incident vertebral fracture T12 to L4 within five years, from one CT",
    )
    write_text(Path(path), text)
    return Path(path)


def _banners(prediction: Json) -> Iterator[Banner]:
    if prediction["simulated_weights"]:
        yield SIMULATED
    refusal = prediction["refusal"]
    if refusal:
        items = (f"What to do: {refusal['remedy']}", f"Code {refusal['code']}; no score computed.")
        yield Banner("This case was not accepted.", refusal["message"], items, "stop")


def _result(prediction: Json) -> Iterator[Block]:
    if prediction["refusal"]:
        return
    simulated, risk = prediction["simulated_weights"], prediction["risk_5y"]
    yield Part("score.html.j2", {"score": prediction["score"], "simulated": simulated})
    words = "not given: this model has no calibration to absolute risk"
    if risk is not None:
        words = f"{100 * risk:.1f} %"
        if prediction["risk_5y_interval"]:
            low, high = prediction["risk_5y_interval"]
            words += f" ({100 * low:.1f} to {100 * high:.1f} %)"
        words += ", simulated" if simulated else ""
    slices = prediction["slices"]
    spread = f"evenly spread from {slices[0]['level']} to {slices[-1]['level']}"
    pairs = [
        ("Five-year risk", words),
        ("Levels read", ", ".join(prediction["levels"])),
        ("Slices read", f"{len(slices)}, {spread}"),
    ]
    if prediction["spacing_mm"]:
        pairs.append(
            ("CT voxels", " × ".join(f"{mm:.2f}" for mm in prediction["spacing_mm"]) + " mm")
        )
    yield Facts((*pairs, ("Warnings", str(len(prediction["warnings"]) or "none"))))


def _warnings(prediction: Json) -> Iterator[Block]:
    if prediction["warnings"]:
        found = (f"{warning['message']} ({warning['code']})" for warning in prediction["warnings"])
        yield Prose(tuple(found), listed=True)


def _view(name: str, image: Stack, heat: Stack | None, window: Window, slices: list[Json]) -> Json:
    """Return one image class: a CT image per slice in the network's pixels, and its heat map."""
    check_view(image, heat, name)
    if image.shape[2] != len(slices):
        raise ValueError(f"{name} has {image.shape[2]} slices; prediction has {len(slices)}")
    levels = grey(image, window)
    tiles: list[Json] = [
        {**entry, "ct": data_uri(png(levels[:, :, n])), "heat": None}
        for n, entry in enumerate(slices)
    ]
    if heat is not None:
        for n, tile in enumerate(tiles):
            warm = heat[:, :, n]
            tile["heat"] = data_uri(png(HEAT_COLOURS(warm, bytes=True)))
            tile["maximum"] = float(warm.max())
    return {"name": name, "size": (image.shape[1], image.shape[0]), "tiles": tiles}


def _slices(views: Sequence[Json], heat_name: str) -> Part:
    ends = (np.array(HEAT_COLOURS(end)) * (255, 255, 255, 1) for end in (0.0, 1.0))
    ramp = [f"rgba({r:.0f}, {g:.0f}, {b:.0f}, {opacity:g})" for r, g, b, opacity in ends]
    window = [int(bound) for bound in WINDOW_HU]
    return Part(
        "slices.html.j2",
        {"views": views, "heat_name": heat_name, "ramp": ramp, "window": window},
    )


def _tested(
    evaluation: Mapping[str, Any] | None, roc: Drawing | None, cohort: str, prediction: Json
) -> Iterator[Block]:
    """Yield the ROC curve with its AUROC in words."""
    if evaluation is None:
        return
    low, high = evaluation["auroc_ci"]
    words = f"AUROC {evaluation['auroc']:.3f}, 95 % interval {low:.3f} to {high:.3f}"
    note = f"{words}, from {evaluation['events']} fractures among {evaluation['n']} patients."
    if low <= 0.5:
        note += " The interval includes 0.5: no better than chance has not been ruled out."
    if prediction["simulated_weights"]:
        note += " Simulated patients: this is not clinical accuracy."
    title = "Test" + (f" on {cohort}" if cohort else "")
    if roc is None:
        yield Prose((note,), title)
        return
    alt = f"ROC curve: sensitivity against 1 − specificity; {words}"
    yield Figure("roc", title, alt, png=figure_png(roc), notes=(note,))


def _trained(history: Sequence[Mapping[str, float | None]] | None) -> Iterator[Figure]:
    """Yield the learning curve with the best epoch in words."""
    if not history:
        return
    words = f"{len(history)} epochs."
    measured = [row for row in history if row.get("validation_auroc") is not None]
    if measured:
        best = max(measured, key=lambda row: float(row["validation_auroc"] or 0.0))
        auroc, epoch = best["validation_auroc"], best["epoch"]
        words += f" Best validation AUROC {auroc:.3f} in epoch {epoch:.0f}."
    alt = f"Loss and validation AUROC by epoch. {words}"
    drawn = figure_png(learning_curve(history))
    yield Figure("learning", "Learning curve", alt, png=drawn, notes=(words,))


def _slice_table(slices: Sequence[Json]) -> Iterator[Block]:
    if not slices:
        return
    rows = [
        {"Level": entry["level"], "Slice": str(entry["index"])}
        | {axis: f"{mm:.1f}" for axis, mm in zip("xyz", entry["centre_mm"], strict=True)}
        for entry in slices
    ]
    note = (
        "Slices are numbered from the feet, starting at 0. x, y, z: centre of the vertebral body "
        "in patient coordinates, mm (to the left, to posterior, to the head)."
    )
    yield Table("slices", "Slices read by the network", pd.DataFrame(rows), notes=(note,))
    if slices[0]["sop_instance_uid"]:
        uids = "\n".join(entry["sop_instance_uid"] for entry in slices)
        yield Verbatim("DICOM instances of these slices", uids)


def _model(prediction: Json, facts: Mapping[str, str]) -> Iterator[Block]:
    pairs: list[tuple[str, str]] = []
    model = prediction["model"]
    if model:
        simulated = prediction["simulated_weights"]
        pairs = [
            ("Bundle", f"{model['bundle']} {model['version']}"),
            ("Trained on", "simulated patients" if simulated else "see the weights' own record"),
            ("Weights, SHA-256", model["weights_sha256"]),
        ]
    if pairs or facts:
        yield Facts((*pairs, *facts.items()))
