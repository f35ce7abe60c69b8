"""Where the trained network looks, on patients whose bone and muscle are known to the voxel.

GradCAM and attention of patients whom no choice was made on, against the labels that the simulation
painted and against the same network with random weights (all of it, and in cascade from the head).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from hospitals import chunks, simulate_chunk
from jobs import Step
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from plan import FRESH, PatientSet, patient_sets
from report import saliency_panel

from monai_vfx.analysis.cohort.training_items import read_cohort
from monai_vfx.core.anatomy import LEVELS, MUSCLES, VERTEBRAE
from monai_vfx.model.checkpoint import TrainedModel
from monai_vfx.model.gradcam import attention_heat, gradcam, randomised
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.model.saliency import energy_ratio, mean_difference, pointing_hit
from monai_vfx.transforms import SampleSlices, VertebraCrop, VertebraCropd
from monai_vfx.workflows.run_bundle import quiet

MODEL = "bone_muscle"
CONTROLS = 10
"""Draws of random weights, enough that one whose heat lies in one corner does not lead."""
CASCADE = ("head", "decoder", "attention")
GRADCAM, AVERAGED = "gradcam", "averaged gradcam"
"""Each place weighed by its own gradient, and by the slice's mean as first published."""
SHOWN = 4
"""Patients of the first chunk whose maps are kept for the picture."""
_TRAINED, _FULL = "trained", "randomised"


def saliency_steps(out: Path, plan: dict[str, Any]) -> list[Step]:
    """List a step a chunk of those patients, made once more since their images were emptied."""
    patients = next(one for one in patient_sets(plan) if one.name == FRESH)
    wanted, steps = int(plan["saliency_patients"]), []
    for number, count, first in chunks(patients, plan["chunk"]):
        if wanted > 0:
            settings = {
                "folder": out / "saliency" / f"chunk_{number:03d}",
                "weights": [
                    out / "models" / MODEL / f"seed_{seed}" / "model.pt" for seed in plan["seeds"]
                ],
                "patients": patients,
                "count": count,
                "most": wanted,
                "seed": first,
            }
            steps.append(Step(f"saliency/chunk_{number:03d}", measure_chunk, settings))
            wanted -= count
    return steps


def measure_chunk(
    folder: Path, weights: list[Path], patients: PatientSet, count: int, most: int, seed: int
) -> list[Path]:
    """Measure the maps of a chunk's patients, at most so many, trained and randomised.

    Their masks are the labels as painted, so the crops lie where no mask erred.
    """
    models = [TrainedModel(path) for path in weights]
    networks = controls([model.network_def for model in models])
    simulate_chunk(folder / "images", patients, count, seed, mask_error_mm=0.0)
    rows, shown = [], {}
    for number, (case, image, labels) in enumerate(
        labelled_crops(folder / "images" / "cohort.csv", models[0], most)
    ):
        regions = regions_of(labels)
        maps = dict(maps_of(networks, image))
        for (control, name), heat in maps.items():
            for region, inside in regions.items():
                row = {"case_id": case, "control": control, "map": name, "region": region}
                row |= {"area": float(inside.mean()), "energy_ratio": energy_ratio(heat, inside)}
                rows.append(row | {"pointing": pointing_hit(heat, inside)})
        if number < SHOWN:
            views = {"image": image[0, 0].numpy(), "region": regions["body and muscle"]}
            for control, kind in ((_TRAINED, GRADCAM), (_TRAINED, AVERAGED), (_FULL, GRADCAM)):
                views[f"{control} {kind}"] = maps[f"{control}_0", shown_map(maps, kind)]
            shown |= {f"{name}_{number}": view for name, view in views.items()}
    pd.DataFrame(rows).to_csv(folder / "measures.csv", index=False)
    np.savez_compressed(folder / "shown.npz", **shown)  # type: ignore[arg-type]
    shutil.rmtree(folder / "images")
    return [folder / "measures.csv", folder / "shown.npz"]


def shown_map(maps: dict[tuple[str, str], Any], kind: str) -> str:
    """Return the coarsest of a kind of maps: that of the deepest stage."""
    return max(name for _, name in maps if name.startswith(kind))


