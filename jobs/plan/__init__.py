"""Arithmetic alone, decided before step 0: batches, micro-batches, steps, learning rates."""
