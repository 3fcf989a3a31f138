"""Measurements of one model: time by batch size, and sharpness."""
