"""What people touch: the command `largebatch`."""
