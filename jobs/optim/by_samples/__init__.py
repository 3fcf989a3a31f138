"""Options of optimizers that follow the samples of each step: momentum by its half-life, weight decay by its time scale."""
