"""Opening a CT or a label map: DICOM, NIfTI, NRRD, MetaImage, DICOMweb."""
