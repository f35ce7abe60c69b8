"""The network, its encoders, checkpoints and heat maps."""
