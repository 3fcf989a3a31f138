"""Reads data sets, and makes batches of them: sources, augmentation, processes that read ahead, what tells one set of data from another."""
