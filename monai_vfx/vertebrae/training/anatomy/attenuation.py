"""How bright each tissue is on one CT: means and textures in HU, drawn anew for each sample.

Ranges are those of adult CT at 100 to 140 kV. Labelled cortices are rims of one to two millimetres,
thicker than real ones, so that their HU already hold the partial volume of what lies beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.vertebrae.training.anatomy.deformation import OUTSIDE
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue

Values = npt.NDArray[np.floating[Any]]

RANGES: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.AIR: (-1024, -985, 0, 0),
    Tissue.SKIN: (-20, 60, 10, 5),
    Tissue.SUBCUTANEOUS_FAT: (-118, -88, 6, 6),
    Tissue.VISCERAL_FAT: (-114, -78, 8, 12),
    Tissue.MUSCLE: (35, 70, 8, 8),
    Tissue.ERECTOR_SPINAE: (35, 70, 8, 8),
    Tissue.PSOAS: (38, 70, 7, 5),
    Tissue.QUADRATUS: (35, 70, 8, 8),
    Tissue.LUNG: (-890, -700, 40, 50),
    Tissue.AIRWAY: (-1010, -940, 5, 5),
    Tissue.BLOOD: (35, 50, 4, 4),
    Tissue.AORTA: (35, 50, 4, 4),
    Tissue.LIVER: (40, 65, 4, 5),
    Tissue.SPLEEN: (40, 55, 4, 4),
    Tissue.KIDNEY: (26, 40, 6, 8),
    Tissue.KIDNEY_PELVIS: (0, 15, 4, 4),
    Tissue.PANCREAS: (25, 50, 12, 12),
    Tissue.GALLBLADDER: (0, 25, 4, 4),
    Tissue.STOMACH_WALL: (25, 55, 8, 6),
    Tissue.BOWEL_WALL: (20, 55, 12, 12),
    Tissue.BOWEL_CONTENT: (0, 45, 10, 15),
    Tissue.GAS: (-1000, -880, 15, 20),
    Tissue.FAECES: (-150, 60, 60, 80),
    Tissue.BLADDER: (-5, 15, 3, 3),
    Tissue.PELVIC_ORGAN: (35, 65, 8, 10),
    Tissue.CYST: (-5, 30, 4, 4),
    Tissue.ASCITES: (0, 25, 4, 4),
    Tissue.PLEURAL_FLUID: (0, 25, 4, 4),
    Tissue.SOLID_MASS: (25, 70, 12, 20),
    Tissue.BREAST: (-70, 30, 30, 30),
    Tissue.OESOPHAGUS: (20, 50, 20, 20),
    Tissue.SPINAL_CORD: (25, 50, 5, 4),
    Tissue.CANAL: (8, 45, 5, 4),
    Tissue.EPIDURAL_FAT: (-100, -20, 10, 10),
    Tissue.BODY_CORTEX: (260, 680, 60, 40),
    Tissue.BODY_TRABECULAR: (0, 0, 18, 14),
    Tissue.DISC: (60, 110, 8, 10),
    Tissue.DISC_VACUUM: (-700, -150, 80, 60),
    Tissue.POSTERIOR_CORTEX: (300, 900, 80, 60),
    Tissue.POSTERIOR_TRABECULAR: (0, 0, 30, 30),
    Tissue.SACRUM_CORTEX: (260, 700, 70, 50),
    Tissue.SACRUM_TRABECULAR: (0, 0, 22, 22),
    Tissue.RIB_CORTEX: (260, 850, 70, 40),
    Tissue.RIB_MARROW: (0, 0, 30, 25),
    Tissue.COSTAL_CARTILAGE: (60, 150, 12, 15),
    Tissue.PELVIS_CORTEX: (350, 1000, 80, 60),
    Tissue.PELVIS_MARROW: (0, 0, 28, 28),
    Tissue.LIMB_CORTEX: (500, 1300, 90, 60),
    Tissue.LIMB_MARROW: (0, 0, 30, 30),
    Tissue.SKULL: (600, 1500, 100, 80),
    Tissue.BRAIN: (28, 40, 4, 4),
    Tissue.JOINT_CARTILAGE: (40, 130, 15, 10),
    Tissue.CALCIFICATION: (250, 1000, 100, 80),
    Tissue.METAL: (2400, 3500, 100, 50),
    Tissue.CEMENT: (700, 2300, 200, 150),
    Tissue.COUCH_SHELL: (-650, 50, 40, 20),
    Tissue.COUCH_FOAM: (-990, -880, 10, 8),
    Tissue.CLOTHING: (-950, -150, 80, 60),
}
"""Tissue → lowest and highest mean, greatest SD of fine and of lumpy texture, all in HU."""

_ENHANCEMENT: dict[Tissue, dict[str, tuple[float, float]]] = {
    Tissue.AORTA: {"arterial": (130, 350), "portal": (70, 160), "late": (30, 80)},
    Tissue.BLOOD: {"arterial": (10, 120), "portal": (70, 150), "late": (30, 80)},
    Tissue.LIVER: {"arterial": (0, 25), "portal": (35, 70), "late": (15, 45)},
    Tissue.SPLEEN: {"arterial": (30, 110), "portal": (55, 95), "late": (25, 50)},
    Tissue.KIDNEY: {"arterial": (60, 140), "portal": (110, 200), "late": (60, 140)},
    Tissue.KIDNEY_PELVIS: {"arterial": (0, 5), "portal": (0, 40), "late": (200, 1500)},
    Tissue.BLADDER: {"arterial": (0, 5), "portal": (0, 20), "late": (50, 900)},
    Tissue.PANCREAS: {"arterial": (40, 80), "portal": (35, 70), "late": (20, 40)},
    Tissue.STOMACH_WALL: {"arterial": (10, 50), "portal": (20, 60), "late": (15, 40)},
    Tissue.BOWEL_WALL: {"arterial": (10, 50), "portal": (20, 70), "late": (15, 40)},
    Tissue.PELVIC_ORGAN: {"arterial": (5, 40), "portal": (20, 70), "late": (15, 50)},
    Tissue.SOLID_MASS: {"arterial": (0, 80), "portal": (10, 70), "late": (5, 50)},
    Tissue.MUSCLE: {"arterial": (0, 5), "portal": (5, 20), "late": (3, 15)},
    Tissue.BODY_TRABECULAR: {"arterial": (0, 8), "portal": (4, 20), "late": (2, 15)},
}
"""Tissue → phase → what contrast medium adds, in HU."""

_SPONGY: dict[Tissue, tuple[float, float, float]] = {
    Tissue.POSTERIOR_TRABECULAR: (0.9, 1.7, 25),
    Tissue.SACRUM_TRABECULAR: (0.55, 1.05, 25),
    Tissue.RIB_MARROW: (0.5, 1.3, 30),
    Tissue.PELVIS_MARROW: (0.5, 1.2, 30),
    Tissue.LIMB_MARROW: (-0.3, 1.2, 30),
}
"""Spongy bone → its mean as lowest and highest multiple of the vertebral bodies', and an SD."""

