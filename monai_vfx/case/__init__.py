"""One CT with its mask and row, and the rules it must pass."""
