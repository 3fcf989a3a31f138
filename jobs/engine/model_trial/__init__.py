"""A stranger's model, tried on a few real samples before training."""
