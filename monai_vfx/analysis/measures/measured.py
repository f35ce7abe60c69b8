"""Gather the facts of a case that its mask and voxels show, and their warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_vfx.analysis.clinical.imaging import measure
from monai_vfx.analysis.measures.aorta import aorta_hu, phase_of_aorta
from monai_vfx.analysis.measures.implants import Implants, find_implants
from monai_vfx.analysis.measures.suspicion import FRACTURED, Suspicion, suspect_fracture
from monai_vfx.case.case import Case
from monai_vfx.core.arrays import Affine, HUVolume, Json
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import box_affine, voxel_spacing
from monai_vfx.io.dicom.facts import HeaderFacts

SOFT_TISSUE_HU = (0.0, 100.0)
"""Range of the voxels in which noise is measured."""
NOISE_WINDOW_MM = 6.0
"""Side of the square within a slice over which a local SD is taken."""
_NOISE_BINS_HU = np.arange(0.0, 100.0, 0.5)
_MIN_SDS = 500  # local SDs for a reliable mode


def study_exclusions(case: Case) -> tuple[Json, tuple[CaseWarning, ...]]:
    """Measure the study's exclusions that mask and voxels show: fractures and implants.

    Args:
        case: with bodies of T12-L4.

    Returns:
        Facts (``data_schemas/case_facts.schema.json``) and warnings.

    Raises:
        CaseRefused: the voxels cannot be read.
    """
    region = case.region()
    hu = case.volume.read(region)
    return _exclusions(case, hu, box_affine(case.volume.affine, region))


def measured_facts(case: Case, mask: Path) -> tuple[Json, tuple[CaseWarning, ...]]:
    """Measure what :func:`study_exclusions` does, and noise, bone and the aorta.

    Args:
        case: an accepted case.
        mask: the file or folder of its labels.
    """
    region = case.region()
    hu = case.volume.read(region)
    affine = box_affine(case.volume.affine, region)
    facts, warnings = _exclusions(case, hu, affine)
    bone = measure(hu, case.masks.labels[region], affine, cut=case.masks.cut)
    facts["noise_sd_hu"] = noise_sd(hu, affine)
    facts["l1_trabecular_hu"] = _rounded(bone["l1_trabecular_hu"])
    contrast, contradiction = _contrast(case, mask)
    return facts | contrast, (*warnings, *contradiction)


def noise_sd(hu: HUVolume, affine: Affine) -> float | None:
    """Return the most frequent local SD of soft tissue, HU (after Christianson et al. 2015).

    Local SDs are taken in squares of ``NOISE_WINDOW_MM`` within the slices; edges raise some of
    them, the mode is the noise. None where there is too little soft tissue.
    """
    spacing = voxel_spacing(affine)
    along = int(np.argmax(np.abs(affine[2, :3]) / spacing))
    size = [1 if n == along else max(3, round(NOISE_WINDOW_MM / s)) for n, s in enumerate(spacing)]
    inside = (hu >= SOFT_TISSUE_HU[0] - 50) & (hu <= SOFT_TISSUE_HU[1] + 50)
    whole = ndimage.uniform_filter(inside.astype(np.float32), size) > 0.999
    shifted = hu.astype(np.float64)
    mean = ndimage.uniform_filter(shifted, size)
    square = ndimage.uniform_filter(shifted * shifted, size)
    kept = whole & (mean >= SOFT_TISSUE_HU[0]) & (mean <= SOFT_TISSUE_HU[1])
    if kept.sum() < _MIN_SDS:
        return None
    count = float(np.prod(size))
    spread = np.sqrt(np.maximum(square - mean * mean, 0.0)[kept] * count / (count - 1))
    found, edges = np.histogram(spread, _NOISE_BINS_HU)
    smooth = ndimage.uniform_filter1d(found.astype(np.float64), 5)
    return round(float(edges[int(smooth.argmax())]) + 0.25, 2)


def _exclusions(case: Case, hu: HUVolume, affine: Affine) -> tuple[Json, tuple[CaseWarning, ...]]:
    volume, masks = case.volume, case.masks
    resolution = max(volume.spacing_mm[volume.slice_axis], volume.thickness_mm or 0.0)
    resampled = any(warning.code == "mask_resampled" for warning in case.warnings)
    suspicion = suspect_fracture(masks.labels, volume.affine, masks.cut, resolution, resampled)
    implants = find_implants(hu, masks.labels[case.region()], affine)
    facts: Json = {
        "fracture_status": suspicion.status,
        "fracture_levels": list(suspicion.levels) if suspicion.status == FRACTURED else [],
        "lowest_ratio": None if suspicion.lowest is None else round(suspicion.lowest, 3),
        "lowest_ratio_at": suspicion.at,
        "ratio_sd": None if suspicion.sd is None else round(suspicion.sd, 4),
        "dense_kind": implants.kind,
        "dense_mm3": implants.volume_mm3,
        "dense_levels": list(implants.levels),
    }
    return facts, tuple(_warnings(suspicion, implants))


def _warnings(suspicion: Suspicion, implants: Implants) -> list[CaseWarning]:
    warnings = []
    if suspicion.status == FRACTURED:
        warnings.append(CaseWarning("fracture_suspected", suspicion.text))
    elif suspicion.below or suspicion.sd is None:
        warnings.append(CaseWarning("fracture_unclear", suspicion.text))
    if implants.kind != "no":
        warnings.append(CaseWarning("metal_or_cement", implants.text))
    return warnings


def _contrast(case: Case, mask: Path) -> tuple[Json, tuple[CaseWarning, ...]]:
    """Measure the aorta; it gives the phase where the header does not."""
    header = case.volume.facts or HeaderFacts()
    try:
        hu = aorta_hu(case.volume, mask, case.masks.scheme)
    except CaseRefused:
        hu = None  # a damaged file of the aorta is no reason to refuse the case
    phase = phase_of_aorta(hu, header.kvp)
    facts: Json = {"aorta_hu": _rounded(hu)}
    if phase is None or header.contrast.contradictory:
        return facts, ()
    given = phase != "none"
    if header.contrast.phase is None and header.contrast.given in (None, given):
        return facts | {"contrast_phase": phase, "contrast_phase_source": "aorta"}, ()
    if header.contrast.given is not None and header.contrast.given != given:
        text = (
            f"the aorta ({hu:.0f} HU) shows phase {phase}, the header says that contrast was "
            f"{'given' if header.contrast.given else 'not given'}"
        )
        changed: Json = {"contrast_phase": None, "contrast_phase_source": None}
        changed |= {"contrast_given": None, "contrast_contradictory": True}
        return facts | changed, (CaseWarning("contrast_contradictory", text),)
    return facts, ()


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 1)
