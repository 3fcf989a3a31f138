"""What pages and answers show of a run: progress, curves, links."""
