"""What runs in a worker of a run on Ray."""
