"""The optimizers' configs: the options of each, what they mean, and how it is built."""
