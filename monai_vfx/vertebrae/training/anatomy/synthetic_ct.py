"""Synthetic CT from anatomical label maps, after SynthSeg.

A network that is shown nothing but random intensities on random anatomy learns shapes, not
scanners (Billot et al. 2023, "SynthSeg: Segmentation of brain MRI scans of any contrast and
resolution without retraining", Medical Image Analysis 86:102789). Here most scans look like CT and
a share does not. ``SampleAnatomyd`` comes first, then ``TissuesToCTd`` and ``SoftTargetsd``;
:func:`synthetic_ct` composes them for a whole scan.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform, Transform

from monai_vfx.core.anatomy import PATCH_STRUCTURES, STRUCTURES
from monai_vfx.core.arrays import Affine, HUVolume
from monai_vfx.core.geometry import voxel_spacing, world_positions
from monai_vfx.vertebrae.training.anatomy.attenuation import Attenuation, draw_attenuation
from monai_vfx.vertebrae.training.anatomy.deformation import (
    MAPS,
    TISSUE_BITS,
    SampleAnatomyd,
    pack,
    per_axis,
    world_affine,
)
from monai_vfx.vertebrae.training.anatomy.grid_operators import (
    along_axes,
    gaussian_matrix,
    random_field,
    slab_kernel,
    slice_matrix,
)
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap
from monai_vfx.vertebrae.training.anatomy.tissues import STRUCTURE_OF, Tissue

_BITS = 7  # Of a count of fine voxels in a coarse one, at most 4 x 4 x 4


class TissuesToCTd(RandomizableTransform):
    """Scan a sampled anatomy: tissues on the fine grid → HU on the network's grid.

    Args:
        oversample: fine voxels in one of the image's, for all axes or each.
        wild: probability that soft tissues take means that no CT shows.
        slice_mm: least and greatest thickness of the slices before they are resampled onto the
            image's grid, at their own distance; their normal is the anatomy's z where the box is
            posed, else the box's z.
        blur_mm: greatest SD of the in-plane blur.
        noise_hu: least and greatest SD of the noise on the image's grid; drawn on a logarithmic
            scale, low values more often.
        bias_hu: greatest SD of a slowly varying error of HU.
        prob: probability of noise, bias and blur; without them tissues' means and textures, one
            slice a voxel and partial volume remain.
    """

    def __init__(
        self,
        oversample: int | Sequence[int] = 2,
        wild: float = 0.25,
        slice_mm: Sequence[float] = (1.0, 7.0),
        blur_mm: float = 2.5,
        noise_hu: Sequence[float] = (3.0, 60.0),
        bias_hu: float = 15.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        self.oversample = per_axis(oversample)
        self.wild = wild
        self.slice_mm = (float(slice_mm[0]), float(slice_mm[1]))
        self.blur_mm = blur_mm
        self.noise_hu = (float(noise_hu[0]), float(noise_hu[1]))
        self.bias_hu = bias_hu

    def randomize(self, data: Any = None) -> None:
        """Draw one scan's tissues and its scanner."""
        super().randomize(data)
        r = self.R
        self._generator = torch.Generator().manual_seed(int(r.randint(2**31 - 1)))
        share = r.uniform(0.2, 1.0) if r.random_sample() < self.wild else 0.0
        self._attenuation: Attenuation = draw_attenuation(r, share)
        self._thickness = r.uniform(*self.slice_mm)
        self._distance = self._thickness * r.choice([0.5, 1.0, 1.0, 1.25])
        self._phase = r.random_sample()
        self._blur = r.uniform(0, self.blur_mm) * r.random_sample()
        self._sharpen = r.uniform(0, 0.8) if r.random_sample() < 0.2 else 0.0
        # Averaged onto a coarse grid most scans are quiet: weight the low end of the scale.
        low, high = np.log(np.maximum(self.noise_hu, 1e-3))
        self._noise = float(np.exp(low + (high - low) * r.random_sample() ** 1.6))
        self._bias = r.uniform(0, self.bias_hu)
        self._gain = r.uniform(0.96, 1.04)
        self._texture_mm = r.uniform(4, 14), r.uniform(12, 40)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the image added.

        Returns:
            ``image``: (1, x, y, z) float32 MetaTensor in HU from -1024 to 3071, on the grid whose
            voxels hold ``oversample`` fine ones each; its affine is that grid's.
        """
        item = dict(data)
        tissues, vertebrae = (item[key] for key in MAPS)
        affine, shape = coarse_grid(tissues, self.oversample)
        self.randomize()
        code = pack(tissues, vertebrae).to(torch.int32).reshape(-1)
        fine = tuple(tissues.shape[1:])
        mean, small, large = (
            pool_in_plane(torch.from_numpy(table).index_select(0, code), fine, self.oversample)
            for table in (self._attenuation.mean, self._attenuation.fine, self._attenuation.lumpy)
        )
        mean = self._slices(mean, item)
        pool = _pooling(fine[2], self.oversample[2])
        small, large = (along_axes(sd, [None, None, pool]) for sd in (small, large))
        step = voxel_spacing(affine)
        for sd, knots in ((small, self._texture_mm[0]), (large, self._texture_mm[1])):
            mean += sd * random_field(shape, np.maximum(knots / 2 / step, 1), self._generator)
        has_metal = bool((tissues == int(Tissue.METAL)).any())
        hu = self._scan(mean, step, has_metal)
        item["image"] = MetaTensor(hu.clamp_(-1024, 3071)[None], meta={"affine": affine})
        return item

    def _slices(self, values: torch.Tensor, item: Mapping[Hashable, Any]) -> torch.Tensor:
        """Return (x, y, z) from (x, y, fine z), averaged over slices."""
        affine = world_affine(item[MAPS[0]])
        step = float(np.linalg.norm(affine[:3, 2]))
        over, count = self.oversample[2], values.shape[2]
        pool = _pooling(count, over)
        if not self._do_transform:
            return along_axes(values, [None, None, pool])
        if item.get("pose") is not None:
            normal = np.linalg.solve(affine[:3, :3], [0.0, 0.0, 1.0])
            normal /= np.linalg.norm(affine[:3, :3] @ normal)
            normal[:2] /= self.oversample[:2]
            kernel = slab_kernel(np.asarray(normal, dtype=float), self._thickness, self._distance)
            pad = [n // 2 for n in reversed(kernel.shape) for _ in range(2)]
            padded = torch.nn.functional.pad(values[None, None], pad, mode="replicate")
            blurred = torch.nn.functional.conv3d(padded, kernel[None, None])[0, 0]
            return along_axes(blurred, [None, None, pool])
        resliced = slice_matrix(count, self._thickness / step, self._distance / step, self._phase)
        return along_axes(values, [None, None, pool @ resliced])

    def _scan(self, hu: torch.Tensor, step: Affine, has_metal: bool) -> torch.Tensor:
        """Return HU with blur, metal artefacts, bias and noise; ``step`` is in mm."""
        if not self._do_transform:
            return hu
        blurs = [
            gaussian_matrix(n, self._blur / d) for n, d in zip(hu.shape[:2], step, strict=False)
        ]
        blurred = along_axes(hu, [*blurs, None])
        hu = blurred + self._sharpen * (hu - blurred) if self._sharpen else blurred
        if has_metal:
            hu = hu + self._streaks(hu)
        field = random_field(hu.shape, 90 / step, self._generator)
        hu = (hu + 1000) * self._gain - 1000 + self._bias * field
        return hu + self._noise * self._draw_noise(hu.shape, step)

    def _draw_noise(self, shape: Sequence[int], step: Affine) -> torch.Tensor:
        """Return (x, y, z) noise of SD about 1, correlated and uneven over the field of view."""
        r = self.R
        noise = torch.randn(tuple(shape), generator=self._generator)
        widths = r.uniform(0, 0.9, 3)
        if r.random_sample() < 0.15:
            widths[0] = r.uniform(2, 8)  # starved of photons: streaks from side to side
        bases = [gaussian_matrix(n, sd) for n, sd in zip(shape, widths, strict=True)]
        bases = [basis / (basis**2).sum(1, keepdim=True).sqrt() for basis in bases]
        noise = along_axes(noise, bases)
        uneven = random_field(shape, 120 / step, self._generator)
        return noise * torch.exp(r.uniform(0, 0.35) * uneven)

    def _streaks(self, hu: torch.Tensor) -> torch.Tensor:
        """Return (x, y, z) dark and bright rays that leave metal in its slices, in HU."""
        r = self.R
        metal = hu > 1800
        total = torch.zeros_like(hu)
        x, y = (torch.arange(n, dtype=torch.float32) for n in hu.shape[:2])
        turns, phases = r.randint(2, 14, size=4).tolist(), r.uniform(0, 6.3, 4)
        drift, reach = r.uniform(-0.5, 0.5, 4), r.uniform(5, 15)
        for z in torch.nonzero(metal.any(0).any(0)).flatten().tolist():
            at = torch.nonzero(metal[:, :, z]).float()
            middle = at.mean(0)
            dx, dy = (x - middle[0])[:, None], (y - middle[1])[None, :]
            angle, radius = torch.atan2(dy, dx), torch.sqrt(dx**2 + dy**2 + 1)
            rays = torch.zeros_like(radius)
            for turn, phase in zip(turns, phases + drift * z, strict=True):
                rays += torch.cos(turn * angle + float(phase)) / turn**0.5
            total[:, :, z] = rays * torch.exp(-radius / reach) * min(len(at), 12)
        return r.uniform(3, 25) * total


class SoftTargetsd(Transform):
    """Count the structures in each voxel of the network's grid: shares that sum to 1.

    Args:
        oversample: fine voxels in one of the network's, for all axes or each; at most 4.
        level: None: shares of :data:`monai_vfx.core.anatomy.STRUCTURES`. A key of the item: its
            value is the number of the vertebra in question (0 for none), the shares are those of
            :data:`monai_vfx.core.anatomy.PATCH_STRUCTURES`.
    """

    def __init__(self, oversample: int | Sequence[int] = 2, level: str | None = None) -> None:
        self.oversample = per_axis(oversample)
        if max(self.oversample) > 4:
            raise ValueError(f"oversample {oversample} must be at most 4")
        self.level = level

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the shares added.

        Returns:
            ``label``: (structures, x, y, z) float32 MetaTensor of shares from 0 to 1.
        """
        item = dict(data)
        tissues, vertebrae = (item[key] for key in MAPS)
        affine, shape = coarse_grid(tissues, self.oversample)
        names = STRUCTURES if self.level is None else PATCH_STRUCTURES
        level = None if self.level is None else int(item[self.level])
        # One 64-bit number holds the counts of all structures, so one sum counts them all.
        table = torch.ones(1, dtype=torch.int64) << (structure_table(level) * _BITS)
        code = pack(tissues, vertebrae).to(torch.int32).reshape(-1)
        counts = _sum_over(table.index_select(0, code).reshape(tissues.shape[1:]), self.oversample)
        shares = torch.empty((len(names), *shape))
        whole = float(np.prod(self.oversample))
        for index in range(len(names)):
            shares[index] = (counts >> (index * _BITS)) & ((1 << _BITS) - 1)
        item["label"] = MetaTensor(shares.div_(whole), meta={"affine": affine})
        return item


