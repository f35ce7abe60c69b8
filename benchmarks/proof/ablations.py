r"""What each part of the method adds: trainings and scorings with one thing changed.

    python benchmarks/proof/ablations.py OUT --size cpu --workers 2
    python benchmarks/proof/ablations.py OUT --size cpu --only 'ablation/no_attention*'

After ``run.py``, in the same folder; the list is ``ablations.yaml``. Results come with run.py's
stages ``results`` and ``report``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import yaml
from hospitals import chunks, simulate_chunk
from jobs import (
    MAX_REFUSED,
    Step,
    chosen_steps,
    is_recorded,
    run_steps,
    score_set,
    train_model,
)
from monai.bundle import ConfigParser
from plan import FULL, HERE, PatientSet, overlays_of, patient_sets, read_plan

from monai_vfx.analysis.evaluation.comparisons import difference_interval
from monai_vfx.analysis.evaluation.discrimination import auroc, delong_test
from monai_vfx.core.anatomy import MUSCLES
from monai_vfx.core.files import only_run_in
from monai_vfx.model.bundle.overlays import config_files

REFERENCE = "bone_muscle"
TESTED = "held_out"
FAT_HU, MUSCLE_HU, NOISE_HU = -100.0, 50.0, 15.0
JITTER_MM = 4.0
MAX_REFUSED_OF_A_VARIANT = 0.5
"""The checks may refuse a mask that was moved too far, or values whose peaks are fat and enhanced
organs where muscle became fat (a third of the patients); the others are compared on their own."""


def read_ablations() -> dict[str, dict[str, Any]]:
    """Return the ablations by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "ablations.yaml").read_text())
    return found


def ablation_chains(out: Path, plan: dict[str, Any]) -> list[list[Step]]:
    """List a training and its scoring an ablation; a scoring alone where the image is changed."""
    anew = {"images": [step.settings["folder"] for step in image_steps(out, plan)]}
    chains = []
    for name, entry in read_ablations().items():
        seed = seed_of(plan, entry)
        if seed is None:
            continue
        reference = out / "models" / REFERENCE / f"seed_{seed}" / "model.pt"
        folder = out / "ablations" / name
        test = {"folder": folder / TESTED, "weights": folder / "model.pt"}
        scoring = Step(f"ablation/{name}/score", score_anew, {**test, **anew, "variant": None})
        if "variant" in entry:
            own = {"weights": reference, "variant": entry["variant"]}
            chains.append([Step(scoring.name, score_anew, {**scoring.settings, **own})])
            continue
        overlays = changed(out, plan, name, entry)
        if overlays is None:
            continue
        from_cache = "crops" not in entry
        if from_cache:
            table = out / "sets" / TESTED / "block_0.csv"
            settings = {**test, "table": table, "cache": out / "crops"}
            scoring = Step(scoring.name, score_set, settings)
        training = {
            "folder": folder,
            "table": out / "sets" / FULL / "cohort.csv",
            "overlays": overlays,
            "seed": seed,
            "folds": plan["folds"],
            "epochs": plan["epochs"],
            "cache": out / "crops" if from_cache else folder / "crops",
        }
        chain = [Step(f"ablation/{name}/train", train_model, training), scoring]
        if not from_cache:
            chain.append(Step(f"ablation/{name}/tidy", tidy, {"folder": folder / "crops"}))
        chains.append(chain)
    return chains


def seed_of(plan: dict[str, Any], entry: dict[str, Any]) -> int | None:
    """Return the seed of an ablation and its reference; None where the size has fewer seeds."""
    seeds, number = plan["seeds"], entry.get("seed_number", 0)
    return int(seeds[number]) if number < len(seeds) else None


