"""Pictures of synthetic cases: the CT along the spine with the true and the found bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from nibabel.orientations import apply_orientation, io_orientation

from benchmarks.segmentation.cases import Case
from monai_vfx.core.anatomy import LEVEL_NAMES
from monai_vfx.core.arrays import LabelVolume

WINDOW_HU = (-150.0, 450.0)
TRUE, FOUND = "#57c4e5", "#ff5a36"


def draw_case(case: Case, found: LabelVolume | None, title: str, target: Path) -> None:
    """Draw the CT from the side and from the front, true bodies blue, found ones red.

    The planes follow the true bodies: each row of a picture is taken where the body at its height
    has its middle, so that a scoliosis stays in view.

    Args:
        case: the CT and its truth.
        found: (i, j, k) labels on its grid, None where it was refused.
        title: of the picture.
        target: PNG.
    """
    turn = io_orientation(case.affine)
    hu, truth = (apply_orientation(values, turn) for values in (case.hu, case.truth))
    ours = None if found is None else apply_orientation(found * (found < 101), turn)
    spacing = np.linalg.norm(case.affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]
    x, y = middle_line(truth)
    rows = np.arange(truth.shape[2])
    figure = Figure(figsize=(6.4, 3.7), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=8)
    views = (  # rows are slices from the feet up; front and the patient's right lie to the left
        (1, lambda values: values[x, :, rows][:, ::-1]),
        (0, lambda values: values[:, y, rows].T[:, ::-1]),
    )
    for axes, (step, view) in zip(figure.subplots(1, 2), views, strict=True):
        image, true, mine = (None if v is None else view(v) for v in (hu, truth, ours))
        ratio = spacing[2] / spacing[step]
        low, high = WINDOW_HU
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=ratio)
        for labels, colour, side in ((true, TRUE, 0.02), (mine, FOUND, 0.86)):
            if labels is None or not labels.any():
                continue
            axes.contour(labels > 0, [0.5], colors=colour, linewidths=0.7)
            for value in np.unique(labels[labels > 0]):
                height = np.argwhere(labels == value)[:, 0].mean()
                name = LEVEL_NAMES.get(int(value), str(value))
                axes.text(side * labels.shape[1], height, name, color=colour, fontsize=6)
        axes.set_axis_off()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=90)


def middle_line(truth: LabelVolume) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the index along x and y of the true bodies' middle, for every slice."""
    inside = np.argwhere(truth > 0)
    count = truth.shape[2]
    if not len(inside):
        return tuple(np.full(count, n // 2) for n in truth.shape[:2])  # type: ignore[return-value]
    sizes = np.bincount(inside[:, 2], minlength=count)
    present = np.flatnonzero(sizes)
    lines = [
        np.interp(
            np.arange(count),
            present,
            np.bincount(inside[:, 2], inside[:, axis], count)[present] / sizes[present],
        )
        for axis in (0, 1)
    ]
    return lines[0].round().astype(np.intp), lines[1].round().astype(np.intp)
