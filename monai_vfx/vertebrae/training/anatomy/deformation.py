"""Random pieces of anatomical label maps, turned, scaled, bent and mirrored."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform
from scipy.spatial.transform import Rotation

from monai_vfx.core.arrays import Affine
from monai_vfx.vertebrae.training.anatomy.grid_operators import along_axes, spline_basis

MAPS = ("tissues", "vertebrae")  # Keys of an item's two maps

OUTSIDE = 63
"""Tissue value of voxels outside the field of view or the label map; no member of ``Tissue``."""

TISSUE_BITS = 6  # A tissue and a level travel as one number, level * 64 + tissue


class SampleAnatomyd(RandomizableTransform):
    """Sample a box of an anatomy at random place, orientation, size and shape.

    Both maps, ``tissues`` and ``vertebrae`` (MetaTensors (1, X, Y, Z) uint8 on one grid), are read
    in one pass with nearest neighbours, on a grid finer than the network's, so that they are
    deformed alike and shares of structures in the network's voxels can be counted. ``pose`` of the
    item, if any, is a (4, 4) array whose last column is the box's centre and whose other columns
    are the unit vectors of its axes in RAS mm. Without it the box lies in the middle of the map,
    its axes along R, A and S.

    Args:
        spacing_mm: of the network's grid, (x, y, z).
        shape: voxels of the network's grid.
        oversample: voxels of the sampled grid in one of the network's, for all axes or each.
        shift_mm: the box is moved by up to this much along each of its axes.
        rotation_deg: it is turned by up to this much about its x, y and z axis.
        scale: least and greatest factor of the box's size (2 shows the anatomy at half size).
        stretch: each axis is scaled by a further factor of up to 1 ± this.
        elastic_mm: greatest SD of the elastic displacement, in mm along each axis; the SD of a
            sample lies between 0 and this.
        knot_mm: distance of the knots of the displacement's cubic B-splines.
        flip: probability that left and right are swapped.
        cut: probability that the field of view ends inside the box, above or below.
        circle: probability that a scan circle of 100 to 220 mm radius cuts the box.
        prob: probability of everything random above; else the box is sampled as it is.

    Raises:
        ValueError: when maps do not lie on one grid or are no volumes of one channel.
    """

    def __init__(
        self,
        spacing_mm: Sequence[float] = (4.0, 4.0, 3.0),
        shape: Sequence[int] = (64, 48, 104),
        oversample: int | Sequence[int] = 2,
        shift_mm: Sequence[float] = (20.0, 15.0, 30.0),
        rotation_deg: Sequence[float] = (10.0, 8.0, 10.0),
        scale: Sequence[float] = (0.85, 1.15),
        stretch: float = 0.06,
        elastic_mm: float = 4.0,
        knot_mm: float = 36.0,
        flip: float = 0.5,
        cut: float = 0.25,
        circle: float = 0.08,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        self.spacing_mm = np.asarray(spacing_mm, dtype=float)
        self.shape = tuple(int(n) for n in shape)
        self.oversample = per_axis(oversample)
        self.shift_mm = np.asarray(shift_mm, dtype=float)
        self.rotation_deg = np.asarray(rotation_deg, dtype=float)
        self.scale = (float(scale[0]), float(scale[1]))
        self.stretch = stretch
        self.elastic_mm = elastic_mm
        self.knot_mm = knot_mm
        self.flip = flip
        self.cut = cut
        self.circle = circle

    @property
    def fine_shape(self) -> tuple[int, int, int]:
        """Voxels of the sampled grid."""
        x, y, z = (n * over for n, over in zip(self.shape, self.oversample, strict=True))
        return x, y, z

    @property
    def fine_mm(self) -> Affine:
        """(3,) spacing of the sampled grid in mm before scaling."""
        return np.asarray(self.spacing_mm / np.asarray(self.oversample))

    def randomize(self, data: Any = None) -> None:
        """Draw one sample's placement and field of view."""
        super().randomize(data)
        r = self.R
        self._linear, self._shift = np.eye(3), np.zeros(3)
        self._elastic: Affine | None = None
        self._window: tuple[int, int] | None = None
        self._circle: tuple[float, float, float] | None = None
        if not self._do_transform:
            return
        turn = Rotation.from_euler("xyz", r.uniform(-1, 1, 3) * self.rotation_deg, degrees=True)
        size = np.exp(r.uniform(*np.log(self.scale))) * r.uniform(
            1 - self.stretch, 1 + self.stretch, 3
        )
        mirror = np.array([-1.0 if r.random_sample() < self.flip else 1.0, 1.0, 1.0])
        self._linear = turn.as_matrix() * (size * mirror)
        self._shift = r.uniform(-1, 1, 3) * self.shift_mm
        bases = self._bases()
        amount = r.uniform(0, self.elastic_mm)
        # A sum of B-splines is flatter than its coefficients, by this much in the middle.
        flat = np.prod([float((basis[len(basis) // 2] ** 2).sum()) ** 0.5 for basis in bases])
        coefficients = r.standard_normal((3, *(basis.shape[1] for basis in bases)))
        self._elastic = coefficients * (amount / flat) if amount > 0 else None
        self._draw_field_of_view()

    def _draw_field_of_view(self) -> None:
        """Draw the slices and the circle that the scan shows."""
        r, count = self.R, self.fine_shape[2]
        if r.random_sample() < self.cut:
            kept = int(count * r.uniform(0.35, 0.95))
            self._window = (0, kept) if r.random_sample() < 0.5 else (count - kept, count)
        if r.random_sample() < self.circle:
            across, along = r.uniform(-30, 30, 2)
            self._circle = (float(across), float(along), r.uniform(100, 220))

    def _bases(self) -> list[torch.Tensor]:
        return [
            spline_basis(n, self.knot_mm / step)
            for n, step in zip(self.fine_shape, self.fine_mm, strict=True)
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with both maps sampled.

        Returns:
            (1, x, y, z) uint8 MetaTensors on the fine grid. Their ``affine`` leads to the RAS mm of
            the anatomy that was given, elastic displacement aside: a mirrored sample's affine is
            left-handed. What lies outside the map or the field of view has the tissue
            :data:`OUTSIDE` and no level.
        """
        item = dict(data)
        tissues, vertebrae = (item[key] for key in MAPS)
        _check(tissues, vertebrae)
        self.randomize()
        source = world_affine(tissues)
        placed = np.eye(4) if item.get("pose") is None else np.asarray(item["pose"], float)
        if item.get("pose") is None:
            placed[:3, 3] = (source @ [*(np.array(tissues.shape[1:]) - 1) / 2, 1])[:3]
        affine = np.eye(4)
        affine[:3, :3] = placed[:3, :3] @ self._linear @ np.diag(self.fine_mm)
        middle = (np.array(self.fine_shape) - 1) / 2
        centre = placed[:3, 3] + placed[:3, :3] @ self._shift
        affine[:3, 3] = centre - affine[:3, :3] @ middle
        code = self._sample(pack(tissues, vertebrae), source, affine)
        self._blank(code)
        meta = {"affine": affine}
        for key, values in zip(MAPS, (code & OUTSIDE, code >> TISSUE_BITS), strict=True):
            item[key] = MetaTensor(values.to(torch.uint8)[None], meta=meta)
        return item

    def _sample(self, code: torch.Tensor, source: Affine, affine: Affine) -> torch.Tensor:
        """Return (x, y, z) int16 of the codes at the sampled grid."""
        shape = code.shape
        # A shell of one voxel stands for all that lies outside the map.
        padded = torch.nn.functional.pad(code, (1,) * 6, value=OUTSIDE).reshape(-1)
        to_index = np.linalg.inv(source)
        whole = to_index @ affine
        x, y, z = (torch.arange(n, dtype=torch.float32) for n in self.fine_shape)
        if self._elastic is not None:
            bases = self._bases()
            moved = np.tensordot(to_index[:3, :3], self._elastic, axes=1)
            lattice = along_axes(torch.from_numpy(moved).float(), [*bases[:2], None])
        index = torch.zeros(self.fine_shape, dtype=torch.int32)
        for axis, row in enumerate(whole[:3].astype(np.float32)):
            plane = row[0] * x[:, None] + row[1] * y[None, :] + (row[3] + 1)
            if self._elastic is None:
                at = plane[..., None] + row[2] * z
            else:
                # The linear part rides along as one more spline: no second pass over the grid.
                columns = torch.cat([lattice[axis], plane[..., None]], dim=-1)
                rows = torch.cat([bases[2], torch.ones(len(z), 1)], dim=1)
                at = torch.matmul(columns, rows.T).add_(row[2] * z)
            at.round_().clamp_(0, shape[axis] + 1)
            index.mul_(shape[axis] + 2).add_(at.to(torch.int32))
        return padded.index_select(0, index.reshape(-1)).reshape(self.fine_shape)

    def _blank(self, code: torch.Tensor) -> None:
        """Put OUTSIDE where the scan shows nothing."""
        if self._window is not None:
            start, stop = self._window
            code[:, :, :start] = OUTSIDE
            code[:, :, stop:] = OUTSIDE
        if self._circle is not None:
            across, along, radius = self._circle
            x, y = (
                (torch.arange(n) - (n - 1) / 2) * float(step)
                for n, step in zip(self.fine_shape[:2], self.fine_mm[:2], strict=True)
            )
            code[(x[:, None] - across) ** 2 + (y[None, :] - along) ** 2 > radius**2] = OUTSIDE


def per_axis(number: int | Sequence[int]) -> tuple[int, int, int]:
    """Return one whole number an axis.

    >>> per_axis(2), per_axis((1, 1, 2))
    ((2, 2, 2), (1, 1, 2))
    """
    x, y, z = [number] * 3 if isinstance(number, int) else [int(n) for n in number]
    if min(x, y, z) < 1:
        raise ValueError(f"oversample {number} must be at least 1 along each axis")
    return x, y, z


def world_affine(img: torch.Tensor) -> Affine:
    """Return a copy of an image's (4, 4) affine, index → RAS mm; identity where it has none."""
    if not isinstance(img, MetaTensor):
        return np.eye(4)
    return np.array(img.affine.detach().cpu().numpy(), dtype=np.float64)


def pack(tissues: torch.Tensor, vertebrae: torch.Tensor) -> torch.Tensor:
    """Return (X, Y, Z) int16 numbers that hold tissue and level of (1, X, Y, Z) uint8 maps."""
    plain = (t.as_tensor() if isinstance(t, MetaTensor) else t for t in (tissues, vertebrae))
    tissue, level = (t[0].to(torch.int16) for t in plain)
    return level.mul_(1 << TISSUE_BITS).add_(tissue)


def _check(tissues: torch.Tensor, vertebrae: torch.Tensor) -> None:
    """Refuse maps that do not belong together."""
    if tissues.ndim != 4 or tissues.shape[0] != 1 or tissues.shape != vertebrae.shape:
        shapes = f"{tuple(tissues.shape)} and {tuple(vertebrae.shape)}"
        raise ValueError(f"maps of one shape (1, X, Y, Z) are needed, not {shapes}")
    if not (isinstance(tissues, MetaTensor) and isinstance(vertebrae, MetaTensor)):
        raise ValueError("maps must be MetaTensors, whose affine gives their place")
    if not np.allclose(world_affine(tissues), world_affine(vertebrae), atol=1e-4):
        raise ValueError("tissues and vertebrae must have one affine")
