"""What perfect networks would say of a drawn anatomy: its truth, as probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from monai_vfx.core.anatomy import PATCH_STRUCTURES, STRUCTURES
from monai_vfx.vertebrae.segmentation import grids
from monai_vfx.vertebrae.training.anatomy.body_plan import (
    BodyPlan,
    draw_body_plan,
    paint_label_map,
)
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap
from monai_vfx.vertebrae.training.anatomy.tissues import STRUCTURE_OF

_TABLE = np.zeros(256, dtype=np.uint8)
for _tissue, _index in STRUCTURE_OF.items():
    _TABLE[int(_tissue)] = _index
_SHARED = ("disc", "posterior_elements", "rib", "sacrum")


def draw_plan(
    lumbar: int, thoracic: int = 12, first: int = 0, wanted: Callable[[BodyPlan], bool] = bool
) -> BodyPlan:
    """Return the first drawn person with these counts."""
    for seed in range(first, first + 2000):
        plan = draw_body_plan(np.random.default_rng(seed))
        if (plan.thoracic, plan.lumbar) == (thoracic, lumbar) and wanted(plan):
            return plan
    raise AssertionError("no such person")


def paint(
    plan: BodyPlan, highest: str = "T9", lowest: str = "sacrum", beyond_mm: float = 22.0
) -> AnatomyMap:
    """Paint the trunk from one level to another, and a little beyond, at 2 x 2 x 1.5 mm."""
    centres = dict(zip(plan.levels, plan.centres, strict=True))
    top = centres[highest][2] + beyond_mm
    last = centres[plan.levels[-1]][2] - 75 if lowest == "sacrum" else centres[lowest][2]
    middle = centres["L2"]
    low = (middle[0] - 96, middle[1] - 100, last - (0 if lowest == "sacrum" else beyond_mm))
    high = (middle[0] + 96, middle[1] + 50, top)
    return paint_label_map(plan, low, high)


def structures(anatomy: AnatomyMap) -> np.ndarray:
    """Return each voxel's structure; what lies in a body is body whatever its tissue."""
    found = _TABLE[anatomy.tissues]
    found[anatomy.vertebrae > 0] = STRUCTURES.index("body")
    return found


def locator_truth(anatomy: AnatomyMap) -> grids.Probabilities:
    """Return shares of the structures at 4 x 4 x 3 mm, a little blurred."""
    classes = structures(anatomy)
    classes = classes[tuple(slice(0, n // 2 * 2) for n in classes.shape)]
    shares = np.stack(
        [
            ndimage.gaussian_filter(grids.block_mean(classes == n, (2, 2, 2)), 0.5)
            for n in range(len(STRUCTURES))
        ]
    )
    affine = grids.block_affine(anatomy.affine, (2, 2, 2))
    return grids.Probabilities((shares / shares.sum(axis=0)).astype(np.float32), affine)


def refiner_truth(
    anatomy: AnatomyMap, reach_mm: int = 10
) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return a function from patches' affines to shares of the patches' structures.

    "This body" is the one that fills most of the patch's middle, as far as it reaches each way.
    """
    classes, inverse = structures(anatomy), np.linalg.inv(anatomy.affine)

    def sampled(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
        inner = np.diag([0.5, 0.5, 0.5, 1.0])
        inner[:3, 3] = -0.25
        matrix = inverse @ affine @ inner
        return ndimage.affine_transform(
            values,
            matrix[:3, :3],
            offset=matrix[:3, 3],
            output_shape=tuple(2 * n for n in grids.PATCH_SHAPE),
            order=0,
            mode="grid-constant",
        )

    def predict(affines: Sequence[np.ndarray]) -> np.ndarray:
        patches = []
        for affine in affines:
            tissue, body = sampled(classes, affine), sampled(anatomy.vertebrae, affine)
            middle = tuple(slice(n - reach_mm, n + reach_mm) for n in grids.PATCH_SHAPE)
            counts = np.bincount(body[middle].ravel(), minlength=256)
            counts[0] = 0
            label = np.zeros(tissue.shape, dtype=np.uint8)
            for name in _SHARED:
                label[tissue == STRUCTURES.index(name)] = PATCH_STRUCTURES.index(name)
            label[body > 0] = PATCH_STRUCTURES.index("other_body")
            if counts.max() > 0:
                label[body == counts.argmax()] = PATCH_STRUCTURES.index("this_body")
            shares = np.stack(
                [
                    ndimage.gaussian_filter(grids.block_mean(label == n, (2, 2, 2)), 0.5)
                    for n in range(len(PATCH_STRUCTURES))
                ]
            )
            patches.append(shares / shares.sum(axis=0))
        return np.stack(patches).astype(np.float32)

    return predict


def centroids(anatomy: AnatomyMap) -> dict[int, np.ndarray]:
    """Return the centroid (3,) in mm of each body, by its number, for bodies not cut by the box."""
    found = {}
    for value, box in enumerate(ndimage.find_objects(anatomy.vertebrae), start=1):
        if box is None or box[2].start == 0 or box[2].stop == anatomy.vertebrae.shape[2]:
            continue
        index = np.argwhere(anatomy.vertebrae[box] == value) + [side.start for side in box]
        found[value] = anatomy.affine[:3, :3] @ index.mean(axis=0) + anatomy.affine[:3, 3]
    return found
