"""Averages of weights, evaluated in place of the weights."""
