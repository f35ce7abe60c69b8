"""Figures of a study: the inputs of both image classes, and where the networks looked."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from monai_vfx.core.anatomy import LEVEL_NAMES
from monai_vfx.core.arrays import Json
from monai_vfx.core.files import write_json
from monai_vfx.workflows.study.plan import Plan


def draw_gallery(
    plan: Plan, images: Path, table: pd.DataFrame, predictions: pd.DataFrame, site: str, out: Path
) -> list[Path]:
    """Draw heat maps of a few patients, by the first fold's networks, and one patient's inputs.

    Half of the patients fractured, half did not; of each the highest and lowest scores in turn.
    Figures are numbered; neither a file's name nor a figure holds the name of a case. The
    predictions hold the main network's score and, of development patients, the fold.

    Returns:
        The files, ``gallery.json`` last: ``set``, ``case_number``, ``fracture``, ``score``,
        ``png``, ``alt`` of each picture, and ``inputs``.
    """
    from monai_vfx.workflows.predictor import predict

    score = f"image_{plan.images.main}"
    other = next((name for name in plan.images.models if name != plan.images.main), None)
    rows = table.set_index("case_id")
    entries: list[Json] = []
    made: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    for number, (case, fracture, fold) in enumerate(
        _chosen(predictions, score, plan.gallery), start=1
    ):
        png = out / f"{site}_{number}.png"
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            result = predict(
                str(rows.at[case, "image"]),
                str(rows.at[case, "mask"]),
                weights=_weights(images, plan.images.main, fold),
                out=scratch,
                case_id=f"{site} {number}",
                explain=True,
                compare_mask=False,
                beside=None if other is None else _weights(images, other, fold),
            )
            name = "gradcam.png" if other is None else "gradcam_beside.png"
            shutil.move(Path(scratch) / name, png)
        made.append(png)
        outcome = "with a fracture" if fracture else "without a fracture"
        entries.append(
            {
                "set": site,
                "case_number": number,
                "fracture": int(fracture),
                "score": result.score,
                "png": png.name,
                "alt": f"Heat maps of patient {number} {outcome} within five years; "
                f"score {result.score:.2f}",
            }
        )
    scored = set(predictions.loc[predictions[score].notna(), "case_id"])  # no image was refused
    inputs = _draw_inputs(plan, images, table[table["case_id"].isin(scored)], out)
    write_json(out / "gallery.json", {"pictures": entries, "inputs": inputs.name})
    return [*made, inputs, out / "gallery.json"]


def _chosen(predictions: pd.DataFrame, score: str, count: int) -> list[tuple[str, int, int]]:
    """Return (case, fracture, fold), patients with and without fracture in turn."""
    known = predictions[predictions[score].notna()].sort_values([score, "case_id"])
    with_fracture, without = (
        known[known["fracture"] == outcome].to_dict("records") for outcome in (1, 0)
    )
    with_fracture.reverse()
    chosen: list[tuple[str, int, int]] = []
    for n in range((count + 1) // 2):
        for rows in (with_fracture, without):
            # Highest, lowest, next highest, … so that errors of the network are shown as well.
            position = n // 2 if n % 2 == 0 else -(n // 2) - 1
            if n < len(rows) and len(chosen) < count:
                row = rows[position]
                fold = int(row["fold"]) if "fold" in row else 0
                chosen.append((str(row["case_id"]), int(row["fracture"]), fold))
    return chosen


def _weights(images: Path, model: str, fold: int) -> Path:
    return images / model / f"fold_{fold}" / "model.pt"


def _draw_inputs(plan: Plan, images: Path, table: pd.DataFrame, out: Path) -> Path:
    """Draw what the networks of both image classes take of one patient."""
    from monai_vfx.model.checkpoint import TrainedModel
    from monai_vfx.outputs.report.slice_montage import montage
    from monai_vfx.workflows.run_bundle import quiet
    from monai_vfx.workflows.scoring import IMAGE_CLASSES

    row = table.iloc[0]
    item = {"image": row["image"], "mask": row["mask"]}
    models = [TrainedModel(_weights(images, name, 0)) for name in plan.images.models][:2]
    with quiet():
        stacks = [model.preprocessing(item)["image"] for model in models]
    path = out / "inputs.png"
    titles = [LEVEL_NAMES[int(level)] for level in stacks[0].meta["slice_level"]]
    names = [IMAGE_CLASSES.get(name, name) for name in plan.images.models][:2]
    second = (stacks[1].as_tensor()[0].numpy(), None) if len(stacks) > 1 else None
    first = stacks[0].as_tensor()[0].numpy()
    montage(first, None, titles, path, second=second, names=(names[0], names[-1]))
    return path
