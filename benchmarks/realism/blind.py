"""Show phantom and real crops to a reviewer who does not know which is which.

    VFX_TEST_DATA=DIR python -m benchmarks.realism.blind OUT --key KEY.csv --seed 1
    VFX_TEST_DATA=DIR python -m benchmarks.realism.blind --beside OUT.png

Blind: ``OUT/01.png`` … in shuffled order, axial through lumbar bodies and sagittal through the
middle, and the key elsewhere, for whoever scores the answers. ``--beside`` writes one labelled
sheet, phantoms above real CT. All have the same pixels, window, field and slices of 5 mm: finer
real CT is averaged. Pixels of real CT belong to their owners: keep the pictures, do not commit
them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.realism.cases import Seen, phantoms, real_cases, resliced
from monai_vfx.core.anatomy import VERTEBRAE
from monai_vfx.core.arrays import HUVolume, Points
from monai_vfx.core.geometry import voxel_spacing

BEHIND_MM = 18.0
"""The crop's centre lies so far behind the body's."""
WINDOW_HU = (-160.0, 240.0)
LEVELS = ("L1", "L2", "L3", "L4")


@dataclass(frozen=True)
class View:
    """What all crops have in common: pixel size in mm, (rows, columns) in mm, enlargement.

    The small field of a phantom holds no more around a body than the coarse view shows.
    """

    pixel: float
    axial: tuple[float, float]
    enlarged: int


VIEWS = {"quick": View(2.0, (148.0, 188.0), 4), "full": View(1.0, (190.0, 200.0), 3)}


@dataclass(frozen=True)
class Crop:
    """One picture: ``phantom`` or ``real``, which CT and plane, HU."""

    kind: str
    what: str
    plane: str
    hu: HUVolume


def centre(case: Seen, level: str) -> Points | None:
    """Return a body's centre in world mm, None where there is none."""
    body = np.argwhere(case.labels == VERTEBRAE[level])
    if not len(body):
        return None
    found: Points = case.affine[:3, :3] @ body.mean(axis=0) + case.affine[:3, 3]
    return found


def axial(case: Seen, level: str, view: View) -> HUVolume | None:
    """Return the crop through a body: rows to the back, columns to the patient's left."""
    middle = centre(case, level)
    if middle is None:
        return None
    rows, columns = (_steps(size, view.pixel) for size in view.axial)
    x = middle[0] - columns[None, :] + 0 * rows[:, None]
    y = middle[1] - BEHIND_MM - rows[:, None] + 0 * columns[None, :]
    return _sampled(case, np.stack([x, y, np.full_like(x, middle[2])]), view.pixel, nearest=True)


def sagittal(case: Seen, view: View) -> HUVolume | None:
    """Return the crop along the bodies' centres: rows to the feet, columns to the back."""
    found = [point for level in LEVELS if (point := centre(case, level)) is not None]
    if len(found) < 3:
        return None
    line = np.array(sorted(found, key=lambda point: float(point[2])))
    rows = _steps(150.0, view.pixel)
    columns = _steps(view.axial[0], view.pixel)
    z = line[:, 2].mean() - rows[:, None] + 0 * columns[None, :]
    y = line[:, 1].mean() - BEHIND_MM - columns[None, :] + 0 * rows[:, None]
    x = np.interp(z, line[:, 2], line[:, 0])
    return _sampled(case, np.stack([x, y, z]), view.pixel, nearest=False)


