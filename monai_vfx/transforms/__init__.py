"""MONAI dictionary transforms of this project; everything else in the chain is MONAI's own.

The order in which they run is written once, in ``configs/common.yaml`` of the bundle.
"""

from monai_vfx.transforms.crops import VertebraCrop, VertebraCropd
from monai_vfx.transforms.loading import CTRegion, LocateSpined, RegionReader
from monai_vfx.transforms.slices import SampleSlices, SampleSlicesd

__all__ = [
    "CTRegion",
    "LocateSpined",
    "RegionReader",
    "VertebraCrop",
    "VertebraCropd",
    "SampleSlices",
    "SampleSlicesd",
]
