"""Finding and naming the vertebral bodies."""
