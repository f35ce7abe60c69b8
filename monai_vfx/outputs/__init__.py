"""Results as objects for a hospital and as pages for people."""
