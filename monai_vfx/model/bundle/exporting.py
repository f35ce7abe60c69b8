"""What an export needs of a finished prediction: the labels that were used, its pictures."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_vfx.case.case import load_case
from monai_vfx.core.arrays import Json
from monai_vfx.core.results import Prediction
from monai_vfx.model.checkpoint import TrainedModel, read_sidecar
from monai_vfx.outputs.hospital.export import MASK, Export
from monai_vfx.outputs.report.montage import montage, score_caption, slice_titles


def export_case(
    exporter: Export,
    prediction: Prediction,
    item: Json,
    weights: str | Path,
    made: Path,
    masks: Path,
) -> Prediction:
    """Write the objects for a hospital's systems.

    Args:
        exporter: writes them, and says which; it may take the patient out of all.
        prediction: of the case.
        item: what was scored.
        weights: that the pictures are of.
        made: folder of the results so far; the objects join them.
        masks: folder of the mask, if it was made; its ``mask.dcm`` moves to ``made``.

    Returns:
        The prediction, without the UIDs of the CT if they are to be hidden, and with a warning for
        each object that the CT's headers do not allow.
    """
    if exporter.hide is not None:
        prediction = Prediction.from_json(exporter.hide.document(prediction.to_json()))
    if not exporter.kinds:
        return prediction
    case = load_case(
        item["image"],
        item["mask"],
        series_uid=item.get("series_uid"),
        scheme=item.get("scheme"),
    )
    drawn, heat = made / "gradcam.png", None
    if drawn.exists():
        picture: Any = nib.load(made / "gradcam.nii.gz")
        heat = np.asarray(picture.dataobj, dtype=np.float32)
    else:
        drawn = masks.parent / "slices.png"
        _draw_slices(prediction, item, weights, drawn)
    for file in masks.glob(MASK):
        shutil.move(file, made / file.name)
    lacks = exporter.write(made, prediction, case.masks.labels, drawn, heat)
    return replace(prediction, warnings=(*prediction.warnings, *lacks))


def _draw_slices(prediction: Prediction, item: Json, weights: str | Path, path: Path) -> None:
    """Draw the slices that the network saw, without heat."""
    facts = asdict(prediction)
    low, high = read_sidecar(weights)["config"]["window_hu"]
    image = TrainedModel(weights).preprocessing(item)["image"].as_tensor()[0].numpy()
    montage(
        image,
        None,
        slice_titles(facts),
        path,
        caption=score_caption(facts),
        window_hu=(float(low), float(high)),
    )
