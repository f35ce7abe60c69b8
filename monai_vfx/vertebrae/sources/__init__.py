"""Where the mask of a case comes from: given, made by the segmentation, or by TotalSegmentator."""

from __future__ import annotations

from monai_vfx.vertebrae.sources.source import MaskSource

__all__ = ["MaskSource"]
