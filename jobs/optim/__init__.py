"""Optimizers for large batches."""
