"""A CT straight from a PACS, and results back to it: DICOMweb as a user agent (PS3.18)."""
