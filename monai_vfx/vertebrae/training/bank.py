"""The bank: anatomical label maps, drawn once, of which training makes its synthetic CT.

A label map takes a second or two to paint, an image of it a fraction of that, so each map is kept
and used for many images, each time with another pose, deformation, scanner and set of intensities.
A map depends on the bank's seed and its own number alone: a bank may be drawn by several processes,
be interrupted, or be left to the training, which draws the maps it misses.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from tqdm import tqdm

from monai_vfx.core.anatomy import VERTEBRAE
from monai_vfx.core.arrays import Affine, LabelVolume
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.core.geometry import world_positions
from monai_vfx.core.workers import run_tasks
from monai_vfx.vertebrae.segmentation.grids import PATCH_SPACING_MM, patch_affine
from monai_vfx.vertebrae.training.anatomy.body_plan import (
    BodyPlan,
    draw_body_plan,
    paint_label_map,
)
from monai_vfx.vertebrae.training.anatomy.real_label_map import real_anatomy

_LOG = logging.getLogger(__name__)
HELD_OUT = 1_000_000  # Maps from this number on are for validation; training takes numbers below

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BankItem:
    """One label map, and where images of it are taken."""

    tissues: LabelVolume  # (x, y, z) uint8, Tissue
    vertebrae: LabelVolume  # (x, y, z) uint8, level numbers inside vertebral bodies, 0 elsewhere
    affine: Affine  # index → RAS mm
    # (4, 4) RAS mm, frame of a patch: its axes and its centre as columns; None for a box of the
    # trunk, whose image lies in its middle, upright
    pose: Affine | None = None
    # number of the vertebra that a patch is about; 0 for a patch round the sacrum and for a box of
    # the trunk
    level: int = 0


def vertebra_frame(centre: npt.ArrayLike, up: npt.ArrayLike) -> Affine:
    """Return the frame (4, 4) of a vertebra's patch, with the axes of inference, frame mm → RAS mm.

    The spine runs ``up`` (3,) towards the head, of any length, at the body's centre (3,), RAS mm.

    >>> vertebra_frame((1, 2, 3), (0, 0, 2)).tolist()[0]
    [1.0, 0.0, 0.0, 1.0]
    """
    frame = patch_affine(np.asarray(centre, dtype=float), np.asarray(up, dtype=float))
    frame[:3, :3] /= PATCH_SPACING_MM
    frame[:3, 3] = centre
    return frame


@dataclass(frozen=True)
class AnatomyBank:
    """Label maps in a folder, painted when first asked for.

    Raises:
        SettingError: the folder holds a bank of other settings, or ``kind`` is unknown.
    """

    folder: Path  # where they are kept, one `NUMBER.npz` each
    size: int  # number of maps that training uses
    kind: str  # `locator` for boxes of the trunk, `refiner` for the surroundings of a vertebra
    spacing_mm: Sequence[float]  # (3,) of the maps' grid
    # (3,) of the maps; of a patch's maps, the patch's own size, to which a margin and what its tilt
    # needs are added
    box_mm: Sequence[float]
    margin_mm: float = 10.0  # round a patch, for shifts and deformations
    seed: int = 0  # of all maps
    record: Path = field(init=False)

    def __post_init__(self) -> None:
        """Note the settings in the folder, so that no two banks are mixed."""
        if self.kind not in _DRAWERS:
            raise SettingError(f"kind ({self.kind!r}) must be one of {', '.join(_DRAWERS)}")
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "record", self.folder / "bank.json")
        settings = {**asdict(self), "spacing_mm": [*self.spacing_mm], "box_mm": [*self.box_mm]}
        settings = {k: v for k, v in settings.items() if k not in ("folder", "record", "size")}
        if self.record.is_file():
            earlier = read_json(self.record)
            changed = sorted(k for k in settings if settings[k] != earlier.get(k))
            if changed:
                raise SettingError(
                    f"{self.folder} holds a bank with another {', '.join(changed)}: give another "
                    "cache_dir"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.record, settings)

    def __len__(self) -> int:
        """Return the number of maps that training uses."""
        return self.size

    def path(self, number: int) -> Path:
        """Return where a map is kept."""
        return self.folder / f"{number:07d}.npz"

    def __getitem__(self, number: int) -> BankItem:
        """Return a map; one that is not there yet, or is damaged, is drawn and kept."""
        try:
            return _load(self.path(number))
        except FileNotFoundError:
            pass
        except Exception:  # what a damaged archive raises is not to be foreseen
            _LOG.warning("%s cannot be read and is drawn again", self.path(number).name)
        item = self.draw(number)
        _save(self.path(number), item)
        return item

    def reach(self, frame: Affine) -> Vector:
        """Return half the sides (3,) in mm of the upright box that a tilted patch needs."""
        reach: Vector = np.abs(frame[:3, :3]) @ (np.asarray(self.box_mm) / 2) + self.margin_mm
        return reach

    def draw(self, number: int) -> BankItem:
        """Draw and paint a map, whether it is kept or not."""
        return _DRAWERS[self.kind](self, np.random.default_rng([self.seed, number]))

    def fill(self, held_out: int = 0, workers: int = 0) -> int:
        """Draw the maps that are missing, those for validation first; return how many.

        ``workers`` are processes that paint; 0 paints in this one.
        """
        numbers = [*range(HELD_OUT, HELD_OUT + held_out), *range(self.size)]
        missing = [n for n in numbers if not self.path(n).is_file()]
        tasks = run_tasks(partial(_touch, self), missing, workers, _died)
        for _ in tqdm(tasks, f"{self.kind} bank", len(missing), mininterval=10):
            pass
        return len(missing)


class RealAnatomy:
    """The label map of a real person, from which boxes are cut as a bank draws them.

    The files are those of :func:`monai_vfx.vertebrae.training.anatomy.real_label_map.real_anatomy`.

    Raises:
        SettingError: the map shows no vertebral body.
    """

    def __init__(self, folder: str | Path, bank: AnatomyBank) -> None:
        self.bank = bank
        self.map = real_anatomy(folder)
        affine = self.map.affine
        found = [int(value) for value in np.unique(self.map.vertebrae) if value]
        if not found:
            raise SettingError(f"real_anatomy ({folder}) shows no vertebral body")
        places = ndimage.center_of_mass(self.map.vertebrae > 0, self.map.vertebrae, found)
        centres = world_positions(affine, places)
        order = np.argsort(-centres[:, 2])
        self.levels = [found[i] for i in order]
        self.centres: Vector = centres[order]

    def draw(self, rng: np.random.Generator) -> BankItem:
        """Cut a box round a place on the spine, or round one vertebra."""
        chosen = int(rng.integers(len(self.levels)))
        centre = self.centres[chosen]
        if self.bank.kind == "refiner":
            above, below = max(chosen - 1, 0), min(chosen + 1, len(self.levels) - 1)
            up = self.centres[above] - self.centres[below]
            pose = vertebra_frame(centre, up if above < below else (0, 0, 1))
            return self._cut(centre, self.bank.reach(pose), pose, self.levels[chosen])
        centre = centre + rng.uniform((-60, -40, -40), (60, 80, 40))
        return self._cut(centre, np.asarray(self.bank.box_mm) / 2)

    def _cut(
        self, centre: Vector, reach: Vector, pose: Affine | None = None, level: int = 0
    ) -> BankItem:
        affine = self.map.affine
        step = np.diag(affine)[:3]
        shape = np.asarray(self.map.tissues.shape)
        low = np.clip(np.rint((centre - reach - affine[:3, 3]) / step), 0, shape - 1).astype(int)
        high = np.clip(np.rint((centre + reach - affine[:3, 3]) / step), low + 1, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        moved = affine.copy()
        moved[:3, 3] += low * step
        tissues, vertebrae = (
            np.ascontiguousarray(m[box]) for m in (self.map.tissues, self.map.vertebrae)
        )
        return BankItem(tissues, vertebrae, moved, pose, level)


def _touch(bank: AnatomyBank, number: int) -> None:
    bank[number]


def _died(number: int) -> None:
    raise RuntimeError(f"the process that draws map {number} ended unexpectedly")


def _load(path: Path) -> BankItem:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays: dict[str, Any] = dict(stored)
    return BankItem(**{**arrays, "level": int(arrays["level"])})


def _save(path: Path, item: BankItem) -> None:
    """Write a map; a file of this name is always whole."""
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **{k: v for k, v in vars(item).items() if v is not None})
    unfinished.replace(path)


def _draw_trunk(bank: AnatomyBank, rng: np.random.Generator) -> BankItem:
    """Paint a box of the trunk somewhere along the spine."""
    plan = draw_body_plan(rng)
    centre, half = _trunk_centre(plan, rng), np.asarray(bank.box_mm) / 2
    painted = paint_label_map(plan, centre - half, centre + half, bank.spacing_mm)
    return BankItem(painted.tissues, painted.vertebrae, painted.affine)


def _trunk_centre(plan: BodyPlan, rng: np.random.Generator) -> Vector:
    """Choose the centre of a box: mostly the lumbar spine, now and then a chest, pelvis or head."""
    levels = dict(zip(plan.levels, plan.centres, strict=True))
    lowest = plan.centres[-1]
    kind = rng.choice(
        ["sacrum_and_ribs", "lumbar", "chest", "pelvis", "head"], p=[0.36, 0.42, 0.12, 0.06, 0.04]
    )
    if kind == "sacrum_and_ribs":
        z = levels["L3"][2] + rng.uniform(-35, 35)
    elif kind == "lumbar":
        z = rng.uniform(lowest[2] - 50, levels["T10"][2])
    elif kind == "chest":
        z = rng.uniform(levels["T10"][2], levels["T3"][2])
    elif kind == "pelvis":
        z = lowest[2] - rng.uniform(80, 220)
    else:
        z = levels["T1"][2] + rng.uniform(0, 200)
    nearest = np.argmin(np.abs(plan.centres[:, 2] - z))
    x, y = plan.centres[nearest, :2]
    aside, forwards = (90, (-60, 130)) if rng.random() < 0.2 else (40, (-25, 60))
    return np.array([x + rng.uniform(-aside, aside), y + rng.uniform(*forwards), z])


def _draw_patch(bank: AnatomyBank, rng: np.random.Generator) -> BankItem:
    """Paint the surroundings of one vertebra between T9 and the sacrum."""
    plan = draw_body_plan(rng)
    first = plan.levels.index("T9")
    candidates = [*range(first, len(plan.levels)), None]  # None: S1
    weights = np.array([0.6 if i is None or plan.levels[i] in _OUTER else 1 for i in candidates])
    chosen = candidates[rng.choice(len(candidates), p=weights / weights.sum())]
    centres, axes = plan.centres, plan.axes
    if chosen is None:
        low, high = plan.sacrum[0], centres[-1]
        frame, level = vertebra_frame(low, high - low), 0
    else:
        frame = vertebra_frame(centres[chosen], axes[chosen])
        level = VERTEBRAE[plan.levels[chosen]]
    reach = bank.reach(frame)
    centre = frame[:3, 3]
    painted = paint_label_map(plan, centre - reach, centre + reach, bank.spacing_mm)
    return BankItem(painted.tissues, painted.vertebrae, painted.affine, frame, level)


_OUTER = ("T9", "T10")
_DRAWERS = {"locator": _draw_trunk, "refiner": _draw_patch}
