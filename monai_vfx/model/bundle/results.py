"""Prediction: results, heat maps and the scores of a labelled cohort, written case by case."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, Workflow
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.core.anatomy import LEVEL_NAMES
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.files import write_json
from monai_vfx.core.results import ModelFacts, Prediction, SliceRecord, mask_record
from monai_vfx.model.bundle.datasets import append_refusals, fracture_score
from monai_vfx.model.bundle.losses import CLASSES, yearly_risk
from monai_vfx.model.checkpoint import TrainedModel
from monai_vfx.model.gradcam import attention_heat, check_layer, gradcam, save_heat_map, to_ct_grid
from monai_vfx.outputs.report.slice_montage import montage, score_caption, slice_titles


def prediction_of(item: Mapping[Hashable, Any], score: float, sidecar: Json) -> Prediction:
    """Put together the result of one accepted case.

    Args:
        item: what the preprocessing returned for the case.
        score: probability of the fracture class.
        sidecar: of the weights.
    """
    meta = cast(MetaTensor, item["image"]).meta
    facts = json.loads(meta["case_facts"])
    uids = facts["sop_instance_uids"]
    slices = tuple(
        SliceRecord(
            index=int(index),
            sop_instance_uid=None if uids is None else uids[int(index)],
            level=LEVEL_NAMES[int(level)],
            centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        )
        for index, level, centre in zip(
            meta["slice_index"], meta["slice_level"], np.asarray(meta["centre_mm"]), strict=True
        )
    )
    warnings = [CaseWarning(w["code"], w["message"]) for w in facts["warnings"]]
    different = len({record.index for record in slices})
    if different < len(slices):
        warnings.append(
            CaseWarning("slices_repeated", f"{different} slices fill {len(slices)} places")
        )
    if item.get("clinical_missing"):
        names = ", ".join(item["clinical_missing"])
        warnings.append(
            CaseWarning("clinical_missing", f"set to the mean of the training patients: {names}")
        )
    if sidecar["simulated"]:
        warnings.append(
            CaseWarning("simulated_weights", "trained on simulated patients: not a clinical result")
        )
    return Prediction(
        case_id=str(item["case_id"]),
        status="ok",
        score=score,
        simulated_weights=bool(sidecar["simulated"]),
        model=ModelFacts(sidecar["bundle"], sidecar["version"], sidecar["weights_sha256"]),
        levels=tuple(dict.fromkeys(record.level for record in slices)),
        spacing_mm=tuple(facts["spacing_mm"]),
        slices=slices,
        mask=mask_record("given", facts["mask_levels"]),
        warnings=tuple(warnings),
    )


class ResultWriter(ABC):
    """Something that writes what each step of the evaluator found.

    Args:
        output_dir: folder of the results.
        model: the weights in use.
    """

    def __init__(self, output_dir: str | Path, model: TrainedModel) -> None:
        self.output_dir = Path(output_dir)
        self.model = model

    @property
    def sidecar(self) -> Json:
        """What is known about the weights; there are some whenever a case was scored."""
        return cast(Json, self.model.sidecar)

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    @abstractmethod
    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Take over the results of one step."""


class FeatureTable:
    """Collect the vector that the network's head takes, case by case (``features.csv``).

    It is read in the pass that gives the scores, by a hook on ``network.head``.

    Args:
        path: CSV to write when the run ends: case, f0, f1, …, float32 in the shortest text that
            reads back as the same number. An earlier one goes when the run starts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = torch.empty(0, 0)
        self._rows: dict[str, list[str]] = {}
        self._hook: RemovableHandle | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator, before anything that runs the network once more."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Keep the vectors of one step."""
        accepted = engine.state.batch["accepted"]
        vectors = self._seen.float().cpu().numpy() if accepted else ()
        for item, vector in zip(accepted, vectors, strict=True):
            self._rows[str(item["case_id"])] = [str(value) for value in vector]

    def _start(self, engine: SupervisedEvaluator) -> None:
        self._rows = {}
        self.path.unlink(missing_ok=True)
        head = cast(nn.Module, engine.network.head)
        self._hook = head.register_forward_pre_hook(self._note)

    def _note(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0].detach()

    def _write(self, engine: Workflow) -> None:
        if self._hook is not None:
            self._hook.remove()
        width = max((len(vector) for vector in self._rows.values()), default=0)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("case_id", *(f"f{n}" for n in range(width))))
            table.writerows([case, *vector] for case, vector in self._rows.items())


class PredictionWriter(ResultWriter):
    """Write ``<output_dir>/<case>/prediction.json`` for every case, refused ones too.

    And ``<output_dir>/features.csv``, see :class:`FeatureTable`.
    """

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator."""
        FeatureTable(self.output_dir / "features.csv").attach(engine)
        super().attach(engine)

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Write the results of one step."""
        for item, score in _scored(engine):
            self._write(prediction_of(item, score, self.sidecar))
        for item in engine.state.batch["refused"]:
            self._write(Prediction.refused(str(item["case_id"]), item["refusal"]))

    def _write(self, prediction: Prediction) -> None:
        write_json(self.output_dir / prediction.case_id / "prediction.json", prediction.to_json())


