"""Checks of what a model or a task keeps beside its weights, from pass to pass."""
