"""From a score to an absolute five-year risk, and to the cases that a model should not judge."""
