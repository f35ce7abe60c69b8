"""How good a score is: discrimination, calibration, decisions, time, each with its interval.

The unit is the patient: every number carries how many patients (``n``) and how many fractures
(``events``) it rests on. :func:`.summary.evaluate_scores` computes everything at once.

These arguments have the same meaning throughout, and anything else raises a ValueError that names
argument, value and what it must be:

* ``y``: (n,), 0 without and 1 with a fracture, both present;
* ``score``: (n,), finite, on any monotone scale, higher meaning more likely to fracture;
* ``positive``: (n,), 0 or 1, whether a decision calls the patient positive;
* ``risk``: (n,), absolute risk of a fracture, in [0, 1];
* ``time``: (n,), years of follow-up, at least 0;
* ``event``: (n,), 0 censored, 1 fracture, 2 death;
* ``horizon_years``: above 0.
"""
