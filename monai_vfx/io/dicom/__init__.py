"""DICOM: reading a CT series by its headers, and writing one."""
