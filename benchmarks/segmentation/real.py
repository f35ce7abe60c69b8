"""The vertebra segmentation on a real CT against an annotation of its vertebral bodies.

Segments in a fresh process (its time and largest resident set are printed), compares bodies at the
CT's own resolution, and asks what the difference means downstream: which 14 slices the network
would take with either mask, and how far apart their centres lie; with weights, also both scores.
Levels that the annotation lacks are not judged.

    python -m benchmarks.segmentation.real [IMAGE ANNOTATION] [--weights FOLDER] [--out FOLDER]

Without arguments the case of VFX_TEST_DATA is taken. That one is a blind test: look at the numbers,
never choose a parameter by them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ACCEPTED = "accepted"


def segment_once(image: Path, weights: Path | None, out: Path, threads: int | None) -> None:
    """Segment in this process; write ``mask.nii.gz`` and ``segmentation.json``."""
    start = time.perf_counter()
    import nibabel as nib
    import torch

    from monai_vfx.core.errors import CaseRefused
    from monai_vfx.core.files import write_json
    from monai_vfx.io.volume import open_volume
    from monai_vfx.vertebrae.segmentation.locate import segment

    if threads:
        torch.set_num_threads(threads)
    volume = open_volume(image)
    imported = time.perf_counter()
    facts: dict[str, Any] = {"shape": volume.shape, "spacing_mm": volume.spacing_mm}
    facts |= {"threads": torch.get_num_threads(), "outcome": ACCEPTED}
    try:
        found = segment(volume, weights=weights)
    except CaseRefused as refusal:
        facts |= {"outcome": refusal.code, "message": refusal.message}
    else:
        facts |= {
            "confidence": found.confidence,
            "threshold": found.threshold,
            "levels": [level.name for level in found.levels],
            "ribs": {level.name: level.ribs for level in found.levels},
            "evidence": found.evidence,
            "weights_sha256": dict(found.weights_sha256),
            "steps": dict(found.seconds),
        }
    facts["seconds"] = time.perf_counter() - imported
    facts["seconds_with_imports"] = time.perf_counter() - start
    facts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if facts["outcome"] == ACCEPTED:
        nib.save(nib.Nifti1Image(found.labels, volume.affine), out / "mask.nii.gz")
    write_json(out / "segmentation.json", json.loads(json.dumps(facts, default=float)))


def compare(image: Path, annotation: Path, scheme: str | None, auto: Path) -> list[dict[str, Any]]:
    """Return one row a level: what the annotation has and what the segmentation found there."""
    import nibabel as nib
    import numpy as np

    from benchmarks.segmentation.assessment import body_agreement, levels_at_edge, named_as
    from monai_vfx.case.mask.load import load_masks
    from monai_vfx.core.anatomy import LEVEL_NAMES, VERTEBRAE
    from monai_vfx.io.volume import open_volume

    volume = open_volume(image)
    truth = load_masks(annotation, volume.shape, volume.affine, scheme).labels
    found = np.asarray(nib.load(auto).dataobj, dtype=np.uint8)
    agreed = body_agreement(truth, found, volume.affine, VERTEBRAE)
    named, cut = named_as(truth, found), levels_at_edge(truth)
    return [
        {
            "level": name,
            "annotated": int(VERTEBRAE[name] in named),
            "named_as": LEVEL_NAMES.get(named.get(VERTEBRAE[name]) or 0, ""),
            "at_edge": int(VERTEBRAE[name] in cut),
            "dice": round(one.dice, 4),
            "centre_error_mm": round(one.centre_error_mm, 2),
            "volume_ratio": round(one.volume_ratio, 3),
        }
        for name, one in agreed.items()
    ]


def compare_slices(image: Path, annotation: Path, scheme: str | None, auto: Path) -> dict[str, Any]:
    """Return how far the network's slices and their centres move with the automatic mask."""
    import numpy as np

    from monai_vfx.core.errors import find_refusal
    from monai_vfx.workflows.run_bundle import preprocessing

    chain, meta = preprocessing(), []
    for mask, labels in ((annotation, scheme), (auto, "verse")):
        item = {"image": str(image), "mask": str(mask)} | ({"scheme": labels} if labels else {})
        try:
            meta.append(chain(item)["image"].meta)
        except Exception as error:  # MONAI wraps what a transform raises
            refusal = find_refusal(error)
            if refusal is None:
                raise
            return {"refused": "auto" if meta else "given", "code": refusal.code}
    centres = [np.asarray(one["centre_mm"], dtype=float) for one in meta]
    indices = [np.asarray(one["slice_index"]).tolist() for one in meta]
    levels = [np.asarray(one["slice_level"]).tolist() for one in meta]
    apart = centres[1] - centres[0]
    return {
        "slices": len(indices[0]),
        "index_given": indices[0],
        "index_auto": indices[1],
        "same_level": float(np.mean([a == b for a, b in zip(*levels, strict=True)])),
        "largest_shift_along_z_mm": float(np.abs(apart[:, 2]).max()),
        "mean_shift_along_z_mm": float(np.abs(apart[:, 2]).mean()),
        "largest_shift_in_plane_mm": float(np.linalg.norm(apart[:, :2], axis=1).max()),
        "mean_shift_in_plane_mm": float(np.linalg.norm(apart[:, :2], axis=1).mean()),
    }


