"""The printed tables of the paper, recomputed."""
