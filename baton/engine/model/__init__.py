"""Models: their config, their weights, their forward pass."""
