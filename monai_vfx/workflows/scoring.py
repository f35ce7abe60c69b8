"""What networks say of one case that was opened and checked: scores, heat maps, figures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from monai_vfx.analysis.measures.measured import study_exclusions
from monai_vfx.case.case import Case
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import find_refusal
from monai_vfx.core.results import Prediction
from monai_vfx.model.bundle.cohort import Standardiser
from monai_vfx.model.bundle.datasets import (
    clinical_input,
    collate_cases,
    fracture_score,
    with_exclusions,
)
from monai_vfx.model.bundle.ensemble import combine, judge_distance
from monai_vfx.model.bundle.results import heat_maps, prediction_of, write_heat_maps
from monai_vfx.model.checkpoint import TrainedModel
from monai_vfx.model.gradcam import check_layer
from monai_vfx.model.network import NETWORK_SETTINGS
from monai_vfx.outputs.report.slice_montage import montage, score_caption, slice_titles
from monai_vfx.workflows.run_bundle import quiet

Item = dict[Hashable, Any]
IMAGE_CLASSES = {
    "bone_muscle": "bone + muscle",
    "bone": "bone only",
    "bone_muscle_three_windows": "bone + muscle, three windows",
}
"""Image class of the configs → its name on figures."""


@dataclass
class ScoredCase:
    """One case as each network of a prediction sees it; preprocessed once per distinct setting.

    Args:
        case_id: name of the case.
        case: the CT and its mask, checked.
        row: the patient's clinical row, where there is one.
        models: networks whose scores count.
    """

    case_id: str
    case: Case
    row: pd.DataFrame | None
    models: Sequence[TrainedModel]
    _inputs: dict[str, Item] = field(default_factory=dict, init=False)

    @cached_property
    def scores(self) -> list[tuple[float, list[float]]]:
        """Each network's probability of the fracture class, and the vector that its head takes.

        Raises:
            CaseRefused: as the clinical row, the preprocessing or the weights are refused.
        """
        batches = [collate_cases([self.item(model)]) for model in self.models]
        return [_score(model, batch) for model, batch in zip(self.models, batches, strict=True)]

    @property
    def prediction(self) -> Prediction:
        """The mean score of all networks, with a warning where they find the case strange."""
        predictions = [
            prediction_of(self.item(model), score, cast(Json, model.sidecar))
            for model, (score, _) in zip(self.models, self.scores, strict=True)
        ]
        weights = [cast(Path, model.weights) for model in self.models]
        features = [vector for _, vector in self.scores]
        return judge_distance(combine(predictions), weights, features)

    def item(self, model: TrainedModel) -> Item:
        """Return what the preprocessing of a network makes of the case, with its clinical input.

        Raises:
            CaseRefused: the case breaks a rule of the crops, or lacks a clinical variable.
        """
        clinical = clinical_input(Standardiser.from_settings(model.clinical), self.row)
        config = cast(Json, model.sidecar)["config"]
        ignored = NETWORK_SETTINGS - {"slices"}
        key = repr(sorted((k, v) for k, v in config.items() if k not in ignored))
        if key not in self._inputs:
            if self.case.exclusions is None:
                self.case = replace(self.case, exclusions=study_exclusions(self.case)[1])
            paths = {"case_id": self.case_id, "image": self.case, "mask": None}
            self._inputs[key] = preprocess(model, paths)
        return self._inputs[key] | cast(Item, clinical)

    def heats(self, model: TrainedModel, layer: str, attention: bool) -> dict[str, Tensor]:
        """Return a network's heat maps of the case, (1, H, W, D) in [0, 1] each."""
        return _heats(model, self.item(model), layer, attention)

    def explain(self, folder: Path, layer: str) -> dict[str, npt.NDArray[np.float32]]:
        """Write heat maps of the first network; return them on the CT's grid, (i, j, k).

        Raises:
            SettingError: the layer cannot be explained.
        """
        model, item = self.models[0], self.item(self.models[0])
        prediction = prediction_of(item, self.scores[0][0], cast(Json, model.sidecar))
        return write_heat_maps(folder, self.heats(model, layer, True), item, prediction, model)

    def draw_slices(self, prediction: Prediction, path: Path) -> None:
        """Draw the slices that the first network saw, without heat."""
        facts = asdict(prediction)
        image = self.item(self.models[0])["image"].as_tensor()[0].numpy()
        montage(
            image,
            None,
            slice_titles(facts),
            path,
            caption=score_caption(facts),
            window_hu=_window(self.models[0]),
        )

    def draw_beside(
        self, prediction: Prediction, beside: TrainedModel, layer: str, path: Path
    ) -> None:
        """Draw the heat maps of the first and a second network, as the paper's Figure 3 does."""
        pair = (self.models[0], beside)
        drawn = []
        for model in pair:
            heat = self.heats(model, layer, False)["gradcam"].cpu()[0].numpy()
            drawn.append((self.item(model)["image"].as_tensor()[0].numpy(), heat))
        classes = [cast(Json, model.sidecar)["config"]["image_class"] for model in pair]
        names = [IMAGE_CLASSES.get(name, name) for name in classes]
        facts = prediction.to_json()
        montage(
            *drawn[0],
            slice_titles(facts),
            path,
            second=drawn[1],
            names=(names[0], names[1]),
            caption=score_caption(facts),
            window_hu=_window(pair[0]),
            second_window_hu=_window(pair[1]),
        )


