"""What trains the branches of a run: the command's own process, one after the other, or Ray's, side by side."""