_CORTEX = (
    *(Tissue.BODY_CORTEX, Tissue.POSTERIOR_CORTEX, Tissue.SACRUM_CORTEX, Tissue.RIB_CORTEX),
    *(Tissue.PELVIS_CORTEX, Tissue.LIMB_CORTEX, Tissue.SKULL),
)
_AROUND = (Tissue.COUCH_FOAM, Tissue.COUCH_SHELL, Tissue.CLOTHING)
_AERATED = (Tissue.LUNG, Tissue.DISC_VACUUM, *_AROUND)
_MARBLED = (Tissue.MUSCLE, Tissue.ERECTOR_SPINAE, Tissue.QUADRATUS, Tissue.PSOAS)
_FIXED = (Tissue.AIR, Tissue.AIRWAY, Tissue.GAS, Tissue.METAL, Tissue.CEMENT)
_BONE = (*_CORTEX, *_SPONGY, Tissue.BODY_TRABECULAR, Tissue.CALCIFICATION)
_PHASES = (("native", 0.4), ("portal", 0.4), ("arterial", 0.1), ("late", 0.1))


@dataclass(frozen=True)
class Attenuation:
    """Of one scan; each (256 * 64,) float32, at level * 64 + tissue."""

    mean: Values  # HU
    fine: Values  # SD of a fine texture, HU
    lumpy: Values  # SD of a coarse texture, HU


def draw_attenuation(r: np.random.RandomState, wild: float = 0.0) -> Attenuation:
    """Draw one scan's means and textures by tissue and level; with ``wild`` 0 all are plausible.

    ``wild`` is the share of the soft tissues whose mean is drawn from -150 to 250 HU whatever they
    are, so that a network cannot rely on it; above 0 bone varies more as well.
    """
    mean = np.zeros(OUTSIDE + 1)
    texture = np.zeros((2, OUTSIDE + 1))
    for tissue, (low, high, fine, lumpy) in RANGES.items():
        mean[tissue] = r.uniform(low, high)
        texture[:, tissue] = r.uniform(0.3, 1.0, 2) * (fine, lumpy)
    _set_bone(r, mean, wild > 0)
    _enhance(r, mean)
    _set_exceptions(r, mean, texture)
    if wild > 0:
        _set_wild(r, mean, texture, wild)
    mean[OUTSIDE] = -1024 if r.random_sample() < 0.7 else r.uniform(-2048, -1000)
    table = np.tile(mean, (256, 1))
    _vary_levels(r, table)
    textures = np.tile(texture, (1, 256)).astype(np.float32)
    return Attenuation(table.reshape(-1).astype(np.float32), textures[0], textures[1])


