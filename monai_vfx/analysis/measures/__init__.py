"""Measure facts of one case that need its mask and voxels: noise, bone, aorta, fractures, metal."""
