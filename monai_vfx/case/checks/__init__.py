"""The checks a case must pass, one a file."""
