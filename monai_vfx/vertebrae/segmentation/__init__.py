"""Find and name the vertebrae of a CT, without a mask and without a download."""
