"""Data sets, the order of samples, augmentation, and batches on the device."""
