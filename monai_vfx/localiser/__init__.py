"""Where the vertebrae of a CT are and which they are, without a mask and without a download."""
