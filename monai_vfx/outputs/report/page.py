"""One case as one HTML file that needs nothing else: no script, no request, no second file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import RocData, figure_png, learning_curve, roc_figure
from monai_vfx.outputs.report.pixels import (
    HEAT_OPACITY,
    HEAT_RGB,
    INPUT_HU,
    WINDOW_HU,
    Bytes,
    Stack,
    View,
    Window,
    check_view,
    data_uri,
    grey,
    overlay,
    png,
)

TEMPLATE = "page.html.j2"


def write_page(
    path: str | Path,
    *,
    prediction: Json,
    image: Stack | None = None,
    heat: Stack | None = None,
    heat_name: str = "GradCAM",
    second: View | None = None,
    names: tuple[str, str] = ("bone + muscle", "bone only"),
    history: Sequence[Mapping[str, float | None]] | None = None,
    evaluation: RocData | None = None,
    evaluated_on: str = "",
    facts: Mapping[str, str] | None = None,
    window_hu: Window = INPUT_HU,
    second_window_hu: Window | None = None,
) -> Path:
    """Write the report of one case.

    Parts without data are left out; the statement of what the result is not never is. The file
    shows the case's name as ``prediction`` has it, and nothing else about the patient.

    Args:
        path: of the HTML file.
        prediction: a document of ``data_schemas/prediction.schema.json``, ``ok`` or ``refused``.
        image: (H, W, D), network input in [-1, 1], as
        :func:`monai_vfx.outputs.report.montage.montage`
            takes it; D is the number of slices of ``prediction``.
        heat: (H, W, D), in [0, 1].
        heat_name: what made the heat, such as ``GradCAM, layer3``.
        second: another image class of the same slices with its heat.
        names: of the two image classes; shown when there are two.
        history: of the training, see :func:`monai_vfx.outputs.report.figures.learning_curve`.
        evaluation: ROC curve and AUROC of the model on other patients.
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
    slices: list[Json] = prediction["slices"]
    for name, pixels, warm, _ in views:
        check_view(pixels, warm, name)
        if pixels.shape[2] != len(slices):
            raise ValueError(f"{name} has {pixels.shape[2]} slices; prediction has {len(slices)}")
    text = _template().render(
        prediction=prediction,
        views=[
            {"name": name, "tiles": _tiles(grey(pixels, hu), warm, slices)}
            for name, pixels, warm, hu in views
        ],
        has_heat=any(warm is not None for _, _, warm, _ in views),
        heat_name=heat_name,
        heat_colour=_css_colour(),
        window=[int(bound) for bound in WINDOW_HU],
        learning=_learning(history),
        evaluation=_evaluation(evaluation, evaluated_on),
        facts=dict(facts or {}),
    )
    target = Path(path)
    target.write_text(text, encoding="utf-8")
    return target


def _template() -> Any:
    source = (
        resources.files("monai_vfx.outputs.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def _tiles(image: Bytes, heat: Stack | None, slices: Sequence[Json]) -> list[Json]:
    """Return one picture a slice, in the pixels of the network, the heat apart from the CT."""
    tiles = []
    for n, entry in enumerate(slices):
        where = f"slice {entry['index']}, level {entry['level']}"
        tile = {
            "level": entry["level"],
            "index": entry["index"],
            "ct": data_uri(png(image[:, :, n])),
            "ct_alt": f"CT {where}, cropped around the vertebral body",
            "heat": None,
            "width": image.shape[1],
            "height": image.shape[0],
        }
        if heat is not None:
            tile["heat"] = data_uri(png(overlay(heat[:, :, n])))
            tile["heat_alt"] = f"Heat on {where}: largest {float(heat[:, :, n].max()):.2f} of 1"
        tiles.append(tile)
    return tiles


def _learning(history: Sequence[Mapping[str, float | None]] | None) -> Json | None:
    """Return the learning curve and its description, or None without a history."""
    if not history:
        return None
    measured = [
        (float(row["validation_auroc"] or 0.0), row["epoch"])
        for row in history
        if row.get("validation_auroc") is not None
    ]
    words = f"{len(history)} epochs."
    if measured:
        best, epoch = max(measured, key=lambda pair: pair[0])
        words += f" Best validation AUROC {best:.3f} in epoch {epoch:.0f}."
    return {"picture": data_uri(figure_png(learning_curve(history))), "words": words}


def _evaluation(evaluation: RocData | None, evaluated_on: str) -> Json | None:
    """Return the ROC curve and the numbers beside it, or None without an evaluation."""
    if evaluation is None:
        return None
    low, high = evaluation["auroc_ci"]
    return {
        "picture": data_uri(figure_png(roc_figure([evaluation]))),
        "auroc": f"{evaluation['auroc']:.3f}",
        "interval": f"{low:.3f} to {high:.3f}",
        "n": evaluation["n"],
        "events": evaluation["events"],
        "cohort": evaluated_on,
        "better_than_chance": low > 0.5,
    }


def _css_colour() -> Json:
    """Return the two ends of the heat's scale as colours of a style sheet."""
    red, green, blue = (int(c) for c in np.rint(np.array(HEAT_RGB) * 255))
    return {
        "low": f"rgba({red}, {green}, {blue}, 0)",
        "high": f"rgba({red}, {green}, {blue}, {HEAT_OPACITY})",
    }
