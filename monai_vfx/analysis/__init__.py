"""Judging cohorts: the statistics, the jobs that run them, their figures."""
