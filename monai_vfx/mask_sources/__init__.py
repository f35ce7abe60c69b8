"""Where the mask of a case comes from: given, made by the localiser, or by TotalSegmentator."""

from __future__ import annotations

from monai_vfx.mask_sources.source import MaskSource

__all__ = ["MaskSource"]
