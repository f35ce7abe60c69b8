"""Segment the vertebrae of a CT: networks, chain of bodies, patches, names, label map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, Json, LabelVolume
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.io.volume import Volume
from monai_vfx.vertebrae.segmentation.chain import DISC_MM, MIN_BODIES, SpineChain, find_chain
from monai_vfx.vertebrae.segmentation.grids import Image, Probabilities, locator_image, read_image
from monai_vfx.vertebrae.segmentation.naming import (
    CERVICAL,
    THRESHOLD,
    Body,
    Chain,
    Naming,
    name_bodies,
)
from monai_vfx.vertebrae.segmentation.refine import (
    PatchPredictor,
    RefinedBody,
    paint_bodies,
    paint_muscles,
    refine_bodies,
    touches_edge,
)
from monai_vfx.vertebrae.segmentation.result import NamedLevel, VertebraSegmentation

if TYPE_CHECKING:
    import torch

MIN_IN_VIEW = 0.5
"""Least probability that T12 to L4 are all in view; below it they are called missing."""

_STEPS = ("weights", "reading", "locator", "bodies", "total")
_SHOWN = 6  # hypotheses in the evidence
_BEYOND_MM = 5.0  # muscle is labelled this far beyond T11 and L5


def segment(
    volume: Volume,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> VertebraSegmentation:
    """Find and name the vertebral bodies of a CT, and the muscles beside them.

    Args:
        volume: a checked CT; it is read a slab of slices at a time.
        weights: folder with the two networks' weights; those of the package by default.
        device: where the networks compute; the CPU by default.

    Raises:
        CaseRefused: ``spine_not_found``; ``level_uncertain`` where the names are not sure enough;
            ``level_missing`` where T12-L4 are not all whole in view; ``weights_unreadable`` or
            ``weights_mismatch``; what reading the CT raises.
    """
    from monai_vfx.vertebrae.segmentation.networks import load_networks

    times = [time.monotonic()]
    networks = load_networks(weights, device)
    times.append(time.monotonic())
    image = read_image(volume)
    times.append(time.monotonic())
    probabilities = networks.locate(locator_image(image))
    times.append(time.monotonic())
    predict = partial(networks.refine, image)
    found = segment_structures(probabilities, predict, image, volume.shape, volume.affine)
    times.append(time.monotonic())
    took = [*np.diff(times), times[-1] - times[0]]
    seconds = {name: round(float(n), 3) for name, n in zip(_STEPS, took, strict=True)}
    return replace(found, weights_sha256=networks.sha256, seconds=seconds)


def segment_structures(
    probabilities: Probabilities,
    predict: PatchPredictor,
    image: Image,
    shape: tuple[int, int, int],
    affine: Affine,
) -> VertebraSegmentation:
    """Find and name bodies from what the networks say; :func:`segment` without the networks.

    The probabilities of :data:`anatomy.STRUCTURES` lie on an upright grid; ``predict`` gives those
    of patches. The image tells where the CT reaches; the labels take the CT's grid, whose shape is
    (i, j, k) and whose affine leads to world mm, RAS+.
    """
    spine = find_chain(probabilities)
    bodies, sacrum = _outlined(spine, predict, image)
    places = paint_bodies(bodies, shape, affine)
    whole = [not touches_edge(places, n + 1) for n in range(len(bodies))]
    seen = [  # of a cut body the place of the joints cannot be determined
        Body(body.ribs, body.width_mm) if is_whole else Body(whole=False)
        for body, is_whole in zip(bodies, whole, strict=True)
    ]
    naming = name_bodies(Chain(tuple(seen), sacrum))
    evidence = _evidence(naming, seen, sacrum)
    _refuse_unless_sure(naming, whole, evidence)
    levels = _levels(naming, bodies, seen, whole)
    values = np.array([0, *(VERTEBRAE.get(name, 0) for name in naming.names)], dtype=np.uint8)
    labels: LabelVolume = values[places]  # VerSe numbers instead of places in the chain
    _add_muscles(labels, affine, probabilities, levels)
    return VertebraSegmentation(
        labels=labels,
        levels=levels,
        confidence=naming.confidence,
        threshold=THRESHOLD,
        evidence=evidence,
        weights_sha256={},
        warnings=_warnings(levels),
        seconds={},
    )


def _outlined(
    spine: SpineChain, predict: PatchPredictor, image: Image
) -> tuple[list[RefinedBody], float]:
    """Outline the chain's bodies; those at its ends that prove to be none are left off.

    What lies above a gap is left off, too: a vertebra missed there would shift the names above it
    by a level. A gap is a body that cannot be outlined, or more room than a disc takes. Returned
    with the bodies is the probability that the sacrum lies right below the last one.
    """
    found = refine_bodies(spine.bodies, predict, image.values.shape, image.affine)
    sacrum = spine.sacrum
    while found and found[-1] is None:
        found.pop()
        sacrum = 0.5  # whether what lies below is a vertebra or the sacrum is open now
    chain: list[RefinedBody] = []
    for body in found:
        if body is None or (chain and _between_mm(chain[-1], body) > DISC_MM[1]):
            chain = []
        if body is not None:
            chain.append(body)
    if len(chain) < MIN_BODIES:
        raise CaseRefused(
            "spine_not_found",
            f"{len(chain)} vertebral bodies in a row can be outlined, at least {MIN_BODIES} "
            "are needed",
        )
    return chain, sacrum


def _between_mm(above: RefinedBody, below: RefinedBody) -> float:
    """Return the room in mm that two neighbours leave between them."""
    apart = float(np.linalg.norm(above.centre - below.centre))
    return apart - (above.height_mm + below.height_mm) / 2


def _evidence(naming: Naming, seen: Sequence[Body], sacrum: float) -> Json:
    """Say in plain values what the names rest on."""
    bearing = [
        n for n, body in enumerate(seen) if max((p for p in body.ribs if p), default=0) > 0.5
    ]
    last = bearing[-1] if bearing else None
    in_view = sacrum > 0.5
    free = len(seen) - 1 - last if last is not None and in_view else None
    return {
        "sacrum_in_view": in_view,
        "sacrum_probability": round(sacrum, 4),
        "bodies": len(seen),
        "last_rib": None if last is None else naming.names[last],
        "lumbar_count": free,
        "all_levels_in_view": round(naming.in_chain, 4),
        "confidence_counted_from_neck": round(naming.strict, 4),
        "hypotheses": [
            {
                "thoracic": each.thoracic,
                "lumbar": each.lumbar,
                "highest": each.names[0],
                "lowest": each.names[-1],
                "probability": round(each.probability, 4),
            }
            for each in naming.hypotheses[:_SHOWN]
        ],
    }


def _refuse_unless_sure(naming: Naming, whole: Sequence[bool], evidence: Json) -> None:
    """Refuse a chain whose names are not sure, or that lacks one of T12-L4.

    A chain of cervical bodies alone is no spine: specks of noise look like that.
    """
    view = f"{naming.names[0]} to {naming.names[-1]}"
    if set(naming.names) <= set(CERVICAL):
        raise CaseRefused(
            "spine_not_found",
            f"{len(naming.names)} small bodies in a row are seen, none of the chest or the loin",
        )
    if naming.in_chain < MIN_IN_VIEW:
        raise CaseRefused(
            "level_missing",
            f"{len(naming.names)} vertebral bodies are in view, most likely {view}; T12 to L4 must "
            "all be",
            _WHOLE_VIEW,
        )
    if naming.confidence < THRESHOLD:
        raise CaseRefused(
            "level_uncertain",
            f"{_counted(evidence)}; the probability that T12 to L4 are named right is "
            f"{naming.confidence:.3f}, it must be at least {THRESHOLD:.3f}",
        )
    cut = [
        name
        for name, is_whole in zip(naming.names, whole, strict=True)
        if name in LEVELS and not is_whole
    ]
    if cut:
        raise CaseRefused(
            "level_missing",
            f"{', '.join(cut)} at the edge of the image; {view} are in view",
            _WHOLE_VIEW,
        )


_WHOLE_VIEW = "Use a CT that shows T12 to L4 whole."


def _counted(evidence: Json) -> str:
    """Say in words what was counted."""
    bodies = evidence["bodies"]
    if evidence["lumbar_count"] is not None:
        usual = "" if evidence["lumbar_count"] == 5 else " (usually there are 5)"
        return (
            f"{evidence['lumbar_count']} bodies lie between the last one with ribs and the "
            f"sacrum{usual}"
        )
    if evidence["sacrum_in_view"]:
        return f"the sacrum is in view, but no rib is seen at any of the {bodies} bodies above it"
    if evidence["last_rib"] is not None:
        return f"ribs are seen, but not the sacrum below the {bodies} bodies"
    return f"neither ribs nor the sacrum are seen beside {bodies} bodies"


def _levels(
    naming: Naming, bodies: Sequence[RefinedBody], seen: Sequence[Body], whole: Sequence[bool]
) -> tuple[NamedLevel, ...]:
    """Put together what is known of each body that has a label value."""
    found = []
    for n, (name, body) in enumerate(zip(naming.names, bodies, strict=True)):
        if name not in VERTEBRAE:  # cervical, or the sacrum's first segment
            continue
        right, left = (0.5 if p is None else p for p in seen[n].ribs)
        x, y, z = (float(mm) for mm in body.centre)
        found.append(
            NamedLevel(
                name=name,
                probability=naming.probabilities[n],
                centre_mm=(x, y, z),
                height_mm=body.height_mm,
                depth_mm=body.depth_mm,
                width_mm=body.width_mm,
                volume_ml=body.volume_ml,
                ribs=(right, left),
                complete=whole[n],
            )
        )
    return tuple(found)


def _add_muscles(
    labels: LabelVolume,
    affine: Affine,
    probabilities: Probabilities,
    levels: Sequence[NamedLevel],
) -> None:
    """Label muscle beside T11 to L5, as far as these are in view."""
    beside = [each for each in levels if each.name in ("T11", *LEVELS, "L5")]
    reach = (
        min(each.centre_mm[2] - each.height_mm / 2 for each in beside) - _BEYOND_MM,
        max(each.centre_mm[2] + each.height_mm / 2 for each in beside) + _BEYOND_MM,
    )
    paint_muscles(labels, affine, probabilities, reach)


def _warnings(levels: Sequence[NamedLevel]) -> tuple[CaseWarning, ...]:
    """Return what a reader of a result must know."""
    extra = [each.name for each in levels if each.name in ("T13", "L6")]
    if not extra:
        return ()
    return (CaseWarning("level_extra", f"found: {', '.join(extra)}; check the numbering"),)