def structure_table(level: int | None = None) -> torch.Tensor:
    """Return the structure of each tissue and level, (256 * 64,) int64 at level * 64 + tissue.

    Without a level they are indices in ``STRUCTURES``; with one in ``PATCH_STRUCTURES``, where the
    vertebra of this number is "this_body".

    >>> from monai_vfx.core.anatomy import VERTEBRAE
    >>> table = structure_table(VERTEBRAE["L2"]).reshape(256, 64)
    >>> [PATCH_STRUCTURES[table[VERTEBRAE[name], Tissue.BODY_CORTEX]] for name in ("L2", "L3")]
    ['this_body', 'other_body']
    """
    names = STRUCTURES if level is None else PATCH_STRUCTURES
    body = "body" if level is None else "other_body"
    row = torch.zeros(1 << TISSUE_BITS, dtype=torch.int64)
    for tissue, index in STRUCTURE_OF.items():
        name = body if STRUCTURES[index] == "body" else STRUCTURES[index]
        row[tissue] = names.index(name) if name in names else 0
    table = row.repeat(256, 1)
    table[1:] = names.index(body)  # whatever the tissue, as a screw's shaft
    if level:
        table[level] = names.index("this_body")
    return table.reshape(-1)


def coarse_grid(
    tissues: torch.Tensor, oversample: tuple[int, int, int]
) -> tuple[Affine, tuple[int, int, int]]:
    """Return the affine and the shape of the grid whose voxels hold ``oversample`` fine ones."""
    if any(n % over for n, over in zip(tissues.shape[1:], oversample, strict=True)):
        raise ValueError(f"shape {tuple(tissues.shape)} is no multiple of oversample {oversample}")
    affine = world_affine(tissues)
    affine[:3, 3] += affine[:3, :3] @ ((np.asarray(oversample) - 1) / 2)
    affine[:3, :3] *= np.asarray(oversample)
    x, y, z = (n // over for n, over in zip(tissues.shape[1:], oversample, strict=True))
    return affine, (x, y, z)


def _sum_over(values: torch.Tensor, oversample: Sequence[int]) -> torch.Tensor:
    """Return sums over blocks of the last three axes; slices add up faster than pooling does."""
    for axis, over in zip((-3, -2, -1), oversample, strict=True):
        if over > 1:
            blocks = values.unflatten(axis, (-1, over))
            at = axis + values.ndim + 1
            values = sum((blocks.select(at, n) for n in range(1, over)), start=blocks.select(at, 0))
    return values


def pool_in_plane(
    values: torch.Tensor, shape: Sequence[int], oversample: tuple[int, int, int]
) -> torch.Tensor:
    """Return (x, y, fine z) means over fine voxels side by side, of a list of all voxels."""
    x, y, _ = oversample
    return _sum_over(values.reshape(tuple(shape)), (x, y, 1)) / (x * y)


def _pooling(count: int, over: int) -> torch.Tensor:
    """Return the (count / over, count) matrix of means over neighbours."""
    return torch.eye(count // over).repeat_interleave(over, dim=1) / over


def synthetic_ct(
    anatomy: AnatomyMap,
    rng: np.random.Generator,
    *,
    affine: Affine | None = None,
    shape: Sequence[int] | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0, 2.5),
    oversample: int | Sequence[int] = (1, 1, 2),
    **settings: Any,
) -> tuple[HUVolume, Affine]:
    """Scan a whole anatomy as it is, so that its label map stays the truth.

    Args:
        anatomy: what lies on the couch.
        rng: source of tissues' HU and of the scanner.
        affine: (4, 4) of the image's grid, index → RAS mm, oblique or flipped if wanted; None: axes
            along R, A and S with ``spacing_mm``, over the whole map.
        shape: (i, j, k) voxels of the image's grid; needed with ``affine``.
        spacing_mm: of the image's grid, without ``affine``.
        oversample: samples of the anatomy in one voxel along each axis.
        settings: of :class:`TissuesToCTd`; without them the scan is plausible, its slices are as
            thick as they are distant, its noise has an SD of 8 to 25 HU.

    Returns:
        (i, j, k) float32 HU, -1024 to 3071, and the (4, 4) affine of its grid.

    Raises:
        ValueError: when only one of ``affine`` and ``shape`` is given.
    """
    if (affine is None) != (shape is None):
        raise ValueError("affine and shape must be given together")
    if affine is None or shape is None:
        affine, shape = _covering_grid(anatomy, np.asarray(spacing_mm, dtype=float))
    affine = np.asarray(affine, dtype=float)
    step = voxel_spacing(affine)
    pose = np.eye(4)
    pose[:3, :3] = affine[:3, :3] / step
    pose[:3, 3] = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2) + affine[:3, 3]
    lies = torch.from_numpy(np.asarray(anatomy.affine, dtype=float))
    maps: dict[Hashable, Any] = {
        key: MetaTensor(torch.from_numpy(np.ascontiguousarray(values))[None], affine=lies)
        for key, values in zip(MAPS, (anatomy.tissues, anatomy.vertebrae), strict=True)
    }
    sample = SampleAnatomyd(spacing_mm=step.tolist(), shape=shape, oversample=oversample, prob=0.0)
    chosen = {"wild": 0.0, "slice_mm": (step[2], step[2]), "noise_hu": (8.0, 25.0), "blur_mm": 1.0}
    scan = TissuesToCTd(oversample=oversample, **{**chosen, **settings})
    scan.set_random_state(seed=int(rng.integers(2**31)))
    sampled = sample({**maps, "pose": pose})
    del sampled["pose"]  # the slices of a whole scan lie along its own third axis
    return np.asarray(scan(sampled)["image"][0].as_tensor().numpy(), np.float32), affine


def _covering_grid(anatomy: AnatomyMap, spacing_mm: Affine) -> tuple[Affine, tuple[int, int, int]]:
    """Return affine and shape of the grid along R, A and S that covers a map."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * anatomy.tissues.shape - 0.5
    world = world_positions(anatomy.affine, corners)
    low, high = world.min(axis=0), world.max(axis=0)
    x, y, z = np.maximum(np.floor((high - low) / spacing_mm), 1).astype(int).tolist()
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = low + spacing_mm / 2
    return affine, (x, y, z)
