"""Runs that were trained elsewhere, and are added to what a service shows."""