def changed(
    out: Path, plan: dict[str, Any], name: str, entry: dict[str, Any]
) -> tuple[str, ...] | None:
    """Return the overlays of an ablation, its own values as a file in the run's folder.

    None where the size has these values already, so that nothing would change.
    """
    overlays = (*entry.get("overlays", ()), *overlays_of(plan))
    settings = dict(entry.get("settings", {}))
    merged = ConfigParser.load_config_files(config_files(["common", "train", *overlays]))
    if "scale" in entry:
        sides = zip(merged["crop_size"], entry["scale"], strict=True)
        settings["crop_size"] = [2 * round(side * factor / 2) for side, factor in sides]
    if not settings:
        return overlays
    if all(key in merged and merged[key] == value for key, value in settings.items()):
        return None
    path = out / "ablations" / "overlays" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {entry['question']}\n" + yaml.safe_dump(settings), encoding="utf-8")
    return (*overlays, str(path))


def image_steps(out: Path, plan: dict[str, Any]) -> list[Step]:
    """List the chunks of tested patients whose images are made again, once for all ablations."""
    patients = next(one for one in patient_sets(plan) if one.name == TESTED)
    steps, wanted = [], int(plan["ablation_patients"])
    for number, count, seed in chunks(patients, plan["chunk"]):
        if wanted > 0:
            settings = {"folder": out / "ablations" / "images" / f"chunk_{number:03d}"}
            settings |= {"patients": patients, "count": count, "seed": seed}
            steps.append(Step(f"ablation/images/chunk_{number:03d}", make_images, settings))
            wanted -= count
    return steps


def make_images(folder: Path, patients: PatientSet, count: int, seed: int) -> list[Path]:
    """Make a chunk of the tested patients again."""
    simulate_chunk(folder, patients, count, seed)
    return [folder / "cohort.csv"]


def score_anew(
    folder: Path, weights: Path, images: Sequence[Path], variant: str | None
) -> list[Path]:
    """Score patients from their images, not from crops that are prepared already.

    Args:
        folder: for ``predictions.csv``.
        weights: of the network.
        images: folders of the patients' chunks.
        variant: a name in :data:`VARIANTS`, or None for the images as they are.
    """
    parts = []
    for chunk in images:
        done = folder / f"{chunk.name}.csv"
        if not done.is_file():
            shown = chunk
            if variant is not None:
                shown = folder / "images"
                shutil.rmtree(shown, ignore_errors=True)
                shutil.copytree(chunk, shown)
                table = pd.read_csv(shown / "cohort.csv", dtype={"case_id": str})
                for name in ("image", "mask"):
                    table[name] = [str(shown / path) for path in table[name]]
                VARIANTS[variant](table, int(chunk.name.removeprefix("chunk_")))
            most = MAX_REFUSED if variant is None else MAX_REFUSED_OF_A_VARIANT
            score_set(folder / "scored", weights, shown / "cohort.csv", None, most)
            found = pd.read_csv(folder / "scored" / "predictions.csv", dtype={"case_id": str})
            found["case_id"] = [
                f"{chunk.name.removeprefix('chunk_')}_{c}" for c in found["case_id"]
            ]
            partial_file = done.with_suffix(".partial")
            found.to_csv(partial_file, index=False)
            partial_file.replace(done)
            shutil.rmtree(folder / "images", ignore_errors=True)
        parts.append(pd.read_csv(done, dtype={"case_id": str}))
    pd.concat(parts).to_csv(folder / "predictions.csv", index=False)
    return [folder / "predictions.csv"]


def tidy(folder: Path) -> list[Path]:
    """Remove an ablation's own prepared images."""
    shutil.rmtree(folder, ignore_errors=True)
    return []


def fill_muscle(table: pd.DataFrame, seed: int, level_hu: float) -> None:
    """Replace the voxels of erector spinae and psoas by noise around a level, in HU."""
    rng = np.random.default_rng(seed)
    for image, mask in zip(table["image"], table["mask"], strict=True):
        scan = nib.load(image)
        hu = np.asarray(scan.dataobj).copy()
        inside = np.isin(np.asarray(nib.load(mask).dataobj), list(MUSCLES.values()))
        hu[inside] = np.round(rng.normal(level_hu, NOISE_HU, int(inside.sum()))).astype(hu.dtype)
        nib.save(nib.Nifti1Image(hu, scan.affine, scan.header), image)


