"""Write what a hospital's systems take: DICOM objects and a FHIR resource of one prediction."""