def picture(crop: HUVolume, view: View) -> Image.Image:
    """Return a crop as grey levels, enlarged without smoothing."""
    low, high = WINDOW_HU
    grey = np.clip((crop - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    size = (grey.shape[1] * view.enlarged, grey.shape[0] * view.enlarged)
    return Image.fromarray(grey).resize(size, Image.Resampling.NEAREST)


def crops(data: Path, seed: int, field: str) -> list[Crop]:
    """Return every lumbar level and one sagittal plane of the real CT, as many of phantoms."""
    view = VIEWS[field]
    found = [crop for case in real_cases(data) for crop in _of(case, "real", LEVELS, view)]
    count = sum(crop.plane == "axial" for crop in found)
    for hospital in ("development", "external"):
        made = phantoms((count + 1) // 2, hospital, field, 1000 + seed)  # type: ignore[arg-type]
        for number, (_, make) in enumerate(made):
            own = list(_of(make(), "phantom", (LEVELS[number % 4],), view))
            found += own[: 2 if number == 0 else 1]  # sagittal planes: one a hospital
    return found


def write_blind(out: Path, key: Path, found: list[Crop], view: View, seed: int) -> None:
    """Write numbered pictures in random order, and the key to a place outside their folder."""
    if key.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"key: {key} lies among the pictures; name a place outside {out}")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, at in enumerate(np.random.default_rng(seed).permutation(len(found)), start=1):
        crop, name = found[at], f"{number:02d}.png"
        picture(crop.hu, view).save(out / name)
        rows.append({"picture": name, "kind": crop.kind, "plane": crop.plane, "what": crop.what})
    key.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(key, index=False)


def write_beside(out: Path, found: list[Crop], view: View) -> None:
    """Write one sheet: phantoms above real CT, each with its name."""
    rows = []
    for plane in ("axial", "sagittal"):
        for kind in ("phantom", "real"):
            own = [crop for crop in found if crop.kind == kind and crop.plane == plane]
            rows += [own[start : start + 4] for start in range(0, len(own), 4)]
    tall, wide = (round(size / view.pixel) * view.enlarged for size in view.axial)
    tall = max(tall, round(150 / view.pixel) * view.enlarged)
    sheet = Image.new("L", (4 * wide, len(rows) * tall))
    draw = ImageDraw.Draw(sheet)
    for row, own in enumerate(rows):
        for column, crop in enumerate(own):
            sheet.paste(picture(crop.hu, view), (column * wide, row * tall))
            draw.text((column * wide + 6, row * tall + 4), f"{crop.kind}: {crop.what}", fill=255)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def _of(case: Seen, kind: str, levels: tuple[str, ...], view: View) -> Iterator[Crop]:
    part = resliced(case)
    for level in levels:
        hu = axial(part, level, view)
        if hu is not None:
            yield Crop(kind, f"{case.name}, {level}", "axial", hu)
    hu = sagittal(part, view)
    if hu is not None:
        yield Crop(kind, f"{case.name}, middle", "sagittal", hu)


def _steps(size: float, pixel: float) -> Points:
    count = round(size / pixel)
    steps: Points = (np.arange(count) - (count - 1) / 2) * pixel
    return steps


def _sampled(case: Seen, points: Points, pixel: float, nearest: bool) -> HUVolume:
    """Return HU at world points (3, rows, columns), in the plane averaged to the view's pixels."""
    inverse = np.linalg.inv(case.affine)
    at = inverse[:3, :3] @ points.reshape(3, -1) + inverse[:3, 3:]
    if nearest:
        at[2] = np.rint(at[2])
    low = np.maximum(np.floor(at.min(axis=1)) - 3, 0).astype(int)
    high = np.ceil(at.max(axis=1)).astype(int) + 4
    part = case.hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    width = np.maximum(np.rint(pixel / voxel_spacing(case.affine)[:2]), 1).astype(int)
    part = ndimage.uniform_filter(part.astype(np.float32), (*width, 1), mode="nearest")
    found = ndimage.map_coordinates(part, at - low[:, None], order=1, cval=-1000.0)
    result: HUVolume = found.reshape(points.shape[1:])
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="folder of the numbered pictures")
    parser.add_argument("--key", type=Path, help="file that says what they are (OUT.key.csv)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--field", choices=tuple(VIEWS), default="quick", help="of the phantoms")
    parser.add_argument("--beside", type=Path, help="write one labelled sheet here")
    args = parser.parse_args()
    folder = os.environ.get("VFX_TEST_DATA")
    if not folder:
        parser.error("VFX_TEST_DATA must name the folder of the real CT")
    if args.out is None and args.beside is None:
        parser.error("give OUT, --beside or both")
    shown = crops(Path(folder), args.seed, args.field)
    if args.out is not None:
        key = args.key or args.out.with_name(f"{args.out.name}.key.csv")
        write_blind(args.out, key, shown, VIEWS[args.field], args.seed)
    if args.beside is not None:
        write_beside(args.beside, shown, VIEWS[args.field])
