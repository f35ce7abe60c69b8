"""How good a score is: discrimination, calibration, decisions, time, each with its interval.

The unit is the patient: every number carries how many patients (``n``) and how many fractures
(``events``) it rests on. :func:`.summary.evaluate_scores` computes everything at once.
"""
