"""From a score to an absolute five-year risk, and to the cases that a model should not judge.

``terms`` and ``fitting`` hold the regressions' columns and fits, ``model`` the fitted risk and its
intervals, ``risk`` the correction for sampled controls and the refit, ``assessment`` how it
fits the cohort; ``ensemble``, ``conformal`` and ``outliers`` say when not to trust it.
"""
