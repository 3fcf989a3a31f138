"""RMSprop that passes into momentum SGD, for the first epochs of large batches (arXiv:1711.04325)."""
