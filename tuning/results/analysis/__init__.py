"""What runs say when they are put side by side: pure functions on the tidy table of `largebatch.tuning.results.collect`."""
