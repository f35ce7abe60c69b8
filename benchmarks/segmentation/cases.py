"""Synthetic CT of people whom training never saw, with their truth, on grids as in hospitals.

A case depends on its series and its number alone. The series' names go into the random generator,
so that test and calibration cases are other people than each other's and than training's (whose
generators start from the bank's seed).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, HUVolume, LabelVolume
from monai_vfx.vertebrae.training.anatomy.body_plan import (
    BodyPlan,
    draw_body_plan,
    paint_label_map,
)
from monai_vfx.vertebrae.training.anatomy.synthetic_ct import synthetic_ct
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue

FIELDS_OF_VIEW = {
    "abdomen": 0.50,  # T8-T10 to the pelvis
    "no_sacrum": 0.10,  # ends right below L4
    "last_rib_only": 0.08,  # begins right above T12
    "no_ribs": 0.07,  # begins in L1 or T12: must be refused
    "narrow": 0.10,  # 190 mm round the spine
    "chest": 0.08,  # ends between T11 and L2: must be refused
    "pelvis": 0.07,  # begins between L2 and L4: must be refused
}
"""Field of view → share of the cases."""

THICKNESS_MM = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
NOISE_HU = (5.0, 60.0)
"""Least and greatest SD of the noise, drawn on a logarithmic scale."""
PIXEL_MM = (0.9, 1.4)
"""Coarser than most CT (0.7-0.9 mm), which saves half of the time; the networks see 2 to 4 mm."""
WIDTH_MM = (340.0, 460.0)
MAP_MM = (1.5, 1.5, 1.25)
"""Voxels of the label map that is scanned."""
SAMPLE_MM = 1.25
"""A slice is the mean of samples at most so far apart."""
ENHANCED_HU = 100.0
"""From here on the aorta holds contrast medium."""


@dataclass(frozen=True)
class Conditions:
    """How a case is scanned.

    Attributes:
        field_of_view: key of ``FIELDS_OF_VIEW``.
        thickness_mm: of a slice, and the slices' distance.
        pixel_mm: in the slice.
        width_mm: of the square field of view.
        noise_hu: SD.
        low_mm, high_mm: z of the lowest and highest slice's middle.
        centre_mm: (x, y) of the field of view's middle.
        turn_deg: of the scanner's axes about x, y and z.
        flips: whether each file axis runs against RAS.
        circle: whether what lies outside the scan circle is padding.
    """

    field_of_view: str
    thickness_mm: float
    pixel_mm: float
    width_mm: float
    noise_hu: float
    low_mm: float
    high_mm: float
    centre_mm: tuple[float, float]
    turn_deg: tuple[float, float, float]
    flips: tuple[bool, bool, bool]
    circle: bool


@dataclass(frozen=True)
class Case:
    """One synthetic CT and its truth.

    Attributes:
        hu: (i, j, k) int16.
        truth: (i, j, k) uint8, bodies under VerSe numbers; zero outside the scan circle.
        affine: of both.
        plan: the person.
        conditions: the scan.
        enhanced: whether the aorta holds contrast medium; None where it is not in view.
    """

    hu: npt.NDArray[np.int16]
    truth: LabelVolume
    affine: Affine
    plan: BodyPlan
    conditions: Conditions
    enhanced: bool | None


def make_case(series: str, number: int) -> Case:
    """Draw, paint and scan one person.

    Args:
        series: such as ``test`` or ``calibration``.
        number: from 0.
    """
    rng = np.random.default_rng([zlib.crc32(series.encode()), number])
    plan = draw_body_plan(rng)
    conditions = draw_conditions(plan, rng)
    affine, shape = scan_grid(conditions)
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.array(shape) - 0.5
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    anatomy = paint_label_map(plan, world.min(axis=0), world.max(axis=0), MAP_MM)
    samples = int(np.ceil(conditions.thickness_mm / SAMPLE_MM))
    hu, _ = synthetic_ct(
        anatomy,
        rng,
        affine=affine,
        shape=shape,
        oversample=(1, 1, samples),
        noise_hu=(conditions.noise_hu, conditions.noise_hu),
    )
    truth = on_scan(anatomy.vertebrae, anatomy.affine, affine, shape)
    tissues = on_scan(anatomy.tissues, anatomy.affine, affine, shape)
    if conditions.circle:
        i, j = (np.arange(n) - (n - 1) / 2 for n in shape[:2])
        outside = i[:, None] ** 2 + j**2 > (min(shape[:2]) / 2) ** 2
        hu[outside], truth[outside], tissues[outside] = -1024, 0, 0
    aorta = hu[tissues == Tissue.AORTA]
    enhanced = bool(np.median(aorta) > ENHANCED_HU) if aorta.size >= 50 else None
    return Case(whole_hu(hu), truth, affine, plan, conditions, enhanced)


def draw_conditions(plan: BodyPlan, rng: np.random.Generator) -> Conditions:
    """Draw how a person is scanned."""
    kind = str(rng.choice(list(FIELDS_OF_VIEW), p=list(FIELDS_OF_VIEW.values())))
    low, high = draw_ends(kind, plan, rng)
    spine = dict(zip(plan.levels, plan.centres, strict=True))["L2"]
    aside, ahead = (20, (0, 30)) if kind == "narrow" else (25, (25, 65))
    turned = rng.random() < 0.25
    return Conditions(
        field_of_view=kind,
        thickness_mm=float(rng.choice(THICKNESS_MM)),
        pixel_mm=round(float(rng.uniform(*PIXEL_MM)), 3),
        width_mm=190.0 if kind == "narrow" else float(rng.uniform(*WIDTH_MM)),
        noise_hu=round(float(np.exp(rng.uniform(*np.log(NOISE_HU)))), 1),
        low_mm=low,
        high_mm=high,
        centre_mm=(
            float(spine[0] + rng.uniform(-aside, aside)),
            float(spine[1] + rng.uniform(*ahead)),
        ),
        turn_deg=tuple(float(a) for a in rng.uniform(-8, 8, 3) * turned),  # type: ignore[arg-type]
        flips=(bool(rng.random() < 0.7), bool(rng.random() < 0.7), bool(rng.random() < 0.3)),
        circle=bool(rng.random() < 0.5),
    )


def draw_ends(kind: str, plan: BodyPlan, rng: np.random.Generator) -> tuple[float, float]:
    """Return z of the lowest and the highest slice, mm."""
    z = {name: float(centre[2]) for name, centre in zip(plan.levels, plan.centres, strict=True)}
    half = {name: float(size[0]) / 2 for name, size in zip(plan.levels, plan.sizes, strict=True)}
    last = f"T{plan.thoracic}"
    sacrum = float(plan.sacrum[0, 2])
    high = float(rng.uniform(z["T10"], z["T8"]))
    low = sacrum - float(rng.uniform(15, 160))
    if kind == "no_sacrum":
        low = z["L4"] - half["L4"] - float(rng.uniform(6, 18))
    elif kind == "last_rib_only":
        high = z[last] + half[last] + float(rng.uniform(6, 12))
    elif kind == "no_ribs":
        high = float(rng.uniform(z["L1"], z[last]))
    elif kind == "chest":
        low, high = float(rng.uniform(z["L2"], z["T11"])), z["T1"] + float(rng.uniform(-20, 60))
    elif kind == "pelvis":
        low, high = sacrum - float(rng.uniform(150, 220)), float(rng.uniform(z["L4"], z["L2"]))
    return low, high


def scan_grid(conditions: Conditions) -> tuple[Affine, tuple[int, int, int]]:
    """Return affine (index → RAS mm) and shape of a scan."""
    pixels = round(conditions.width_mm / conditions.pixel_mm)
    slices = int((conditions.high_mm - conditions.low_mm) / conditions.thickness_mm) + 1
    shape = (pixels, pixels, slices)
    signs = [-1.0 if flip else 1.0 for flip in conditions.flips]
    turn = Rotation.from_euler("xyz", conditions.turn_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    step = np.array([conditions.pixel_mm, conditions.pixel_mm, conditions.thickness_mm])
    affine[:3, :3] = turn * (signs * step)
    middle = [*conditions.centre_mm, (conditions.low_mm + conditions.high_mm) / 2]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def on_scan(
    labels: LabelVolume, source: Affine, affine: Affine, shape: tuple[int, int, int]
) -> LabelVolume:
    """Return the labels at the middles of a scan's voxels."""
    matrix = np.linalg.inv(source) @ affine
    out: LabelVolume = ndimage.affine_transform(
        labels, matrix[:3, :3], matrix[:3, 3], shape, np.uint8, order=0, mode="constant"
    )
    return out


def whole_hu(hu: HUVolume) -> npt.NDArray[np.int16]:
    """Return HU as files hold them."""
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def study_in_view(truth: LabelVolume, at_edge: set[int]) -> bool:
    """Say whether T12-L4, by the reader's convention, are in the image and none of them is cut."""
    values = {VERTEBRAE[level] for level in LEVELS}
    return values <= set(np.unique(truth).tolist()) and not values & at_edge
