"""Show phantom and real crops to a reviewer who does not know which is which.

    VFX_TEST_DATA=DIR python benchmarks/realism/blind.py OUT --seed 1
    VFX_TEST_DATA=DIR python benchmarks/realism/blind.py OUT --beside

Blind: ``OUT/01.png`` … in shuffled order, all on the same pixels, window and field, and the key
beside OUT (``OUT.key.csv``), for whoever scores the answers. ``--beside`` writes one sheet,
phantoms above real ones. The data's terms forbid to commit pixels of the real CT.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from cases import Seen, phantoms, real_cases
from PIL import Image
from scipy import ndimage

from monai_vfx.anatomy import VERTEBRAE
from monai_vfx.shapes import HUVolume

PIXEL_MM = 2.0
FIELD_MM = (148.0, 188.0)
"""Front to back, right to left: what the quick field shows wherever the level lies in it."""
BEHIND_MM = 18.0
"""The crop's centre lies so far behind the body's."""
WINDOW_HU = (-160.0, 240.0)
ENLARGED = 4


def axial(case: Seen, level: str) -> HUVolume | None:
    """Return the axial crop (rows to the back, columns to the patient's left) through a body.

    Real and simulated CT take the same way: in the plane each is averaged to about 2 mm, then
    sampled on the same pixels. None where the level is missing.
    """
    body = np.argwhere(case.labels == VERTEBRAE[level])
    if not len(body):
        return None
    centre = case.affine[:3, :3] @ body.mean(axis=0) + case.affine[:3, 3]
    rows, columns = (np.arange(n / PIXEL_MM) * PIXEL_MM - n / 2 + PIXEL_MM / 2 for n in FIELD_MM)
    x = centre[0] - columns[None, :] + 0 * rows[:, None]
    y = centre[1] - BEHIND_MM - rows[:, None] + 0 * columns[None, :]
    points = np.stack([x, y, np.full_like(x, centre[2]), np.ones_like(x)]).reshape(4, -1)
    index = (np.linalg.inv(case.affine) @ points)[:3]
    index[2] = np.rint(index[2])
    spacing = np.linalg.norm(case.affine[:3, :2], axis=0)
    layer = case.hu[:, :, int(index[2, 0])].astype(np.float32)
    width = np.maximum(np.rint(PIXEL_MM / spacing), 1).astype(int)
    layer = ndimage.uniform_filter(layer, tuple(width), mode="nearest")
    found: HUVolume = ndimage.map_coordinates(
        layer, index[:2], order=1, mode="constant", cval=-1000.0
    ).reshape(x.shape)
    return found


def picture(crop: HUVolume) -> Image.Image:
    """Return a crop as grey levels, enlarged without smoothing."""
    low, high = WINDOW_HU
    grey = np.clip((crop - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).resize(
        (grey.shape[1] * ENLARGED, grey.shape[0] * ENLARGED), Image.Resampling.NEAREST
    )


def crops(data: Path, seed: int) -> list[tuple[str, str, HUVolume]]:
    """Return (kind, what, crop): every level of the real CT, as many phantoms of both hospitals."""
    levels = ("L1", "L2", "L3", "L4")
    found = []
    for case in real_cases(data):
        for level in levels:
            crop = axial(case, level)
            if crop is not None:
                found.append(("real", f"{case.name}, {level}", crop))
    count = len(found)
    for hospital in ("development", "external"):
        cases = phantoms((count + 1) // 2, hospital, "quick", seed=1000 + seed)  # type: ignore[arg-type]
        for number, case in enumerate(cases):
            crop = axial(case, levels[number % 4])
            if crop is not None:
                found.append(("phantom", case.name, crop))
    return found


def write_blind(out: Path, data: Path, seed: int) -> None:
    """Write numbered pictures in random order and the key beside the folder."""
    found = crops(data, seed)
    order = np.random.default_rng(seed).permutation(len(found))
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, at in enumerate(order, start=1):
        kind, what, crop = found[at]
        picture(crop).save(out / f"{number:02d}.png")
        rows.append({"picture": f"{number:02d}.png", "kind": kind, "what": what})
    pd.DataFrame(rows).to_csv(out.with_name(f"{out.name}.key.csv"), index=False)


def write_beside(out: Path, data: Path, seed: int) -> None:
    """Write one sheet: two rows of phantoms above two rows of real CT."""
    found = crops(data, seed)
    rows = []
    for kind in ("phantom", "real"):
        shown = [np.asarray(picture(crop)) for own, _, crop in found if own == kind][:8]
        shown += [np.zeros_like(shown[0])] * (8 - len(shown))
        rows += [np.hstack(shown[:4]), np.hstack(shown[4:])]
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(out / "beside.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beside", action="store_true", help="one sheet, phantoms above real")
    args = parser.parse_args()
    data = os.environ.get("VFX_TEST_DATA")
    if not data:
        raise SystemExit("VFX_TEST_DATA must name the folder of the real CT")
    (write_beside if args.beside else write_blind)(args.out, Path(data), args.seed)
