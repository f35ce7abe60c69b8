"""CT phantoms and patients with a known truth: hospitals for demonstrations and tests.

``patients`` draws the table (no image) from ``populations``, ``people`` and the ``hazard``;
``attainable`` says how well a model can do; ``records`` adds what a hospital notes;
``spine`` and ``torso`` hold the geometry, ``tissue``, ``organs`` and ``bones`` paint it,
``scanner`` adds blur and noise, ``phantom`` joins them for one patient and ``hospital`` writes
everything to files. Nothing here is a model of a real person.
"""

from __future__ import annotations

from monai_vfx.simulation.attainable import Attainable, attainable_aurocs, best_scores
from monai_vfx.simulation.hospital import simulate_hospital
from monai_vfx.simulation.patients import Patient, draw_patients, draw_population
from monai_vfx.simulation.phantom import Phantom, make_phantom

__all__ = [
    "Attainable",
    "Patient",
    "Phantom",
    "attainable_aurocs",
    "best_scores",
    "draw_patients",
    "draw_population",
    "make_phantom",
    "simulate_hospital",
]
