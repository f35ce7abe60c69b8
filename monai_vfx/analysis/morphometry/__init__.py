"""Heights of vertebral bodies T11-L4, their ratios, and which vertebrae T12-L4 are fractured.

From a mask or a reader's table to heights (:mod:`.heights`, :mod:`.readings`), to ratios
(:mod:`.ratios`), to what is normal (:mod:`.normals`), to verdicts (:mod:`.rules`).
"""

from __future__ import annotations

from monai_vfx.analysis.morphometry.agreement import reader_agreement
from monai_vfx.analysis.morphometry.heights import BodyHeights, measure_body, measure_heights
from monai_vfx.analysis.morphometry.normals import (
    GENANT,
    PAPER,
    NormalValues,
    fit_normals,
    load_normals,
)
from monai_vfx.analysis.morphometry.ratios import add_ratios
from monai_vfx.analysis.morphometry.readings import read_heights, write_heights
from monai_vfx.analysis.morphometry.rules import (
    classify,
    genant_grade,
    incident_fractures,
    patient_statuses,
)

__all__ = [
    "GENANT",
    "PAPER",
    "BodyHeights",
    "NormalValues",
    "add_ratios",
    "classify",
    "fit_normals",
    "genant_grade",
    "incident_fractures",
    "load_normals",
    "measure_body",
    "measure_heights",
    "patient_statuses",
    "read_heights",
    "reader_agreement",
    "write_heights",
]
