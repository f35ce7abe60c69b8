"""Whole jobs: predict, train, check, segment, a study, the demonstration."""
