"""The commands that measure a model, or draw what optimizers do."""
