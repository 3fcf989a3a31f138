"""Sweeps: many runs of one recipe, each batch searched with equal care."""