class HeatMapWriter(ResultWriter):
    """Write where the network looks: ``gradcam.nii.gz`` on the CT's own grid and ``gradcam.png``.

    Args:
        output_dir: folder of the results.
        model: the weights in use.
        layer: encoder stage that GradCAM explains.
        attention: write the network's own attention likewise, ``attention_<stage>.*``.

    Raises:
        SettingError: the layer is not in the network of these weights or does not change its score.
        CaseRefused: the weights do not fit their sidecar.
    """

    def __init__(
        self,
        output_dir: str | Path,
        model: TrainedModel,
        layer: str = "layer3",
        attention: bool = False,
    ) -> None:
        super().__init__(output_dir, model)
        if model.weights is not None:  # without weights the run ends before it scores anything
            check_layer(model.network_def, layer)
        self.layer = layer
        self.attention = attention

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Explain the accepted cases of one step."""
        inputs = {
            name: engine.state.batch[name].to(engine.state.device)
            for name in ("image", "clinical")
            if name in engine.state.batch
        }
        for number, (item, score) in enumerate(_scored(engine)):
            own = {name: batch[number : number + 1] for name, batch in inputs.items()}
            prediction = prediction_of(item, score, self.sidecar)
            heats = heat_maps(engine.network, self.layer, self.attention, **own)
            folder = self.output_dir / prediction.case_id
            write_heat_maps(folder, heats, item, prediction, self.model)


def heat_maps(
    network: nn.Module,
    layer: str,
    attention: bool,
    image: Tensor,
    clinical: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the heat of one case, (1, H, W, D) in [0, 1] each.

    Args:
        network: on the device of its inputs.
        layer: encoder stage that GradCAM explains.
        attention: whether the network's own attention is wanted as well.
        image: (1, C, H, W, D).
        clinical: (1, F), where the network takes clinical variables.

    Returns:
        ``gradcam`` first, then ``attention_<stage>``.
    """
    heats = {"gradcam": gradcam(network, image, layer, clinical=clinical)}
    stages = attention_heat(network, image) if attention else {}
    return heats | {f"attention_{stage}": heat for stage, heat in stages.items()}


def write_heat_maps(
    folder: Path,
    heats: Mapping[str, Tensor],
    item: Mapping[Hashable, Any],
    prediction: Prediction,
    model: TrainedModel,
) -> dict[str, npt.NDArray[np.float32]]:
    """Write heat maps on the CT's own grid (``NAME.nii.gz``) and as figures (``NAME.png``).

    Returns:
        Each heat on the CT's grid, (i, j, k) in [0, 1].
    """
    folder.mkdir(parents=True, exist_ok=True)
    image, facts = cast(MetaTensor, item["image"]), asdict(prediction)
    affine = np.asarray(image.meta["volume_affine"], dtype=np.float64)
    low, high = cast(Json, model.sidecar)["config"]["window_hu"]
    written = {}
    for name, heat in heats.items():
        written[name] = to_ct_grid(heat.cpu(), image, model.preprocessing)
        note = f"{name}, simulated weights" if prediction.simulated_weights else name
        save_heat_map(folder / f"{name}.nii.gz", written[name], affine, note=note)
        montage(
            image.as_tensor()[0].numpy(),
            heat.cpu()[0].numpy(),
            slice_titles(facts),
            folder / f"{name}.png",
            caption=score_caption(facts),
            window_hu=(float(low), float(high)),
        )
    return written


class EvaluationWriter(ResultWriter):
    """Write ``predictions.csv``, ``metrics.json`` and ``refused.jsonl`` of a labelled cohort.

    The predictions of weights with a hazard head hold the risk up to each year as well:
    ``risk_year_1``, ``risk_year_2``, … The metrics count the refused cases, and as
    ``clinical_missing`` those with a variable set to the training mean. ``features.csv`` is
    written as well, see :class:`FeatureTable`.

    Those of an earlier evaluation go as soon as this one starts, so that a run that fails leaves
    no numbers of other weights behind.
    """

    FILES = ("predictions.csv", "metrics.json", "refused.jsonl")

    def __init__(self, output_dir: str | Path, model: TrainedModel) -> None:
        super().__init__(output_dir, model)
        self._rows: list[tuple[str, int, float]] = []
        self._risks: list[list[float]] = []
        self._filled = 0
        self._refused: dict[str, CaseRefused] = {}

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        FeatureTable(self.output_dir / "features.csv").attach(engine)
        super().attach(engine)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Keep the results of one step."""
        for item, score in _scored(engine):
            self._rows.append((str(item["case_id"]), int(item["label"]), score))
            self._filled += bool(item.get("clinical_missing"))
        self._risks += yearly_risk(engine.state.output["pred"][:, CLASSES:]).tolist()
        refused = engine.state.batch["refused"]
        self._refused |= {str(item["case_id"]): item["refusal"] for item in refused}

    def _start(self, engine: Workflow) -> None:
        self._rows, self._risks, self._refused = [], [], {}
        self._filled = 0
        for name in self.FILES:
            (self.output_dir / name).unlink(missing_ok=True)

    def _write(self, engine: Workflow) -> None:
        with (self.output_dir / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            years = len(self._risks[0]) if self._risks else 0
            risks = (f"risk_year_{year}" for year in range(1, years + 1))
            table.writerow(("case_id", "label", "score", *risks))
            for (case, label, score), risk in zip(self._rows, self._risks, strict=True):
                table.writerow((case, label, *(f"{value:.9f}" for value in (score, *risk))))
        append_refusals(self.output_dir / "refused.jsonl", self._refused)
        labels = np.array([label for _, label, _ in self._rows])
        result = auroc(labels, np.array([score for _, _, score in self._rows]))
        metrics: Json = {
            "n": result.n,
            "events": result.events,
            "refused": len(self._refused),
            "clinical_missing": self._filled,
            "auroc": result.value,
            "auroc_ci": result.ci,
            "simulated_weights": self.sidecar["simulated"],
            "weights_sha256": self.sidecar["weights_sha256"],
        }
        write_json(self.output_dir / "metrics.json", metrics)


def _scored(engine: SupervisedEvaluator) -> list[tuple[Mapping[Hashable, Any], float]]:
    """Pair the accepted cases of a step with their scores."""
    scores = fracture_score(engine.state.output["pred"]).tolist()
    return list(zip(engine.state.batch["accepted"], scores, strict=True))