def _set_bone(r: np.random.RandomState, mean: Values, wild: bool) -> None:
    """Draw bone as one patient's: dense or osteoporotic everywhere."""
    spongy = float(np.clip(r.normal(145, 60), 20, 330))
    if wild or r.random_sample() < 0.1:
        spongy = r.uniform(-10, 360)
    mean[Tissue.BODY_TRABECULAR] = spongy
    for tissue, (low, high, sd) in _SPONGY.items():
        mean[tissue] = max(spongy * r.uniform(low, high) + r.normal(0, sd), -90)
    # Thin cortices are dim: an osteoporotic spine's rim holds more of its neighbours.
    dim = r.uniform(0.7, 1.1) * (0.8 + 0.2 * np.clip(spongy / 160, 0.2, 1.6))
    for tissue in _CORTEX:
        mean[tissue] = max(mean[tissue] * dim, spongy + r.uniform(50, 180))
    if wild and r.random_sample() < 0.25:
        mean[Tissue.BODY_CORTEX] = spongy + r.uniform(0, 150)


def _enhance(r: np.random.RandomState, mean: Values) -> None:
    """Add contrast medium, in the vessels and in the bowel."""
    phase = r.choice([name for name, _ in _PHASES], p=[share for _, share in _PHASES])
    for tissue, phases in _ENHANCEMENT.items():
        if phase in phases:
            mean[tissue] += r.uniform(*phases[phase])
    for tissue in (Tissue.ERECTOR_SPINAE, Tissue.PSOAS, Tissue.QUADRATUS):
        mean[tissue] += r.uniform(0, 10) if phase != "native" else 0
    if r.random_sample() < 0.3:
        mean[Tissue.BOWEL_CONTENT] = r.uniform(80, 500)
    if r.random_sample() < 0.2:
        mean[Tissue.LIVER] -= r.uniform(15, 55)  # steatosis


def _set_exceptions(r: np.random.RandomState, mean: Values, texture: Values) -> None:
    """Draw fatty muscle and unusual discs and sacs."""
    fat = mean[Tissue.VISCERAL_FAT]
    general = r.beta(1.2, 5.0)
    for tissue in _MARBLED:
        share = np.clip(general * r.uniform(0.4, 1.6), 0, 0.6)
        share *= 0.4 if tissue == Tissue.PSOAS else 1.0
        mean[tissue] += share * (fat - mean[tissue])
        texture[:, tissue] += np.sqrt(share * (1 - share)) * np.array([45.0, 30.0])
    chance = r.random_sample()
    if chance < 0.1:  # degenerate, calcified or injected with contrast medium
        mean[Tissue.DISC] = r.uniform(110, 260)
    elif chance < 0.2:
        mean[Tissue.DISC] = r.uniform(15, 60)
    if r.random_sample() < 0.01:
        mean[Tissue.CANAL] = r.uniform(200, 900)  # myelography


def _set_wild(r: np.random.RandomState, mean: Values, texture: Values, share: float) -> None:
    """Let soft tissues take any mean, and textures any strength."""
    for tissue in Tissue:
        if tissue in _FIXED or tissue in _BONE or r.random_sample() > share:
            continue
        mean[tissue] = r.uniform(-1000, 0) if tissue in _AERATED else r.uniform(-150, 250)
    texture *= np.exp(r.uniform(-1, 1, texture.shape) * np.log(2.5))
    if r.random_sample() < 0.75:  # bone stays the brightest around the spine
        around = max(mean[tissue] for tissue in (*_MARBLED, Tissue.CANAL, Tissue.VISCERAL_FAT))
        for tissue in _CORTEX:
            mean[tissue] = max(mean[tissue], around + r.uniform(40, 200))


def _vary_levels(r: np.random.RandomState, table: Values) -> None:
    """Let neighbouring vertebrae differ, and one be sclerotic or lytic now and then."""
    levels = len(table) - 1
    table[1:, Tissue.BODY_TRABECULAR] += r.normal(0, r.uniform(2, 18), levels)
    table[1:, Tissue.BODY_CORTEX] *= r.uniform(0.85, 1.15, levels)
    odd = r.random_sample(levels) < (0.01 if r.random_sample() < 0.92 else 0.25)
    table[1:, Tissue.BODY_TRABECULAR] += odd * r.uniform(-80, 350, levels)
    np.maximum(table[:, Tissue.BODY_TRABECULAR], -60, out=table[:, Tissue.BODY_TRABECULAR])
