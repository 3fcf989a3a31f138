"""Runs of other programs' loops, written down as run folders of ours."""
