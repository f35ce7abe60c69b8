"""Where the mask of a case comes from: given, made by the segmentation, or by a tool."""
