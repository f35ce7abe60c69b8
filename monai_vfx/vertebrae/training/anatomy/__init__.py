"""Label maps of anatomies and the synthetic CT painted from them."""