def preprocess(model: TrainedModel, item: Mapping[str, Any]) -> Item:
    """Run the preprocessing that belongs to a network, with the warnings of a prediction.

    Args:
        model: with its preprocessing pipeline.
        item: ``image`` and ``mask``, paths; or as ``image`` a case that is open.

    Raises:
        CaseRefused: with the code of the rule that the case breaks.
    """
    try:
        with quiet():
            return cast(Item, with_exclusions(model.preprocessing)(dict(item)))
    except Exception as error:
        refusal = find_refusal(error)  # MONAI wraps what a transform raises
        if refusal is None:
            raise
        raise refusal from error


def input_and_heat(
    item: Mapping[str, Any], weights: str | Path, layer: str = "layer3"
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return a network's input (H, W, slices) in [-1, 1] and its heat in [0, 1] for drawing.

    Args:
        item: ``image`` and ``mask``; for weights that take clinical variables also ``clinical``,
            the path of a one-row table.
        weights: checkpoint with its sidecar.
        layer: encoder stage for GradCAM.
    """
    model = TrainedModel(weights)
    clinical = clinical_input(Standardiser.from_settings(model.clinical), item.get("clinical"))
    done = preprocess(model, {"case_id": "case", **item}) | cast(Item, clinical)
    heat = _heats(model, done, layer, False)["gradcam"]
    return done["image"].as_tensor()[0].numpy(), heat.cpu()[0].numpy()


def _heats(model: TrainedModel, item: Item, layer: str, attention: bool) -> dict[str, Tensor]:
    check_layer(model.network_def, layer)
    inputs = _inputs(collate_cases([item]), model)
    with _repeatable():
        return heat_maps(model.network_def, layer, attention, **inputs)


def _score(model: TrainedModel, batch: Json) -> tuple[float, list[float]]:
    """Return a network's score of a batch of one, and the vector that its head takes."""
    inputs = _inputs(batch, model)
    network: Any = model.network_def
    seen: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.no_grad(), _repeatable():
            logits = network(inputs.pop("image"), **inputs)
    finally:
        hook.remove()
    # The text of a float32, as in features.csv, which detectors of strange cases are fitted on.
    features = [float(str(value)) for value in seen[0].float().cpu().numpy()[0]]
    return float(fracture_score(logits)[0]), features


def _inputs(batch: Json, model: TrainedModel) -> dict[str, Tensor]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.network_def.to(device)
    return {name: batch[name].to(device) for name in ("image", "clinical") if name in batch}


def _repeatable() -> ExitStack:
    """Let a GPU sum in the same order at each call."""
    stack = ExitStack()
    if torch.cuda.is_available():
        stack.enter_context(
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        )
    return stack


def _window(model: TrainedModel) -> tuple[float, float]:
    low, high = cast(Json, model.sidecar)["config"]["window_hu"]
    return float(low), float(high)
