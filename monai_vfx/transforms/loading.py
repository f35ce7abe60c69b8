"""From paths to the neighbourhood of T12-L4: labels first, then only the voxels around them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from monai_vfx.case.case import Case, check_voxels, load_case
from monai_vfx.core.arrays import Affine, Points, Region
from monai_vfx.core.errors import CaseWarning
from monai_vfx.core.geometry import LPS, world_positions
from monai_vfx.io.volume import Volume
from monai_vfx.transforms.centres import BodySlices, find_body_slices


@dataclass(frozen=True)
class CTRegion:
    """A box of a CT, not read yet; what :class:`RegionReader` takes in place of a file name.

    Attributes:
        case: the CT and its labels.
        region: the box.
        bodies: slices of T12-L4 and the centre of the body in each.
        warnings: about the crops to come; the case has its own.
    """

    case: Case
    region: Region
    bodies: BodySlices
    warnings: tuple[CaseWarning, ...] = ()

    @property
    def affine(self) -> Affine:
        """Voxel index within the box → mm, RAS+."""
        affine = self.case.volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [axis.start for axis in self.region]
        return affine

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata of the box and of the CT around it, of fixed keys so that cases collate.

        ``region_start`` (3,), ``volume_shape`` (3,) and ``volume_affine`` (4, 4) say where the box
        lies in the CT, ``first_slice_from_feet`` the number of its lowest slice; ``slice_index``
        (n,), ``slice_level`` (n,) and ``centre_mm`` (n, 3) in LPS describe the slices of T12-L4,
        cranial to caudal; ``case_facts`` is a JSON object with ``spacing_mm``, ``feet_first``,
        ``sop_instance_uids`` (all slices from the feet; null where the
        CT is no axial DICOM series), ``warnings`` and ``mask_levels``.
        """
        volume = self.case.volume
        uids = volume.sop_instance_uids
        if volume.slice_axis != 2:  # of a sagittal or coronal series no image is one of our slices
            uids = None
        if uids is not None and not volume.feet_first:
            uids = uids[::-1]
        facts = {
            "spacing_mm": volume.spacing_mm,
            "feet_first": volume.feet_first,
            "sop_instance_uids": uids,
            "warnings": [asdict(warning) for warning in (*self.case.warnings, *self.warnings)],
            "mask_levels": self.case.masks.levels,
        }
        shape = [axis.stop - axis.start for axis in self.region]
        return {
            MetaKeys.AFFINE: torch.as_tensor(self.affine),
            MetaKeys.ORIGINAL_AFFINE: torch.as_tensor(self.affine),
            MetaKeys.SPATIAL_SHAPE: np.array(shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
            "region_start": np.array([axis.start for axis in self.region]),
            "volume_shape": np.array(volume.shape),
            "volume_affine": volume.affine.copy(),
            "first_slice_from_feet": first_slice_from_feet(volume, self.region),
            "slice_index": self.bodies.indices,
            "slice_level": self.bodies.levels,
            "centre_mm": self.bodies.centres * LPS,
            "case_facts": json.dumps(facts),
        }

    def __str__(self) -> str:
        """Say what it is without the path, which may carry a patient's name."""
        return f"region {[(a.start, a.stop) for a in self.region]} of a CT"


class RegionReader(ImageReader):
    """Reader for :class:`monai.transforms.LoadImage` that decodes only a :class:`CTRegion`.

    ``read`` takes over the handle; decoding happens in ``get_data``, so that a refusal there
    reaches the caller (MONAI's ``LoadImage`` swallows what ``read`` raises).
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether this reader takes the input: a :class:`CTRegion`, never a file name."""
        return isinstance(filename, CTRegion)

    def read(self, data: Any, **kwargs: Any) -> CTRegion:
        """Return the handle in ``data`` (LoadImage passes a tuple of one).

        Raises:
            TypeError: for anything but one :class:`CTRegion`.
        """
        handle = data[0] if isinstance(data, tuple | list) and len(data) == 1 else data
        if not isinstance(handle, CTRegion):
            raise TypeError(
                f"RegionReader takes a CTRegion, got {type(handle).__name__}: run LocateSpined "
                "first and give LoadImaged expanduser=False"
            )
        return handle

    def get_data(self, img: CTRegion) -> tuple[np.ndarray, dict[str, Any]]:
        """Decode the region and check its voxels.

        Returns:
            (i, j, k) float32 in HU, and :attr:`CTRegion.meta`.

        Raises:
            CaseRefused: see :meth:`monai_vfx.io.volume.Volume.read` and
                :func:`monai_vfx.case.case.check_voxels`.
        """
        hu = img.case.volume.read(img.region)
        if img.region != img.case.checked:
            check_voxels(img.case, img.region, hu)
        return hu, img.meta


class LocateSpined(MapTransform):
    """Open the CT by its headers and the mask on its grid, and find the region around T12-L4.

    Reads the paths of CT and mask, or takes a :class:`~monai_vfx.case.case.Case` that is open
    already in the place of the CT; puts a :class:`CTRegion` and a MetaTensor (1, i, j, k) of labels
    (uint8 values of :mod:`monai_vfx.core.anatomy`) of that region in their place. An item may also
    carry ``series_uid`` and ``scheme``, the label scheme of its mask.

    Args:
        keys: (image key, mask key).
        crop_mm: (antero-posterior, left-right) extent of the crops to come.
        posterior_mm: how far their centre lies behind the body's.
        min_area: share of a level's largest cross-section that a slice must show.
        include_discs: take every slice from the first to the last of these, discs too.

    Raises:
        CaseRefused: with the code of the rule that the case breaks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        crop_mm: Sequence[float] = (96.0, 144.0),
        posterior_mm: float = 24.0,
        min_area: float = 0.25,
        include_discs: bool = False,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 2:
            raise ValueError(f"keys must be (image, mask), got {self.keys}")
        ap, lr = crop_mm
        self.crop_mm = (float(ap), float(lr))
        self.posterior_mm = float(posterior_mm)
        if not 0 <= min_area <= 1:
            raise ValueError(f"min_area ({min_area}) must lie in [0, 1]")
        self.min_area = min_area
        self.include_discs = include_discs

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with image and mask replaced."""
        d = dict(data)
        image_key, mask_key = self.keys
        case = d[image_key]
        if not isinstance(case, Case):
            case = load_case(
                case,
                d.get(mask_key) or None,  # a row of a table without a mask has an empty text
                series_uid=d.get("series_uid"),
                scheme=d.get("scheme"),
            )
        region = case.region(self.crop_mm, self.posterior_mm)
        bodies = locate_bodies(case, region, self.min_area, self.include_discs)
        beyond = overhang_mm(case.volume, bodies.centres, self.crop_mm, self.posterior_mm)
        warnings = (
            (CaseWarning("crop_padded", f"crops leave the field of view by up to {beyond:.0f} mm"),)
            if beyond > max(case.volume.spacing_mm)
            else ()
        )
        handle = CTRegion(case, region, bodies, warnings)
        labels = np.ascontiguousarray(case.masks.labels[region])[None]
        d[image_key] = handle
        d[mask_key] = MetaTensor(torch.from_numpy(labels), meta=handle.meta)
        return d


def locate_bodies(case: Case, region: Region, min_area: float, include_discs: bool) -> BodySlices:
    """Find the slices of T12-L4 in a region; indices count from the feet, centres are RAS+ mm."""
    affine = case.volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [axis.start for axis in region]
    labels = case.masks.labels[region]
    turn = ornt_transform(io_orientation(affine), axcodes2ornt("PLI"))
    turned = affine @ inv_ornt_aff(turn, labels.shape)
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    found = find_body_slices(
        apply_orientation(labels, turn),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        min_area,
        include_discs,
    )
    places = np.column_stack([found.centres, found.indices])
    lowest = first_slice_from_feet(case.volume, region)
    slices = labels.shape[case.volume.slice_axis]
    return BodySlices(
        indices=lowest + slices - 1 - found.indices,
        levels=found.levels,
        centres=world_positions(turned, places),
    )


def overhang_mm(
    volume: Volume, centres: Points, crop_mm: tuple[float, float], posterior_mm: float
) -> float:
    """Return by how much the crops leave the field of view, in mm; negative where they do not.

    Args:
        volume: the CT.
        centres: (n, 3) of the bodies, RAS+ mm.
        crop_mm: (antero-posterior, left-right) extent of the crops.
        posterior_mm: how far their centre lies behind the body's.
    """
    places = (centres - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    ap, lr = crop_mm
    # Extent of a crop from the body's centre towards (left, right) and (posterior, anterior).
    extent = {0: (lr / 2, lr / 2), 1: (ap / 2 + posterior_mm, ap / 2 - posterior_mm)}
    beyond = []
    for axis, (world, sign) in enumerate(io_orientation(volume.affine)):
        if int(world) in extent:
            low, high = extent[int(world)][:: int(sign)]
            step = volume.spacing_mm[axis]
            beyond.append(low - places[:, axis].min() * step)
            beyond.append(high - (volume.shape[axis] - 1 - places[:, axis].max()) * step)
    return float(max(beyond))


def first_slice_from_feet(volume: Volume, region: Region) -> int:
    """Return the number of a region's lowest slice, counted from the feet."""
    box = region[volume.slice_axis]
    return min(volume.index_from_feet(box.start), volume.index_from_feet(box.stop - 1))
