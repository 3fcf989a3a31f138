"""The runs of a sweep on Ray: one process trains one after another."""
