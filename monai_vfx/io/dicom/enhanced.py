"""The frames of Enhanced multi-frame CT as if each were the header of a classic slice.

Geometry and rescaling stand in functional groups, shared by all frames or one a frame (DICOM
PS3.3, C.7.6.16); Enhanced CT and Legacy Converted Enhanced CT have the same ones. Frames come in
any order, and a large object may be cut into several files (a concatenation). Once every frame has
a header of its own, the checks of classic series apply as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom.archives import Source
from monai_vfx.io.dicom.values import text, whole

_GROUPS = {  # group → attributes that a classic header has as well
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTExposureSequence": ("ExposureInmAs",),
    "ContrastBolusUsageSequence": ("ContrastBolusAgentPhase",),
    "CTXRayDetailsSequence": ("KVP",),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase",),
    "FrameContentSequence": (
        *("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber", "FrameReferenceDateTime"),
    ),
}
_CLASSIC = {  # attribute of a frame → its name in a classic header, where that differs
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameReferenceDateTime": "AcquisitionDateTime",
}
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True)
class Picture:
    """One slice: its file, its frame there (from 1; None if classic), and a classic CT's header."""

    source: Source
    frame: int | None
    header: Any

    @property
    def identity(self) -> tuple[str, int | None]:
        """What makes it the same picture as another."""
        return text(self.header, "SOPInstanceUID"), self.frame


def pictures(files: Sequence[tuple[Source, Any]]) -> list[Picture]:
    """Return every slice of a series, one a classic file and one a frame of an Enhanced one."""
    found = []
    for source, header in files:
        frames = whole(header, "NumberOfFrames") or 1
        if frames == 1 and _PER_FRAME not in header:
            found.append(Picture(source, None, header))
        else:
            found += [
                Picture(source, number, frame)
                for number, frame in enumerate(_frames(header, frames), start=1)
            ]
    stacks = {text(picture.header, "StackID") for picture in found} - {""}
    if len(stacks) > 1:
        raise CaseRefused("multiframe", f"the Enhanced object holds {len(stacks)} stacks")
    _check_concatenation([header for _, header in files])
    return found


def _frames(header: Any, count: int) -> list[Any]:
    """Return a classic header for each frame."""
    from pydicom.dataset import Dataset

    groups = header.get(_PER_FRAME) or []
    if len(groups) != count:
        raise CaseRefused(
            "multiframe", f"{count} frames have {len(groups)} items of functional groups"
        )
    common = Dataset()
    common.update({e.tag: e for e in header if e.keyword not in (_SHARED, _PER_FRAME)})
    try:
        for shared in (header.get(_SHARED) or [])[:1]:
            _take(common, shared)
        frames = []
        for group in groups:
            frame = Dataset()
            frame.update(common)
            frame.file_meta = header.file_meta
            _take(frame, group)
            frames.append(frame)
    except Exception as error:  # damaged values raise anything when they are first looked at
        raise CaseRefused("multiframe", "the functional groups cannot be read") from error
    return frames


def _take(frame: Any, group: Any) -> None:
    """Put what functional groups say of a frame where a classic header has it."""
    from pydicom.dataelem import DataElement

    for sequence, names in _GROUPS.items():
        for item in (group.get(sequence) or [])[:1]:
            for name in names:
                value = item.get(name)
                if value is not None:
                    # A new element: to set a value would change it in all frames, which share
                    # the elements of the object's own header.
                    frame.add(DataElement(_CLASSIC.get(name, name), item[name].VR, value))


def _check_concatenation(headers: Sequence[Any]) -> None:
    """Refuse a large object of which a part is not there (PS3.3, C.7.6.16.2.2.4)."""
    parts = defaultdict(list)
    for header in headers:
        if text(header, "ConcatenationUID"):
            parts[text(header, "ConcatenationUID")].append(header)
    for group in parts.values():
        seen = {whole(header, "InConcatenationNumber") for header in group}
        totals = [whole(header, "InConcatenationTotalNumber") or 0 for header in group]
        total = max([len(seen), *totals])
        if seen != set(range(1, total + 1)):
            raise CaseRefused(
                "slices_missing", f"{len(seen)} of {total} parts of the Enhanced object are there"
            )
