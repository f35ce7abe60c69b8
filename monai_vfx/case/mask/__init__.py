"""Labels on the CT's grid, from any source: read, mapped, resampled, reduced to bodies."""
