"""Normalisation layers by groups of samples, exact at any micro-batch and number of workers."""
