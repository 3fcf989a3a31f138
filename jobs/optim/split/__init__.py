"""Optimizers that update a model's hidden matrices by one rule and all else by another."""
