"""What a hospital's systems take: DICOM objects and a FHIR resource of one prediction."""

from __future__ import annotations

from monai_vfx.outputs.hospital.export import EXPORTS, OBJECTS, Export, check_export

__all__ = ["EXPORTS", "OBJECTS", "Export", "check_export"]
