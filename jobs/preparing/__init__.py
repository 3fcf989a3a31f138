"""Makes a job ready: a spec's data and model are examined, then there is its state before the first step, and its samples."""
