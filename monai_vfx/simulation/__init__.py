"""CT phantoms and patients with a known truth: hospitals for demonstrations and tests.

``patients`` draws the table (no image) from ``populations``, ``people`` and the ``hazard``;
``attainable`` says how well a model can do;
``spine`` and ``torso`` hold the geometry, ``soft_tissue``, ``organs`` and ``bones`` paint it,
``scanner`` adds blur and noise, ``phantom`` joins them for one patient and ``hospital`` writes
everything to files. Nothing here is a model of a real person.
"""