def controls(trained: list[torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Return the networks, copies with random weights, and the first's cascade from the head on."""
    network = trained[0]
    found = {f"{_TRAINED}_{n}": one.eval() for n, one in enumerate(trained)}
    found |= {f"{_FULL}_{n}": randomised(network, seed=n) for n in range(CONTROLS)}
    there = [name for name in CASCADE if _has_weights(network, name)]
    for last in range(len(there)):
        names = there[: last + 1]
        found["cascade_" + "_".join(names)] = randomised(network, names)
    return found


def _has_weights(network: torch.nn.Module, name: str) -> bool:
    module = dict(network.named_modules()).get(name)
    return module is not None and any(True for _ in module.parameters())


def maps_of(
    networks: dict[str, torch.nn.Module], image: torch.Tensor
) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield ((network, map), heat (H, W, D)) of one patient's image (1, C, H, W, D)."""
    for control, network in networks.items():
        for layer in cast(AttentionCNNRNN, network).influential_layers[-2:]:
            for name, average in ((GRADCAM, False), (AVERAGED, True)):
                heat = gradcam(network, image, layer, average=average)
                yield (control, f"{name} {layer}"), heat[0].numpy()
        if not control.startswith("cascade"):
            for stage, heat in attention_heat(network, image).items():
                yield (control, f"attention {stage}"), heat[0].numpy()


def labelled_crops(
    cohort: Path, model: TrainedModel, most: int
) -> Iterator[tuple[str, torch.Tensor, Any]]:
    """Yield case, network input (1, C, H, W, D), and the labels (H, W, D) under its pixels.

    The labels take the image's own way through the bundle's chain, nearest neighbour where it
    interpolates, so they lie under the very pixels that the network saw.
    """
    settings = model.sidecar["config"] if model.sidecar else {}
    parser = ConfigParser()
    parser.read_config(str(model.root / "configs" / "common.yaml"))
    parser.update({**settings, "resampled": ["image", "mask"]})
    with quiet():
        steps = parser.get_parsed_content("deterministic_transforms")
    at = next(n for n, step in enumerate(steps) if isinstance(step, VertebraCropd))
    before, crop = Compose(steps[:at]), steps[at].cropper
    labels_crop = VertebraCrop(crop.size, crop.posterior_mm, fill=0.0)
    sample = SampleSlices(settings["slices"])
    for item in read_cohort(cohort)[:most]:
        done = before(dict(item))
        image, mask = done["image"], done["mask"]
        placed = MetaTensor(mask.as_tensor(), meta=dict(image.meta))
        pixels = sample(crop(image, mask)).as_tensor()[None]
        labels = sample(labels_crop(placed)).as_tensor()[0].round().int().numpy()
        yield item["case_id"], pixels, labels


def regions_of(labels: Any) -> dict[str, Any]:
    """Return the places of bodies, muscles and both, by name, where there are any."""
    body = np.isin(labels, [VERTEBRAE[level] for level in LEVELS])
    muscle = np.isin(labels, list(MUSCLES.values()))
    found = {"body and muscle": body | muscle, "body": body, "muscle": muscle}
    return {name: inside for name, inside in found.items() if 0 < inside.sum() < inside.size}


def summarise(out: Path, results: Path) -> None:
    """Write ``saliency.csv``: each map and region, trained against the controls."""
    paths = sorted((out / "saliency").glob("chunk_*/measures.csv"))
    if not paths:
        return
    results.mkdir(parents=True, exist_ok=True)
    parts = [pd.read_csv(path).assign(chunk=path.parent.name) for path in paths]
    table = pd.concat(parts, ignore_index=True)
    table["case_id"] = table["chunk"] + "_" + table["case_id"]
    rows = [
        row | {"map": name, "region": region, "area_share": part["area"].mean()}
        for (name, region), part in table.groupby(["map", "region"], sort=False)
        for measure in ("energy_ratio", "pointing")
        for row in compared(part, measure)
    ]
    columns = ["map", "region", "measure", "control", "area_share"]
    frame = pd.DataFrame(rows, columns=None if rows else columns)  # none where all maps are zero
    frame = frame[columns + [name for name in frame if name not in columns]]
    frame.to_csv(results / "saliency.csv", index=False, float_format="%.4g")
    with np.load(paths[0].with_name("shown.npz")) as pixels:
        saliency_panel(dict(pixels), results / "saliency.png")


def compared(part: pd.DataFrame, measure: str) -> Iterator[dict[str, Any]]:
    """Yield one measure of one map against each control, patient by patient.

    A patient's value is the mean over seeds, his control's that over draws; a map that is zero
    everywhere has none, and the share of such maps is told. The cascades are made from the first
    seed and compared with it alone.

    Args:
        part: rows of one map and region with the columns case, control and the measure.
        measure: its column.
    """
    wide = part.pivot_table(index="case_id", columns="control", values=measure, dropna=False)
    seeds = wide[[name for name in wide if name.startswith(f"{_TRAINED}_")]]
    draws = wide[[name for name in wide if name.startswith(f"{_FULL}_")]]
    pairs = {name: (wide[[f"{_TRAINED}_0"]], wide[[name]]) for name in wide if "cascade" in name}
    for control, (own, other) in ({_FULL: (seeds, draws)} | pairs).items():
        try:
            found = mean_difference(own.mean(axis=1), other.mean(axis=1))
        except ValueError:  # maps of fewer than two patients are not zero
            continue
        row = {"measure": measure, "control": control}
        for name, value, nets in (("trained", found.first, own), ("control", found.second, other)):
            row |= {f"{name}_mean": value, f"{name}_empty": nets.isna().to_numpy().mean()}
            row |= {f"{name}_least": nets.mean().min(), f"{name}_greatest": nets.mean().max()}
        row |= {"difference": found.difference, "ci_low": found.ci_low, "ci_high": found.ci_high}
        yield row | {"n": found.n, "left_out": found.left_out}