def scores(
    image: Path, annotation: Path, scheme: str | None, auto: Path, risk_weights: Path
) -> dict[str, float | None]:
    """Return the risk network's score with either mask."""
    from monai_vfx.workflows.predictor import predict

    with tempfile.TemporaryDirectory() as scratch:
        return {
            name: predict(
                image,
                mask,
                weights=risk_weights,
                out=Path(scratch) / name,
                scheme=labels,
                compare_mask=False,
            ).score
            for name, mask, labels in (("given", annotation, scheme), ("auto", auto, "verse"))
        }


def find_case(folder: Path) -> tuple[Path, Path]:
    """Return the real series of VFX_TEST_DATA, unpacked, and its annotation."""
    real = Path(os.environ["VFX_TEST_DATA"]) / "tcga_ov_abdomen"
    with tarfile.open(real / "dicom.tar.xz") as archive:
        archive.extractall(folder / "dicom", filter="data")
    return folder / "dicom", real / "vertebral_bodies.nii.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("annotation", type=Path, nargs="?")
    parser.add_argument("--scheme", help="label scheme of the annotation")
    parser.add_argument(
        "--weights", type=Path, help="folder of the vertebra segmentation's two networks"
    )
    parser.add_argument("--risk-weights", type=Path, help="checkpoint of vfx train: compare scores")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--name", default="real", help="of the case in the results")
    parser.add_argument("--out", type=Path, default=Path("segmentation_real"))
    parser.add_argument("--one", action="store_true", help="segment in this process and end")
    arguments = parser.parse_args()
    out, weights = arguments.out, arguments.weights
    out.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        segment_once(arguments.image, weights, out, arguments.threads)
        return
    with tempfile.TemporaryDirectory() as scratch:
        image, annotation = arguments.image, arguments.annotation
        if image is None or annotation is None:
            if "VFX_TEST_DATA" not in os.environ:
                parser.error("IMAGE and ANNOTATION, or VFX_TEST_DATA")
            image, annotation = find_case(Path(scratch))
        (out / "mask.nii.gz").unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "benchmarks.segmentation.real",
            str(image),
            "--one",
            "--out",
            str(out),
        ]
        command += ["--weights", str(weights)] if weights else []
        command += ["--threads", str(arguments.threads)] if arguments.threads else []
        subprocess.run(command, check=True)
        facts = json.loads((out / "segmentation.json").read_text(encoding="utf-8"))
        facts["name"] = arguments.name
        auto = out / "mask.nii.gz"
        rows: list[dict[str, Any]] = []
        if facts["outcome"] == ACCEPTED:
            rows = compare(image, annotation, arguments.scheme, auto)
            facts["slices"] = compare_slices(image, annotation, arguments.scheme, auto)
            if arguments.risk_weights:
                facts["scores"] = scores(
                    image, annotation, arguments.scheme, auto, arguments.risk_weights
                )
    write(out, facts, rows)


def write(out: Path, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write ``real.json`` and ``real.csv``, and print both as Markdown."""
    from monai_vfx.core.files import write_json

    write_json(out / "real.json", facts)
    if rows:
        with (out / "real.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    print(f"{facts['name']}: {facts['outcome']}, confidence {facts.get('confidence')}")
    print(f"{facts['seconds']:.1f} s on {facts['threads']} threads, {facts['peak_mb']:.0f} MB\n")
    if rows:
        print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(str(value) for value in row.values()) + " |")
    for name in ("slices", "scores"):
        if name in facts:
            print(f"\n{name}: {json.dumps(facts[name])}")


if __name__ == "__main__":
    main()
