"""From stored pixels to HU: decoding, unused bits, rescaling, padding."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.errors import CaseRefused, access_refused, reason
from monai_vfx.io.dicom.archives import Source, quiet_pydicom
from monai_vfx.io.dicom.codestreams import check_sizes
from monai_vfx.io.dicom.values import whole

PADDING_HU = -1024.0
"""What stands in place of padding: the least value of a 12-bit scale, as air."""
TISSUE_HU = (-900.0, 3071.0)
"""Between these lie all that a body and its implants show; no padding value can."""


@dataclass(frozen=True)
class StoredValues:
    """How the stored values of one slice become HU.

    Attributes:
        slope, intercept: HU = slope · stored + intercept.
        bits: BitsStored.
        signed: whether values are in two's complement.
        padding: lowest and highest stored value that is no image; None where there is none.
    """

    slope: float
    intercept: float
    bits: int
    signed: bool
    padding: tuple[int, int] | None

    @classmethod
    def of(cls, header: Any) -> StoredValues:
        """Take them from a header that passed the checks of :mod:`monai_vfx.io.dicom.slices`."""
        return cls(
            slope=float(header.RescaleSlope),
            intercept=float(header.RescaleIntercept),
            bits=int(header.BitsStored),
            signed=int(header.PixelRepresentation) == 1,
            padding=_padding(header),
        )

    @property
    def pads_tissue(self) -> bool:
        """Whether the padding values are such as tissue has: then they are no padding."""
        if self.padding is None:
            return False
        low, high = (value * self.slope + self.intercept for value in self.padding)
        return low <= TISSUE_HU[1] and high > TISSUE_HU[0]

    def to_hu(self, stored: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Return HU of stored values of any shape."""
        meant = self._without_unused_bits(stored)
        hu: npt.NDArray[np.float32] = meant * np.float32(self.slope) + np.float32(self.intercept)
        if self.padding is not None and not self.pads_tissue:
            low, high = self.padding
            hu[(meant >= low) & (meant <= high)] = PADDING_HU
        return hu

    def _without_unused_bits(self, stored: Any) -> Any:
        """Extend the sign of values whose unused bits are zero (PS3.5, 8.1.1)."""
        unused = 8 * stored.dtype.itemsize - self.bits
        if not unused:
            return stored
        meant = (stored << unused) >> unused
        alright = meant == stored
        if self.signed:
            alright |= meant & ((1 << self.bits) - 1) == stored
        if not alright.all():
            raise CaseRefused(
                "pixel_format",
                f"{int((~alright).sum())} values need more than the {self.bits} bits that "
                "BitsStored states",
            )
        return meant


def _padding(header: Any) -> tuple[int, int] | None:
    """Return the range of padding (PS3.3, C.7.5.1.1.2), in the sign that the pixels have."""
    value, limit = whole(header, "PixelPaddingValue"), whole(header, "PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = [value, value if limit is None else limit]
    if int(header.PixelRepresentation) == 1:  # some write a signed value as an unsigned one
        whole_range = 1 << int(header.BitsAllocated)
        ends = [end - whole_range if end >= whole_range // 2 else end for end in ends]
    return min(ends), max(ends)


def decoded(
    source: Source, frames: Sequence[int | None], deflated: bool
) -> Generator[Any, None, None]:
    """Yield the stored values (rows, columns) of frames of one file, none other decoded.

    Frames are numbered from 1; ``[None]`` is the one picture of a classic object. What cannot be
    decoded is refused as ``file_truncated``, one of another size than stated as ``pixel_format``.
    """
    import pydicom
    from pydicom.pixels import iter_pixels, pixel_array

    with access_refused(), quiet_pydicom():
        try:
            with source.open() as file:
                if not deflated:  # what is deflated is not compressed otherwise
                    check_sizes(file, frames)
                # Straight from the file is faster, but does not inflate.
                place = pydicom.dcmread(file) if deflated else file
                if frames == [None]:
                    yield pixel_array(place, raw=True, correct_unused_bits=False)
                    return
                wanted = [number - 1 for number in frames if number is not None]
                yield from iter_pixels(place, indices=wanted, raw=True, correct_unused_bits=False)
        except (PermissionError, CaseRefused):
            raise
        except Exception as error:  # decoders of third parties raise anything
            raise CaseRefused(
                "file_truncated", f"the pixels of a slice cannot be decoded ({reason(error)})"
            ) from error
