"""Where the vertebrae of a CT are and which they are, without a mask and without a download."""

from monai_vfx.vertebrae.segmentation.locate import segment
from monai_vfx.vertebrae.segmentation.result import NamedLevel, VertebraSegmentation

__all__ = ["VertebraSegmentation", "NamedLevel", "segment"]
