"""Vertebral heights, their normal values, and what counts as a fracture."""
