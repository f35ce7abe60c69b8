"""A CT straight from a PACS, and results back to it: DICOMweb as a user agent (PS3.18)."""

from __future__ import annotations

from monai_vfx.io.dicomweb.address import PacsAddress, is_address, parse_address
from monai_vfx.io.dicomweb.transfer import local_image, store

__all__ = ["PacsAddress", "is_address", "local_image", "parse_address", "store"]
