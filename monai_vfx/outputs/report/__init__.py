"""Pages and figures for people: case, check and study pages, slice montage, mask preview.

Everything here takes plain arrays and the documents of ``data_schemas/``; it computes no result
and shows no patient's name or ID.
"""
