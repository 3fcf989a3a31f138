"""Runs of several workers on Ray."""
