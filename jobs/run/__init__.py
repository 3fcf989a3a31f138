"""A run folder: its records, journal, checkpoints and copies on storage; and processes beside it."""
