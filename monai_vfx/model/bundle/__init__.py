"""What the bundle's configs name and MONAI lacks: datasets, handlers and small functions.

Everything here is a part that a config puts together; nothing here knows a whole workflow. A case
that is refused never stops the others.
"""
