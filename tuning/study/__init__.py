"""Studies: which batch size reaches the target soonest, within a budget."""
