"""Where the vertebrae of a CT are and which they are, without a mask and without a download."""

from monai_vfx.localiser.locate import localise
from monai_vfx.localiser.result import Localisation, NamedLevel

__all__ = ["Localisation", "NamedLevel", "localise"]
