"""Training of the segmentation's two networks."""
