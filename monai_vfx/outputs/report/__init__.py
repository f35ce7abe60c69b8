"""Pictures and pages for people: slice montage, curves, one self-contained HTML page a case.

Everything here takes plain arrays and the documents of ``data_schemas/``; nothing computes a
result, and nothing shows a patient's name or ID.
"""
