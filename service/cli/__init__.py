"""The command `largebatch`."""
