"""The tissues of anatomical label maps, and the segmentation's structure that each belongs to."""

from __future__ import annotations

from enum import IntEnum, unique

from monai_vfx.core.anatomy import STRUCTURES


@unique
class Tissue(IntEnum):
    """What a voxel of a label map consists of (uint8; 0 is the air around the patient).

    Tissues are as fine as attenuation on CT needs them: a bone has its cortex and its marrow, a
    hollow organ its wall and its content. Left and right share a value.
    """

    AIR = 0
    SKIN = 1
    SUBCUTANEOUS_FAT = 2
    VISCERAL_FAT = 3  # Fat inside the wall of the trunk: mesenteric, perirenal, mediastinal
    MUSCLE = 4  # Of the wall, the shoulders, the pelvis and the limbs; the next three are apart
    ERECTOR_SPINAE = 5  # With the multifidus, as TotalSegmentator's "autochthon"
    PSOAS = 6  # With the iliacus below the pelvic brim, as TotalSegmentator's "iliopsoas"
    QUADRATUS = 7
    LUNG = 8
    AIRWAY = 9  # Lumen of the trachea and the main bronchi
    BLOOD = 10  # Heart, caval and portal veins, pulmonary vessels
    AORTA = 11  # Aorta, iliac and visceral arteries
    LIVER = 12
    SPLEEN = 13
    KIDNEY = 14
    KIDNEY_PELVIS = 15
    PANCREAS = 16
    GALLBLADDER = 17
    STOMACH_WALL = 18
    BOWEL_WALL = 19
    BOWEL_CONTENT = 20  # Fluid or oral contrast medium in the stomach and the bowel
    GAS = 21  # In the stomach and the bowel
    FAECES = 22
    BLADDER = 23
    PELVIC_ORGAN = 24  # Uterus or prostate
    CYST = 25  # Of a kidney, the liver or an ovary; large ones fill the abdomen
    ASCITES = 26
    PLEURAL_FLUID = 27
    SOLID_MASS = 28  # Tumour or enlarged lymph nodes
    BREAST = 29
    OESOPHAGUS = 30
    SPINAL_CORD = 31
    CANAL = 32  # Thecal sac
    EPIDURAL_FAT = 33  # In the canal beside the sac and in the foramina
    BODY_CORTEX = 34  # Rim of a vertebral body, endplates, osteophytes
    BODY_TRABECULAR = 35
    DISC = 36
    DISC_VACUUM = 37  # Gas in a disc
    POSTERIOR_CORTEX = 38
    POSTERIOR_TRABECULAR = 39
    SACRUM_CORTEX = 40
    SACRUM_TRABECULAR = 41
    RIB_CORTEX = 42
    RIB_MARROW = 43
    COSTAL_CARTILAGE = 44
    PELVIS_CORTEX = 45
    PELVIS_MARROW = 46
    LIMB_CORTEX = 47  # Sternum, clavicles, scapulae, arms and legs
    LIMB_MARROW = 48
    SKULL = 49
    BRAIN = 50
    JOINT_CARTILAGE = 51  # Of the facet, sacroiliac and hip joints
    CALCIFICATION = 52  # Of vessels, lymph nodes, cartilage; stones
    METAL = 53  # Screws, rods, prostheses, clips
    CEMENT = 54
    COUCH_SHELL = 55
    COUCH_FOAM = 56
    CLOTHING = 57  # Blankets, tubes and cables on the skin


_MEMBERS: dict[str, tuple[Tissue, ...]] = {
    "body": (Tissue.BODY_CORTEX, Tissue.BODY_TRABECULAR, Tissue.CEMENT),
    "disc": (Tissue.DISC, Tissue.DISC_VACUUM),
    "sacrum": (Tissue.SACRUM_CORTEX, Tissue.SACRUM_TRABECULAR),
    "posterior_elements": (Tissue.POSTERIOR_CORTEX, Tissue.POSTERIOR_TRABECULAR),
    "rib": (Tissue.RIB_CORTEX, Tissue.RIB_MARROW),
    "erector_spinae": (Tissue.ERECTOR_SPINAE,),
    "psoas": (Tissue.PSOAS,),
}

STRUCTURE_OF: dict[Tissue, int] = {
    **dict.fromkeys(Tissue, STRUCTURES.index("background")),
    **{
        tissue: STRUCTURES.index(structure)
        for structure, tissues in _MEMBERS.items()
        for tissue in tissues
    },
}
"""Tissue → index in :data:`monai_vfx.core.anatomy.STRUCTURES`.

A voxel that carries a level's number in the map of the vertebrae belongs to "body" whatever its
tissue, as the shaft of a screw in a body does.

>>> STRUCTURE_OF[Tissue.DISC_VACUUM] == STRUCTURES.index("disc"), STRUCTURE_OF[Tissue.METAL]
(True, 0)
"""
