"""What a hospital's systems take: DICOM objects and a FHIR resource of one prediction."""

from __future__ import annotations

from monai_vfx.outputs.export import EXPORTS, Export, check_export

__all__ = ["EXPORTS", "Export", "check_export"]
