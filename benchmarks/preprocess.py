"""DICOM series + label map → network input: this project's chain against a plain stock chain.

The stock chain is what one writes first with MONAI alone: ITKReader on the whole series,
Orientationd, Spacingd and ScaleIntensityRanged on the whole volume, then the same crops and slices.
Each measurement is a process of its own (imports, one warm-up, one timed run), the two chains take
turns, and medians are printed with the ratio. Peak memory is the process's largest resident set.

    python benchmarks/preprocess.py [IMAGE MASK] [--rounds 5]

Without arguments the real series of VFX_TEST_DATA is used, or a simulated patient where that is
unset. Needs the extra ``bench`` (itk).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

CHAINS = ("ours", "stock")


def stock_chain() -> Any:
    """Return the whole-volume chain; crops and slices are ours, MONAI has none like them."""
    import numpy as np
    from monai.transforms import (
        Compose,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
    )

    from monai_vfx.core.geometry import LPS, world_positions
    from monai_vfx.transforms import SampleSlicesd, VertebraCropd
    from monai_vfx.transforms.centres import find_body_slices

    keys = ("image", "mask")

    def find_bodies(item: dict[str, Any]) -> dict[str, Any]:
        affine = np.asarray(item["image"].affine)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        found = find_body_slices(np.asarray(item["mask"][0]), tuple(spacing))
        places = np.column_stack([found.centres, found.indices])
        item["image"].meta |= {
            "first_slice_from_feet": 0,
            "slice_index": item["image"].shape[3] - 1 - found.indices,
            "slice_level": found.levels,
            "centre_mm": world_positions(affine, places) * LPS,
        }
        return item

    return Compose(
        [
            LoadImaged(keys, reader="ITKReader", ensure_channel_first=True),
            Orientationd(keys, axcodes="PLI", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys, pixdim=(1.0, 1.0, -1.0), mode=("bilinear", "nearest"), dtype=np.float64),
            ScaleIntensityRanged("image", -200, 1000, -1, 1, clip=True),
            find_bodies,
            VertebraCropd("image"),
            SampleSlicesd("image"),
        ]
    )


def measure(chain: str, image: Path, mask: Path) -> dict[str, Any]:
    """Run one chain twice in this process; time the second run."""
    from monai_vfx.workflows.run_bundle import preprocessing

    run = stock_chain() if chain == "stock" else preprocessing()
    item = {"image": str(image), "mask": str(mask)}
    run(dict(item))
    start = time.perf_counter()
    out = run(dict(item))["image"]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak, "mean": float(out.mean()), "shape": [*out.shape]}


def find_case(folder: Path) -> tuple[Path, Path]:
    """Return a DICOM series and its label map: real where there is one, else simulated."""
    data = os.environ.get("VFX_TEST_DATA")
    if data:
        real = Path(data) / "tcga_ov_abdomen"
        with tarfile.open(real / "dicom.tar.xz") as archive:
            archive.extractall(folder / "dicom", filter="data")
        return folder / "dicom", real / "vertebral_bodies.nii.gz"
    from monai_vfx.analysis.cohort.training_items import read_cohort
    from monai_vfx.simulation.hospital import simulate_hospital

    item = read_cohort(simulate_hospital(folder / "hospital", 1, seed=0))[0]
    return Path(item["image"]), Path(item["mask"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("mask", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=CHAINS, help="run one chain and print its figures")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.image, arguments.mask)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        image, mask = arguments.image, arguments.mask
        if image is None or mask is None:
            image, mask = find_case(Path(scratch))
        figures: dict[str, list[dict[str, Any]]] = {chain: [] for chain in CHAINS}
        for _ in range(arguments.rounds):
            for chain in CHAINS:
                command = [sys.executable, __file__, str(image), str(mask), "--one", chain]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                figures[chain].append(json.loads(out.splitlines()[-1]))
    print("| chain | seconds (min-max) | peak MB | mean of the input |")
    print("|---|---|---|---|")
    for chain, runs in figures.items():
        seconds = [run["seconds"] for run in runs]
        print(
            f"| {chain} | {statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f}) "
            f"| {statistics.median(run['peak_mb'] for run in runs):.0f} | {runs[0]['mean']:.4f} |"
        )
    for name, unit in (("seconds", "faster"), ("peak_mb", "less memory")):
        ours, stock = (statistics.median(run[name] for run in figures[c]) for c in CHAINS)
        print(f"{stock / ours:.1f} times {unit}")


if __name__ == "__main__":
    main()
