"""Branched training: the critical batch along a run, measured from its checkpoints (Merrill et al., arXiv:2505.23971)."""
