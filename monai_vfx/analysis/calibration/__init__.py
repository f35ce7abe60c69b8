"""From a score to an absolute five-year risk, and to the cases that a model should not judge.

``terms`` holds the columns of the regressions, ``model`` the fitted risk and its intervals,
``risk`` the correction for sampled controls and the refit, ``sampling`` who was sampled,
``assessment`` how the risks fit the cohort; ``conformal`` and ``outliers`` tell when not to trust
them.
"""
