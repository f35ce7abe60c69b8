"""Heights of vertebral bodies T11-L4, their ratios, and which vertebrae T12-L4 are fractured.

From a mask or a reader's table to heights (:mod:`.heights`, :mod:`.readings`), to ratios
(:mod:`.ratios`), to what is normal (:mod:`.normals`), to verdicts (:mod:`.rules`).
"""
