"""Whole jobs on a group's own patients: cohort, models, statistics, report."""
