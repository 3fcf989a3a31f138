"""A person's own model, checked on a few real samples before training."""
