"""Optimizers for large batches, and the learning-rate schedules that go with them."""