def shift_masks(table: pd.DataFrame, seed: int) -> None:
    """Move each mask in the axial plane by a normal draw of :data:`JITTER_MM` a direction."""
    rng = np.random.default_rng(seed)
    for path in table["mask"]:
        mask = nib.load(path)
        steps = np.linalg.norm(mask.affine[:3, :2], axis=0)
        moves = np.round(rng.normal(0, JITTER_MM, 2) / steps).astype(int)
        moved = np.roll(np.asarray(mask.dataobj), tuple(moves), axis=(0, 1))
        nib.save(nib.Nifti1Image(moved, mask.affine, mask.header), path)


VARIANTS = {
    "occlude": partial(fill_muscle, level_hu=FAT_HU),
    "even": partial(fill_muscle, level_hu=MUSCLE_HU),
    "jitter": shift_masks,
}
"""Changes of a chunk's files, by the names that ablations.yaml uses."""


def summarise(out: Path, plan: dict[str, Any], results: Path) -> None:
    """Write ``ablations.csv``: each AUROC against its reference's on the same patients."""
    cohort = out / "sets" / TESTED / "cohort.csv"
    found = read_ablations()
    folders = {name: out / "ablations" / name / TESTED for name in found}
    for seed in plan["seeds"]:
        folders[f"{REFERENCE}, seed {seed}"] = (
            out / "models" / REFERENCE / f"seed_{seed}" / TESTED / "block_0"
        )
    scores = {
        name: _scores(folder / "predictions.csv")
        for name, folder in folders.items()
        if (folder / "predictions.csv").is_file()
    }
    if not set(found) & set(scores):
        return
    truth = pd.read_csv(cohort, dtype={"case_id": str}).set_index("case_id")["fracture"]
    rows = []
    for name, entry in found.items():
        against = entry.get("against", f"{REFERENCE}, seed {seed_of(plan, entry)}")
        if not {name, against} <= set(scores):
            continue
        both = pd.concat([scores[name], scores[against]], axis=1, keys=["own", "other"]).dropna()
        y = truth.loc[both.index]
        own, test = auroc(y, both["own"]), delong_test(y, both["own"], both["other"])
        low, high = difference_interval(test) or (np.nan, np.nan)
        row = {"ablation": name, "question": entry["question"], "n": own.n}
        row |= {"auroc": own.value, "se": own.variance**0.5, "against": against}
        row |= {"reference": test.auroc_b, "difference": test.difference}
        rows.append(row | {"ci_low": low, "ci_high": high, "p": test.p})
    if rows:
        pd.DataFrame(rows).to_csv(results / "ablations.csv", index=False, float_format="%.4g")


def _scores(path: Path) -> pd.Series:
    return pd.read_csv(path, dtype={"case_id": str}).set_index("case_id")["score"]


def run(out: Path, size: str, only: Sequence[str] = (), workers: int = 1) -> None:
    """Do the chosen ablations that are not done."""
    out, plan = out.resolve(), read_plan(size)
    with only_run_in(out):
        chains = ablation_chains(out, plan)
        if any(step.work is score_anew for chain in chains for step in chosen_steps(chain, only)):
            run_steps(out, [[step] for step in image_steps(out, plan)], (), workers)
        run_steps(out, chains, only, workers)
        if all(is_recorded(out, step) for chain in chains for step in chain):
            shutil.rmtree(out / "ablations" / "images", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of run.py's run")
    parser.add_argument("--size", default="cpu")
    parser.add_argument("--only", nargs="+", default=(), help="patterns such as ablation/no_*")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    run(args.out, args.size, args.only, args.workers)


if __name__ == "__main__":
    main()
